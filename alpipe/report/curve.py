"""The learning curve as geometry: where its points, ticks and labels stand in an SVG of fixed size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 24, 44
LABEL_GAP = 40
"""Pixels between two points that both carry their value in writing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric on the hold-out after training on so many labelled images.

    ``comparable`` is false where the hold-out was not the one of the last round, so that the values cannot be compared.
    """

    round: int
    labelled: int
    value: float
    comparable: bool = True


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement at (x, y) pixels; ``written`` says whether there is room for its value beside it."""

    x: float
    y: float
    measured: Measured
    written: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick at a pixel, with its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The points from left to right, and the ticks of both axes."""

    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def line(self) -> str:
        """The points that can be compared with each other, as the ``points`` of an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points if point.measured.comparable)


def learning_curve(measured: Sequence[Measured]) -> Curve | None:
    """The curve by number of labelled images; None where nothing finite was measured."""
    ordered = sorted((m for m in measured if math.isfinite(m.value)), key=lambda m: (m.labelled, m.round))
    if not ordered:
        return None
    counts, values = [m.labelled for m in ordered], [m.value for m in ordered]
    x_ticks = ticks(*_x_range(min(counts), max(counts)), at_least=1)
    y_ticks = ticks(*_y_range(min(values), max(values)))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_of(count: float) -> float:
        return LEFT + (count - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - LEFT)

    def y_of(value: float) -> float:
        return bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - TOP)

    places = [(x_of(m.labelled), y_of(m.value)) for m in ordered]
    written = _with_room([x for x, _ in places])
    digits = max(1, -math.floor(math.log10(y_ticks[1] - y_ticks[0]) + 1e-9))
    return Curve(
        tuple(Point(x, y, m, i in written) for i, ((x, y), m) in enumerate(zip(places, ordered, strict=True))),
        tuple(Tick(x_of(value), f"{value:g}") for value in x_ticks),
        tuple(Tick(y_of(value), f"{value:.{digits}f}") for value in y_ticks),
    )


def ticks(low: float, high: float, count: int = 5, at_least: float = 0.0) -> list[float]:
    """About ``count`` values in steps of 1, 2 or 5 times a power of ten that enclose [low, high], low < high.

    ``at_least`` is the smallest step.
    """
    raw = max((high - low) / count, at_least)
    power = 10.0 ** math.floor(math.log10(raw) + 1e-9)
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _x_range(low: int, high: int) -> tuple[float, float]:
    """From zero, unless that would squeeze the curve into the right half."""
    start = 0 if low <= high / 2 or low == high else low
    return start, max(high, start + 1)


def _y_range(low: float, high: float) -> tuple[float, float]:
    """At least 0.1 wide, so that noise does not look like a slope; within [0, 1] where the values are."""
    pad = max(0.0, 0.1 - (high - low)) / 2
    bottom, top = low - pad, high + pad
    if low >= 0 and high <= 1:
        bottom, top = max(bottom, 0.0), min(top, 1.0)
    return bottom, top


def _with_room(xs: Sequence[float]) -> set[int]:
    """The points whose values are written: the last, the first, and those between that are not too near."""
    chosen = [len(xs) - 1]
    for i in range(len(xs) - 2, -1, -1):
        near_first = i and xs[i] - xs[0] < LABEL_GAP
        if xs[chosen[-1]] - xs[i] >= LABEL_GAP and not near_first:
            chosen.append(i)
    return set(chosen)
