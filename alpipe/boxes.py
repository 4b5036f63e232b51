"""Arithmetic of boxes: areas, IoU, matching, suppression, rotation. Pure functions over arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alpipe.types import Boxes, FloatArray, corners_of

UPRIGHT = 0.01
"""Pixels by which the corners of a box may miss those of the box around it, and it still counts as upright."""

SQUARE = 0.01
"""Share of its longer side by which four points may miss a rectangle's corners: files round their numbers."""


def areas(xyxy: FloatArray) -> FloatArray:
    """(N,) areas in square pixels of (N, 4) boxes; a box turned inside out has area 0."""
    sides = np.clip(xyxy[:, 2:] - xyxy[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, M) intersection over union in [0, 1] of (N, 4) and (M, 4) boxes; 0 where the union has no area."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.clip(bottom_right - top_left, 0, None)
    intersection = sides[..., 0] * sides[..., 1]
    union = areas(a)[:, None] + areas(b)[None, :] - intersection
    overlap: FloatArray = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlap


def match(candidates: FloatArray, truths: FloatArray, threshold: float) -> npt.NDArray[np.int64]:
    """(N,) index of the truth each candidate is matched with, or −1.

    Greedy and one-to-one in the order given (best score first), as in the PASCAL VOC development kit: a candidate
    takes the free truth of highest IoU, if that is at least ``threshold``.
    """
    matched = np.full(len(candidates), -1, np.int64)
    overlaps = iou(candidates, truths)
    for row in range(len(candidates)):
        if not len(truths):
            break
        best = int(np.argmax(overlaps[row]))
        if overlaps[row, best] >= threshold and overlaps[row, best] > 0:
            matched[row] = best
            overlaps[:, best] = -1
    return matched


def suppress(xyxy: FloatArray, scores: FloatArray, threshold: float) -> npt.NDArray[np.int64]:
    """Indices that survive greedy non-maximum suppression, best score first.

    A box falls where its IoU with a better surviving one is over ``threshold``. Equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        order = rest[iou(xyxy[best : best + 1], xyxy[rest])[0] <= threshold]
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
