"""A small picture of a few lines, as SVG: both axes logarithmic, readable on light and on dark paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 120, 20, 48
LABEL = 15
"""Upright distance of two labels at the least, so that lines that end close to each other can be told apart."""

COLOURS = ("#7a7a7a", "#0b7285", "#c2410c", "#7048b6", "#2b8a3e")


class Line(NamedTuple):
    """A line and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def draw(what: str, against: str, lines: Sequence[Line]) -> str:
    """Draw lines that are labelled at their ends, and above it where others go on to the right.

    Args:
        what: What the upright axis shows.
        against: What the level axis shows.
    """
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / xs[0]) / math.log(xs[-1] / xs[0])
        up = (math.log10(y) - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" role="img">',
        f"<style>text {{ font-size: 13px }}</style><title>{escape(what)} against {escape(against)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for power in range(low, high + 1):
        x, y = place(xs[0], 10.0**power)
        parts.append(
            f'<line x1="{x:.0f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
            f'<text x="{x - 8:.0f}" y="{y + 4:.1f}" text-anchor="end" fill="#333333">{10.0**power:g}</text>'
        )
    for each in xs:
        x, y = place(each, 10.0**low)
        parts.append(f'<text x="{x:.1f}" y="{y + 20:.0f}" text-anchor="middle" fill="#333333">{each:g}</text>')
    parts.append(f'<text x="{LEFT}" y="14" fill="#333333">{escape(what)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#333333">{escape(against)}</text>'
    )
    at_edge = [line for line in lines if line.points[-1][0] == xs[-1]]
    labels = dict(zip(map(id, at_edge), _apart([place(*line.points[-1])[1] for line in at_edge]), strict=True))
    parts += [_line(line, colour, place, labels.get(id(line))) for line, colour in zip(lines, COLOURS, strict=False)]
    return "\n".join([*parts, "</svg>\n"])


def _apart(ends: Sequence[float]) -> list[float]:
    """Move labels up from the one below where they would cover each other; in the order given."""
    placed: dict[int, float] = {}
    lowest = math.inf
    for index in sorted(range(len(ends)), key=lambda index: -ends[index]):
        lowest = placed[index] = min(ends[index], lowest - LABEL)
    return [placed[index] for index in range(len(ends))]


def _line(line: Line, colour: str, place: object, label: float | None) -> str:
    assert callable(place)
    places = [place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
    x, y = places[-1]
    if label is None:
        where = f'x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle"'
    else:
        where = f'x="{x + 8:.1f}" y="{label + 4:.1f}"'
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'
        f'<text {where} fill="{colour}">{escape(line.name)}</text>'
    )
