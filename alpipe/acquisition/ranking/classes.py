"""What a prediction says of each class: how much of the uncertainty is its, and whether it is there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.ranking.aggregate import Aggregation, box_distribution, over_pixels
from alpipe.acquisition.ranking.measures import Measure
from alpipe.types import BoxPrediction, ClassPrediction, FloatArray, MapPrediction, Prediction


def shares(prediction: Prediction, measure: Measure, options: Aggregation) -> FloatArray:
    """(C,) float32 in [0, 1]: the part of the image's uncertainty that belongs to each class.

    Σ_u m(u) · p_c(u) / Σ_u m(u) over the image, its boxes that reach ``min_score``, or its pixels u, with p_c(u) the
    probability of the class there and m a measure. With boxes and pixels the sum over the classes stays under 1, since
    a part belongs to the background. Nothing is uncertain, or no box: all 0.
    """
    match prediction:
        case ClassPrediction(probs=probs):
            return probs.astype(np.float32) * np.float32(measure(probs[None])[0] > 0)
        case BoxPrediction(probs=probs):
            units = box_distribution(probs[probs.max(axis=1, initial=0) >= options.min_score])
            weights = measure(units)
        case MapPrediction(probs=probs):
            units = probs.reshape(len(probs), -1).T.astype(np.float32)
            weights = over_pixels([probs], lambda voices: measure(voices[0]))
    total = weights.sum()
    if total <= 0:
        return np.zeros(units.shape[1] - 1, np.float32)
    return np.asarray((weights / total) @ units[:, 1:], np.float32)


def present(prediction: Prediction, min_score: float, min_pixels: float) -> FloatArray:
    """(C,) float32, 1 for each class that is predicted in the image, else 0.

    Classes: the most probable one. Boxes: those with a box of probability ``min_score`` or more. Maps: those that are
    the most probable in at least the share ``min_pixels`` of the pixels, the background left out.
    """
    match prediction:
        case ClassPrediction(probs=probs):
            return np.asarray(np.arange(len(probs)) == probs.argmax(), np.float32)
        case BoxPrediction(probs=probs):
            return np.asarray(probs.max(axis=0, initial=0) >= min_score, np.float32)
        case MapPrediction(probs=probs):
            best = probs.argmax(axis=0)
            counts = np.bincount(best.ravel(), minlength=len(probs))[1:]
            return np.asarray((counts > 0) & (counts >= min_pixels * best.size), np.float32)


def quotas(k: int, share: float, amounts: FloatArray) -> npt.NDArray[np.int64]:
    """(C,) how many of k go to each class: ``share`` of k, divided evenly over the classes of which there is anything,
    the remainder to the rarest. ``amounts`` (C,) ≥ 0 say how much there is of each.
    """
    rarest_first = np.argsort(amounts, kind="stable")
    wanted = rarest_first[amounts[rarest_first] > 0]
    each, budget = np.zeros(len(amounts), np.int64), round(share * k)
    if len(wanted):
        each[wanted] = budget // len(wanted)
        each[wanted[: budget % len(wanted)]] += 1
    return each
