"""What the recent ends of a function's tasks say together: percentiles by phase, cold share, errors. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from dispatcher.store.records import RecentEnd


class Percentiles(Struct, frozen=True):
    """Milliseconds that half of the tasks needed at most, and that 95 % of them did."""

    p50: float
    p95: float


class PhaseFigures(Struct, frozen=True):
    """Percentiles of the time spent waiting for a node, in each phase of the last attempt, and altogether."""

    queued: Percentiles
    pulling: Percentiles
    starting: Percentiles
    running: Percentiles
    uploading: Percentiles
    total: Percentiles


class Figures(Struct, frozen=True, rename="camel"):
    """What a function's newest finished tasks say of it.

    Attributes:
        sample: How many tasks these figures are made of.
        phases: Null where there are none.
        cold_share: Part of them, 0 to 1, for which a container was started; null where none of them got that far.
        errors: How many ended with each error code; those that have none, but a status of 400 or more, by status.
    """

    sample: int
    phases: PhaseFigures | None
    cold_share: float | None
    errors: dict[str, int]


def figures(ends: Sequence[RecentEnd]) -> Figures:
    """Sum up recent ends, the newest first."""
    started = [end.cold for end in ends if end.cold is not None]
    failed = Counter(end.error or str(end.status) for end in ends if end.status >= 400)
    return Figures(
        sample=len(ends),
        phases=_phases(ends) if ends else None,
        cold_share=sum(started) / len(started) if started else None,
        errors=dict(failed.most_common(5)),
    )


def _phases(ends: Sequence[RecentEnd]) -> PhaseFigures:
    # The wall clock may have jumped between two times of a task.
    return PhaseFigures(
        queued=_percentiles(max(0, (end.assigned_ms or end.finished_ms) - end.issued_ms) for end in ends),
        pulling=_percentiles(end.spans.pulling for end in ends),
        starting=_percentiles(end.spans.starting for end in ends),
        running=_percentiles(end.spans.running for end in ends),
        uploading=_percentiles(end.spans.uploading for end in ends),
        total=_percentiles(max(0, end.finished_ms - end.issued_ms) for end in ends),
    )


def _percentiles(values: Iterable[float]) -> Percentiles:
    """Take percentiles by nearest rank: each is a value that was seen."""
    ranked = sorted(values)
    p50, p95 = (ranked[math.ceil(len(ranked) * part) - 1] for part in (0.5, 0.95))
    return Percentiles(p50, p95)
