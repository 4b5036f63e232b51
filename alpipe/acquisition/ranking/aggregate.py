"""One number for an image out of the uncertainties of its boxes or pixels.

Given values in [0, 1], the result lies in [0, 1] too:

    top    boxes: the sum of the ``top_boxes`` largest, over ``top_boxes``: missing boxes count as 0, so that a further
           box never lowers the score; pixels: the mean of the ``top_pixels`` share with the largest values
    mean   the mean of all; images with much that is certain sink, and empty background dilutes a map
    max    the largest; one odd box or pixel decides
    sum    s / (1 + s) of the sum s: ranks as the sum does; favours crowded images (boxes) and large ones (pixels)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from alpipe.acquisition.ranking.measures import Measure
from alpipe.protocols import PluginOptions
from alpipe.types import BoxPrediction, ClassPrediction, FloatArray, MapPrediction, Prediction

PIXELS_AT_ONCE = 1 << 18


class Aggregation(PluginOptions):
    """How the uncertainties of boxes or pixels become one score; for whole-image classes there is nothing to join."""

    aggregation: Literal["top", "mean", "max", "sum"] = Field("top", description="How values are joined.")
    top_boxes: int = Field(5, ge=1, description="With 'top': how many of the most uncertain boxes count.")
    top_pixels: float = Field(0.05, gt=0, le=1, description="With 'top': the share of pixels that counts.")
    min_score: float = Field(0.05, ge=0, lt=1, description="Boxes whose best class is less probable are ignored.")


def image_score(prediction: Prediction, measure: Measure, options: Aggregation) -> float:
    """The uncertainty of one image in [0, 1].

    Classes: the measure of the class probabilities. Maps: that of each pixel's distribution over the background and
    the classes, joined, at the resolution of the map. Boxes: that of each box's ``box_distribution``, joined over the
    boxes whose best class reaches ``min_score``. An image without such a box scores as one with a single box of
    probability ``min_score``, since that is what is known of it: nothing more probable is there.
    """
    match prediction:
        case ClassPrediction(probs=probs):
            return float(measure(probs[None])[0])
        case MapPrediction(probs=probs):
            return join_pixels(over_pixels([probs], lambda voices: measure(voices[0])), options)
        case BoxPrediction(probs=probs):
            seen = probs[probs.max(axis=1, initial=0) >= options.min_score]
            if not len(seen):
                seen = np.zeros((1, max(1, probs.shape[1])), np.float32)
                seen[0, 0] = options.min_score
            return join_boxes(measure(box_distribution(seen)), options)


def box_distribution(probs: FloatArray) -> FloatArray:
    """(N, 1 + C) distributions that sum to 1, background first, from (N, C) probabilities of each class by itself.

    The box is an object with the probability of its best class, p = max pᵢ; this is shared among the classes in
    proportion, p · pᵢ / Σ pⱼ, and 1 − p is left for the background. With one class this is (1 − p, p), so that the
    entropy is the binary entropy of the box; with several, both doubt that there is an object and doubt which one
    it is count. Boxes that are certainly nothing are certain.
    """
    p = probs.max(axis=1, keepdims=True)
    total = probs.sum(axis=1, keepdims=True)
    shared = np.divide(p * probs, total, out=np.zeros_like(probs), where=total > 0)
    return np.concatenate([1 - p, shared], axis=1)


def over_pixels(
    maps: Sequence[npt.NDArray[np.floating]], measure: Callable[[FloatArray], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """(h · w,) what a measure of (T, N, C) distributions gives for each pixel of T maps (C, h, w); some at a time, so
    that huge maps take little memory beside themselves.
    """
    flat = [one.reshape(len(one), -1) for one in maps]
    values = np.empty(flat[0].shape[1])
    for start in range(0, values.size, PIXELS_AT_ONCE):
        part = slice(start, start + PIXELS_AT_ONCE)
        values[part] = measure(np.stack([one[:, part].T for one in flat]).astype(np.float32, copy=False))
    return values


def join_pixels(values: npt.NDArray[np.float64], options: Aggregation) -> float:
    """One number in [0, 1] out of those of all pixels."""
    return join(values, options, max(1, round(options.top_pixels * values.size)))


def join_boxes(values: npt.NDArray[np.float64], options: Aggregation) -> float:
    """One number in [0, 1] out of those of all boxes, one at least."""
    return join(values, options, options.top_boxes)


def join(values: npt.NDArray[np.float64], options: Aggregation, top: int) -> float:
    """One number in [0, 1] out of (N,) values in [0, 1], N ≥ 1; ``top`` is how many count with 'top'."""
    match options.aggregation:
        case "top":
            largest = values if top >= values.size else np.partition(values, values.size - top)[-top:]
            return float(largest.sum() / top)
        case "mean":
            return float(values.mean())
        case "max":
            return float(values.max())
        case "sum":
            return float(values.sum() / (1 + values.sum()))
