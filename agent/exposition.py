"""Figures in the text format that Prometheus reads, version 0.0.4; for both programs.

https://prometheus.io/docs/instrumenting/exposition_formats/. What is counted where it happens is a plain number or a
`Histogram`; the text is made when somebody asks for it. Names end in their unit: ``_seconds``, ``_bytes``, ``_total``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import psutil
from msgspec import Struct

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for a call to a store or to an engine."""

Labels = Mapping[str, str]
Kind = Literal["counter", "gauge", "histogram"]


class Histogram:
    """How often a figure was at most each of some bounds. To observe one is a search and three additions."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a figure."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        """Write its samples: a running count for each bound, the sum, the count."""
        count = 0
        for bound, here in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            count += here
            yield f"{name}_bucket{_labels({**labels, 'le': bound})} {count}\n"
        yield f"{name}_sum{_labels(labels)} {_number(self._sum)}\n"
        yield f"{name}_count{_labels(labels)} {count}\n"


Sample = tuple[Labels, float | Histogram]


class Family(Struct, frozen=True):
    """All samples of one name.

    Attributes:
        name: Without the ``fernd_`` before it.
        meaning: One sentence.
    """

    name: str
    kind: Kind
    meaning: str
    samples: list[Sample]


def counter(name: str, meaning: str, samples: float | Iterable[Sample]) -> Family:
    """Describe what only grows while the process lives."""
    return Family(name, "counter", meaning, _samples(samples))


def gauge(name: str, meaning: str, samples: float | Iterable[Sample]) -> Family:
    """Describe what goes up and down."""
    return Family(name, "gauge", meaning, _samples(samples))


def histogram(name: str, meaning: str, samples: Histogram | Iterable[Sample]) -> Family:
    """Describe what is spread over bounds."""
    return Family(name, "histogram", meaning, _samples(samples))


def by(label: str, values: Mapping[str, float | Histogram]) -> list[Sample]:
    """Make samples that one label tells apart."""
    return [({label: name}, value) for name, value in sorted(values.items())]


def render(families: Iterable[Family]) -> bytes:
    """Write families as text."""
    return "".join(line for family in families for line in _family(family)).encode()


def of_process(version: str) -> list[Family]:
    """Describe this process, by the names that every Prometheus client library has for it."""
    process = psutil.Process()
    with process.oneshot():
        cpu = process.cpu_times()
        return [
            gauge("build_info", "The version that runs; always 1.", [({"version": version}, 1)]),
            counter("process_cpu_seconds_total", "CPU time that the process has used.", cpu.user + cpu.system),
            gauge("process_resident_memory_bytes", "Memory that the process holds.", process.memory_info().rss),
            gauge("process_open_fds", "Files and sockets that the process has open.", process.num_fds()),
            gauge("process_start_time_seconds", "When the process started, since the epoch.", process.create_time()),
        ]


def _samples(samples: float | Histogram | Iterable[Sample]) -> list[Sample]:
    if isinstance(samples, int | float | Histogram):
        return [({}, samples)]
    return list(samples)


def _family(family: Family) -> Iterator[str]:
    # The figures of the process itself have the names that dashboards for any program look for.
    name = family.name if family.name.startswith("process_") else f"fernd_{family.name}"
    yield f"# HELP {name} {family.meaning}\n# TYPE {name} {family.kind}\n"
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            yield from value.lines(name, labels)
        else:
            yield f"{name}{_labels(labels)} {_number(value)}\n"


def _number(value: float) -> str:
    return f"{value:.15g}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
