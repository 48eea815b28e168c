"""How long things take here, by revision."""

from __future__ import annotations

from collections import OrderedDict

_AVERAGES = 1024
_WEIGHT = 0.2


class Averages:
    """Running averages of seconds, by revision, of those seen last."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, float] = OrderedDict()

    def note(self, key: str, seconds: float) -> None:
        """Count a measurement, new ones for more than old ones."""
        before = self._values.pop(key, seconds)
        self._values[key] = before + _WEIGHT * (seconds - before)
        if len(self._values) > _AVERAGES:
            self._values.popitem(last=False)

    def get(self, key: str) -> float | None:
        """Give the average of a revision, if it was seen."""
        return self._values.get(key)
