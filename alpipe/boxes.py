"""Arithmetic of boxes: areas, IoU, matching, suppression, rotation. Pure functions over xyxy arrays.

IoU is computed in blocks that stay in the processor's cache, and of many boxes only where they may overlap: a matrix
of N×M needs its own memory and no more, and ``best`` not even that. Boxes in float64 are compared in float64, bit for
bit as pycocotools does it; others in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alpipe.types import Boxes, FloatArray, corners_of

UPRIGHT = 0.01
"""Pixels by which the corners of a box may miss those of the box around it, and it still counts as upright."""

SQUARE = 0.01
"""Share of its longer side by which four points may miss a rectangle's corners: files round their numbers."""

BLOCK = 1 << 14
"""Pairs of boxes that are looked at together: the block's intermediate values fit a core's cache."""

ROWS = 128
"""Boxes that are sorted beside each other and compared with the same others."""

SORTED_FROM = 1 << 18
"""Pairs from which it pays to sort the boxes first, and to compare only those that may overlap."""


class Best(NamedTuple):
    """Of each of N boxes the other that it overlaps most: ``iou`` (N,) in [0, 1], and ``which`` (N,), −1 where it
    overlaps none.
    """

    iou: FloatArray
    which: npt.NDArray[np.int64]


def areas(xyxy: FloatArray) -> FloatArray:
    """(N,) areas in square pixels of (N, 4) boxes; a box turned inside out has area 0."""
    return np.asarray(_areas(xyxy), np.float32)


def iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, M) intersection over union in [0, 1] of (N, 4) and (M, 4) boxes; 0 where the union has no area.

    float32, or float64 where boxes of either side are float64.
    """
    shape, dtype = (len(a), len(b)), _dtype(a, b)
    if len(a) * len(b) < SORTED_FROM:
        overlap: FloatArray = np.empty(shape, dtype)
        for _ in _blocks(a, b, overlap):
            pass
        return overlap
    # NumPy would ask for huge pages: where memory is in pieces Linux moves others about to make them, for longer than
    # all the arithmetic takes
    overlap = np.frombuffer(bytearray(len(a) * len(b) * dtype.itemsize), dtype).reshape(shape)
    for rows, columns in _near(a, b):
        for some, others, block in _blocks(a[rows], b[columns]):
            row, column = np.nonzero(block != 0)  # of truth values it is quicker
            overlap[rows[some][row], columns[others][column]] = block[row, column]
    return overlap


def best(a: FloatArray, b: FloatArray) -> Best:
    """Of each box of ``a`` (N, 4) the one of ``b`` (M, 4) of highest IoU, the first of equal ones; of N×M pairs only
    a block is held at a time, so that millions of boxes can be compared.
    """
    found = Best(np.zeros(len(a), _dtype(a, b)), np.full(len(a), -1, np.int64))
    for rows, columns, block in _blocks(a, b):
        at = block.argmax(axis=1)
        value = block[np.arange(len(at)), at]
        higher = value > found.iou[rows]
        found.which[rows] = np.where(higher, at + columns.start, found.which[rows])
        found.iou[rows] = np.where(higher, value, found.iou[rows])
    return found


def match(candidates: FloatArray, truths: FloatArray, threshold: float) -> npt.NDArray[np.int64]:
    """(N,) index of the truth each candidate is matched with, or −1.

    Greedy and one-to-one in the order given (best score first), as COCOeval does it: a candidate takes the free truth
    of highest IoU, the last of equal ones, if that is at least ``threshold`` and they overlap at all.
    """
    overlaps = iou(candidates, truths)
    rows, columns = np.nonzero((overlaps >= threshold) & (overlaps > 0))  # few: the rest need not be looked at
    return deal(rows, columns, overlaps[rows, columns], len(candidates), len(truths))


def deal(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], overlap: FloatArray, candidates: int, truths: int
) -> npt.NDArray[np.int64]:
    """(candidates,) index of the truth each has, or −1, of the (P,) pairs that may come together, sorted by row: each
    candidate in turn takes the free truth of highest overlap, the last of equal ones.
    """
    matched = np.full(candidates, -1, np.int64)
    free = np.ones(truths, bool)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    for row, part in zip(rows[starts].tolist(), np.split(np.arange(len(rows)), starts[1:]), strict=False):
        part = part[free[columns[part]]][::-1]
        if len(part):
            matched[row] = columns[part[np.argmax(overlap[part])]]
            free[matched[row]] = False
    return matched


def suppress(xyxy: FloatArray, scores: FloatArray, threshold: float) -> npt.NDArray[np.int64]:
    """Indices that survive greedy non-maximum suppression, best score first.

    A box falls where its IoU with a better surviving one is over ``threshold``. Equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best_, rest = order[0], order[1:]
        keep.append(best_)
        order = rest[iou(xyxy[best_ : best_ + 1], xyxy[rest])[0] <= threshold]
    return np.asarray(keep, np.int64)


def pick(boxes: Boxes, rows: list[int], xyxy: FloatArray) -> Boxes:
    """Those rows of the boxes, with new upright boxes (len(rows), 4); those that people turned keep their corners."""
    names = tuple(boxes.names[row] for row in rows)
    if boxes.corners is None:
        return Boxes(xyxy, names)
    corners = np.where(boxes.rotated[rows][:, None, None], boxes.corners[rows], corners_of(xyxy))
    return Boxes(xyxy, names, corners)


