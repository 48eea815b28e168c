"""The text that Prometheus reads."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.exposition import Histogram, by, counter, gauge, histogram, of_process, render


def test_text() -> None:
    """Each family has its HELP and TYPE before its samples; labels are escaped; a process has plain names."""
    text = render(
        [
            counter("tasks_total", "Tasks.", by("code", {"b": 2, "a": 1})),
            gauge("odd", "Odd labels.", [({"reason": 'a "b"\\\n'}, 0.5)]),
            gauge("process_open_fds", "Files.", 3),
            gauge("nothing", "No sample.", []),
        ]
    ).decode()
    assert text == (
        "# HELP fernd_tasks_total Tasks.\n# TYPE fernd_tasks_total counter\n"
        'fernd_tasks_total{code="a"} 1\nfernd_tasks_total{code="b"} 2\n'
        "# HELP fernd_odd Odd labels.\n# TYPE fernd_odd gauge\n"
        'fernd_odd{reason="a \\"b\\"\\\\\\n"} 0.5\n'
        "# HELP process_open_fds Files.\n# TYPE process_open_fds gauge\nprocess_open_fds 3\n"
        "# HELP fernd_nothing No sample.\n# TYPE fernd_nothing gauge\n"
    )


@given(st.lists(st.floats(0, 100)))
def test_histograms_count_at_most_each_bound(values: list[float]) -> None:
    """A bucket holds all that is at most its bound, the last one everything, and the sum is their sum."""
    bounds = (0.5, 1.0, 10.0)
    seconds = Histogram(bounds)
    for value in values:
        seconds.observe(value)
    lines = dict(
        line.rsplit(" ", 1)
        for line in render([histogram("h", "H.", seconds)]).decode().splitlines()
        if not line.startswith("#")
    )
    for bound in bounds:
        assert int(lines[f'fernd_h_bucket{{le="{bound:g}"}}']) == sum(value <= bound for value in values)
    assert int(lines['fernd_h_bucket{le="+Inf"}']) == int(lines["fernd_h_count"]) == len(values)
    assert math.isclose(float(lines["fernd_h_sum"]), sum(values), rel_tol=1e-9, abs_tol=1e-12)


def test_the_process() -> None:
    """What every dashboard for processes looks for is there, and is this process."""
    text = render(of_process("1.2")).decode()
    assert 'fernd_build_info{version="1.2"} 1\n' in text
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(f"process_{name} ")]
        assert float(value) > 0
