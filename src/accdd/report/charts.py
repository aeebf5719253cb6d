"""Line charts and intervals as SVG that takes its colours from the page: dark or light, on screen and on paper.

Drawn here rather than by matplotlib, whose SVG styles every element in place, which a strict content policy forbids,
and whose colours do not follow the page.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from accdd.text import printable

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 12, 40
POINTS = 400
"""Of a line, at most: more would not be seen."""


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    """Of y's interval."""


def lines(points: Sequence[Point], x: str, y: str, title: str, *, log: bool = False, dots: bool = False) -> Markup:
    """A chart of one line.

    Args:
        points: finite, in the order of x.
        x, y: what the axes say.
        title: what a reader who cannot see it is told.
        log: whether y is drawn by its logarithm, where all of it is above 0.
        dots: mark every point, and its interval.
    """
    few = _thinned(points)
    log = log and min(point.y for point in few) > 0
    heights = [value for point in few for value in (point.y, point.low, point.high) if value is not None]
    across = _Axis(few[0].x, few[-1].x, _LEFT, WIDTH - _RIGHT)
    up = _Axis(min(heights), max(heights), HEIGHT - _BOTTOM, _TOP, log)
    marks = []
    for value in up.ticks():
        at = up(value)
        marks.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            _LEFT, WIDTH - _RIGHT, at, at))  # fmt: skip
        marks.append(_label(_LEFT - 6, at + 4, "end", f"{value:g}"))
    for value in across.ticks():
        marks.append(_label(across(value), HEIGHT - _BOTTOM + 16, "middle", f"{value:g}"))
    marks.append(_label((WIDTH + _LEFT) / 2, HEIGHT - 6, "middle", x))
    marks.append(_label(4, 10, "start", y))
    path = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in few)
    marks.append(Markup('<polyline class="line" points="{}"/>').format(path))
    for point in few if dots else ():
        if point.low is not None and point.high is not None:
            marks.append(Markup('<line class="error" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>').format(
                across(point.x), up(point.low), up(point.high)))  # fmt: skip
        marks.append(Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(
            across(point.x), up(point.y)))  # fmt: skip
    return _svg(HEIGHT, title, marks)


def intervals(rows: Sequence[tuple[str, Point]], title: str) -> Markup:
    """A dot per row with its interval, accuracies in percent from left (0) to right (100); `x` is not looked at."""
    left, pitch, letters = 230, 30, 30
    height = pitch * len(rows) + 34
    across = _Axis(0, 100, left, WIDTH - 60)
    marks = []
    for value in range(0, 101, 20):
        at = across(value)
        marks.append(Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="4" y2="{1}"/>').format(at, height - 26))
        marks.append(_label(at, height - 8, "middle", f"{value} %"))
    for place, (name, point) in enumerate(rows):
        at = pitch * place + 20
        low, high = point.y if point.low is None else point.low, point.y if point.high is None else point.high
        marks.append(_label(left - 10, at + 4, "end", name if len(name) <= letters else name[: letters - 1] + "…"))
        marks.append(Markup('<line class="error" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
            across(low), across(high), at, at))  # fmt: skip
        marks.append(Markup('<circle class="{}" cx="{:.1f}" cy="{}" r="5"/>').format(
            "dot" if place == 0 else "other", across(point.y), at))  # fmt: skip
        marks.append(_label(max(across(high), across(point.y)) + 10, at + 4, "start", f"{point.y:.1f}"))
    return _svg(height, title, marks)


class _Axis:
    """Values from `low` to `high` to pixels from `begin` to `end`."""

    def __init__(self, low: float, high: float, begin: float, end: float, log: bool = False) -> None:
        size = max(abs(low), abs(high), 1e-9)
        if high - low <= 1e-9 * size:  # one value, but for rounding, has no scale of its own
            pad = size / 2 if high else 1.0
            low, high, log = low - pad, high + pad, False
        self.low, self.high, self.begin, self.end, self.log = low, high, begin, end, log

    def __call__(self, value: float) -> float:
        to = math.log if self.log else float
        share = (to(value) - to(self.low)) / (to(self.high) - to(self.low))
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round numbers inside, some five of them."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * size for size in (1, 2, 5, 10) if unit * size >= rough)
        first = math.ceil(self.low / step)
        found = [round(step * number, 12) for number in range(first, math.floor(self.high / step) + 1)]
        if not self.log:
            return found
        powers = [10.0**power * size for power in range(-12, 13) for size in (1, 2, 5)]
        return [value for value in powers if self.low <= value <= self.high] or found


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most `POINTS`, evenly, the first and the last among them."""
    count = len(points)
    if count <= POINTS:
        return list(points)
    return [points[round(place * (count - 1) / (POINTS - 1))] for place in range(POINTS)]


def _label(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, printable(text))


def _svg(height: int, title: str, marks: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, escape(printable(title)), Markup("").join(marks)
    )