def turn(x: float, y: float, width: float, height: float, degrees: float) -> npt.NDArray[np.float64]:
    """(4, 2) corners of a box turned clockwise about its top left corner (x, y), clockwise from that corner.

    Exact at multiples of a right angle, where sine and cosine are not.
    """
    quarters, rest = divmod(degrees % 360.0, 90.0)
    angle = np.deg2rad(rest)
    across, down = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    for _ in range(int(quarters)):
        across, down = down, -across
    corners = np.stack([0 * across, across * width, across * width + down * height, down * height])
    return np.asarray(corners + np.array([x, y]), np.float64)


def sides(corners: npt.NDArray[np.floating]) -> tuple[float, float, float, float, float]:
    """(x, y, width, height, degrees in [0, 360)) that ``turn`` makes these (4, 2) corners of."""
    first, second, _, last = corners.astype(np.float64)
    across, down = second - first, last - first
    degrees = float(np.rad2deg(np.arctan2(across[1], across[0])) % 360.0)
    return float(first[0]), float(first[1]), float(np.hypot(*across)), float(np.hypot(*down)), degrees


def is_upright(corners: npt.NDArray[np.floating]) -> bool:
    """Whether the (4, 2) corners are those of the upright box around them, whichever comes first."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    off = np.minimum(np.abs(corners - low), np.abs(corners - high))
    return bool(off.max() <= UPRIGHT)


def as_rectangle(points: npt.NDArray[np.floating]) -> FloatArray | None:
    """(4, 2) float32 corners, clockwise from the first point, if the points are those of a rectangle that is not
    upright; else None.
    """
    if points.shape != (4, 2) or not np.isfinite(points).all() or is_upright(points):
        return None
    a, b, c, d = points.astype(np.float64)
    across, down = b - a, d - a
    longer = max(float(np.hypot(*across)), float(np.hypot(*down)))
    square = abs(float(np.hypot(*(c - a))) - float(np.hypot(*(d - b)))) <= SQUARE * longer
    if not square or float(np.hypot(*(a + c - b - d))) > 2 * SQUARE * longer:
        return None
    spin = float(across[0] * down[1] - across[1] * down[0])
    if abs(spin) < 1e-6:
        return None
    return np.ascontiguousarray(points if spin > 0 else points[[0, 3, 2, 1]], np.float32)


def _dtype(a: FloatArray, b: FloatArray) -> np.dtype[np.floating]:
    dtype: np.dtype[np.floating] = np.result_type(a.dtype, b.dtype, np.float32)
    return dtype


def _areas(xyxy: npt.NDArray[Any]) -> npt.NDArray[Any]:
    sides = np.clip(xyxy[:, 2:] - xyxy[:, :2], 0, None)
    area: npt.NDArray[Any] = sides[:, 0] * sides[:, 1]
    return area


def _near(a: FloatArray, b: FloatArray) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(rows, columns) of the boxes that may overlap: some of ``a`` beside each other, those of ``b`` around them."""
    in_a, in_b = a[:, 0].argsort(), b[:, 0].argsort()
    left, widest = b[in_b, 0], (b[:, 2] - b[:, 0]).max()
    for start in range(0, len(a), ROWS):
        rows = in_a[start : start + ROWS]
        first = np.searchsorted(left, a[rows[0], 0] - widest)
        yield rows, in_b[first : np.searchsorted(left, a[rows, 2].max(), "right")]


def _blocks(
    a: FloatArray, b: FloatArray, whole: FloatArray | None = None
) -> Iterator[tuple[slice, slice, npt.NDArray[Any]]]:
    """(rows, columns, their IoUs) block by block, row by row of blocks; written into ``whole`` where it is given, else
    into memory that the next block uses again.
    """
    dtype = _dtype(a, b)
    wide = max(1, min(len(b), 1 << 12))
    high = max(1, BLOCK // wide)
    x1, y1, x2, y2 = (np.ascontiguousarray(side, dtype) for side in b.T)
    a_areas, b_areas = (_areas(side.astype(dtype, copy=False)) for side in (a, b))
    b_areas = b_areas + np.finfo(dtype).tiny  # changes no area but 0: without any, the intersection is 0 too
    across, down, kept = (np.empty((high, wide), dtype) for _ in range(3))
    for top in range(0, len(a), high):
        rows = slice(top, min(top + high, len(a)))
        one = a[rows].astype(dtype, copy=False)[:, :, None]
        for left in range(0, len(b), wide):
            columns = slice(left, min(left + wide, len(b)))
            part = np.s_[: rows.stop - top, : columns.stop - left]
            w, h = across[part], down[part]
            made = kept[part] if whole is None else whole[rows, columns]
            np.subtract(np.minimum(one[:, 2], x2[columns], out=w), np.maximum(one[:, 0], x1[columns], out=h), out=w)
            np.maximum(w, 0, out=w)
            np.subtract(np.minimum(one[:, 3], y2[columns], out=h), np.maximum(one[:, 1], y1[columns], out=made), out=h)
            np.maximum(h, 0, out=h)
            np.multiply(w, h, out=w)
            np.subtract(np.add(a_areas[rows, None], b_areas[columns], out=h), w, out=h)
            np.divide(w, h, out=made)
            yield rows, columns, made
