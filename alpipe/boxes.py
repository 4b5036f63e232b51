"""Arithmetic of boxes: areas, IoU, matching, suppression. Pure functions over xyxy arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alpipe.types import FloatArray


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
