"""Images larger than memory: seen in overlapping tiles, whose results are blended.

Along each side a tile weighs nothing in the outer quarter of an overlap, where it lacks the surroundings that the
network looks at, and its weight rises in a straight line over the half between. Weights of all tiles sum to 1 at each
pixel, so that where they agree nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alpipe.learners.training.data import round_up
from alpipe.types import FloatArray, MapPrediction

HALF_FROM = 1 << 26
"""Maps of more values than this are kept in half precision."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """``side``: of the tiles, in network pixels, a multiple of the network's. Neighbours share ``overlap`` pixels at
    least, which is half a side at most.
    """

    side: int
    overlap: int


class Span(NamedTuple):
    """Along one axis, a tile from ``start`` to ``stop``, with the (stop − start,) float32 ``weights`` of its pixels."""

    start: int
    stop: int
    weights: FloatArray


class Tile(NamedTuple):
    """A part of an image."""

    rows: Span
    columns: Span

    @property
    def where(self) -> tuple[slice, slice]:
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)


def tiles(height: int, width: int, tiling: Tiling, multiple: int) -> list[Tile]:
    """The tiles of an image: they cover it, are ``side`` a side at most, and start at multiples of ``multiple``."""
    columns = _spans(width, tiling, multiple)
    return [Tile(row, column) for row in _spans(height, tiling, multiple) for column in columns]


def join(parts: Iterable[tuple[Tile, Any]], height: int, width: int) -> Any:
    """One result of those of the tiles: maps are blended, embeddings averaged by what their tiles weigh."""
    maps = _Maps(height, width)
    total, weight = 0.0, 0.0
    for tile, made in parts:
        if isinstance(made, MapPrediction):
            maps.add(tile, made)
        else:
            share = float(tile.rows.weights.sum() * tile.columns.weights.sum())
            total, weight = total + made * np.float32(share), weight + share
    return total / np.float32(weight) if weight else maps.whole()


class _Maps:
    """Blends maps and their members as they come; no tile is kept."""

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        self._sums: list[npt.NDArray[Any]] = []
        self._last: MapPrediction | None = None

    def add(self, tile: Tile, made: MapPrediction) -> None:
        voices = [made.probs, *(member.probs for member in made.members)]
        if self._last is None:
            shape = (len(made.probs), *self._size)
            self._sums = [np.zeros(shape, np.float16 if math.prod(shape) > HALF_FROM else np.float32) for _ in voices]
        weights = np.outer(tile.rows.weights, tile.columns.weights)
        for whole, probs in zip(self._sums, voices, strict=True):
            whole[:, *tile.where] += probs * weights
        self._last = made

    def whole(self) -> MapPrediction:
        last = self._last
        assert last is not None  # noqa: S101 - an image has a tile
        for whole in self._sums:
            np.minimum(whole, 1, out=whole)  # sums of weights may be over 1 by rounding
        first, *others = self._sums
        members = tuple(MapPrediction(last.item_key, probs, last.size) for probs in others)
        return MapPrediction(last.item_key, first, last.size, members)


def _spans(length: int, tiling: Tiling, multiple: int) -> list[Span]:
    whole, side = round_up(length, multiple) // multiple, max(1, tiling.side // multiple)
    if whole <= side:
        return [Span(0, length, np.ones(length, np.float32))]
    shared = min(math.ceil(tiling.overlap / multiple), side // 2)
    count = math.ceil((whole - shared) / (side - shared))
    starts = [round(at * (whole - side) / (count - 1)) * multiple for at in range(count)]
    stops = [min(start + side * multiple, length) for start in starts]
    inset = shared * multiple / 4
    raw = np.zeros((count, length))
    for at, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        pixels = np.arange(start, stop) + 0.5
        left = pixels - start if start else np.full(len(pixels), np.inf)
        right = stop - pixels if stop < length else np.full(len(pixels), np.inf)
        raw[at, start:stop] = np.clip((np.minimum(left, right) - inset) / max(1.0, 2 * inset), 0, 1)
    raw /= raw.sum(axis=0)
    return [
        Span(start, stop, raw[at, start:stop].astype(np.float32))
        for at, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]
