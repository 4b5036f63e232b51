"""Entropy per second: the images that promise the most uncertainty resolved for the time they will cost a person.

H / t with t = a + b · n seconds: a to open and look at an image, b to draw one object, n the expected number of objects
(the probabilities of the boxes summed; connected regions of a mask). Where people's times were measured on at least ten
answers a and b are fitted to these by non-negative least squares, lead times beyond five times their median (the window
that was left open) left out; before that they are the options'. Dividing by cost: Settles, Craven & Friedland 2008,
"Active learning with real annotation costs". Counting images instead favours crowded ones, which cost most. An image
without a box has the entropy of one faint box, and costs a. With ``sum`` as aggregation a crowded image counts for all
its boxes; with ``top``, the default, for the most uncertain five, and is mostly not worth its price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from alpipe import rle
from alpipe.acquisition.ranking import measures
from alpipe.acquisition.ranking.aggregate import Aggregation, image_score
from alpipe.acquisition.ranking.topk import features_of
from alpipe.protocols import Candidates, Labelled
from alpipe.types import Boxes, BoxPrediction, FloatArray, Labels, MapPrediction, Masks, Prediction, Task

TASKS = frozenset({Task.DETECT, Task.SEGMENT})
NEEDS_EMBEDDINGS = False
ENOUGH = 10
"""Answers with a measured time from which on these count."""

LEFT_OPEN = 5.0


class Options(Aggregation):
    """How the entropies of boxes or pixels become one score, and what time is expected before it was measured."""

    seconds: float = Field(5.0, gt=0, description="To open and look at an image.")
    seconds_per_object: float = Field(7.0, ge=0, description="To draw one; 7 by extreme clicks, 35 the classic way.")


def build(options: Options) -> EntropyPerSecond:
    """The strategy; its scores are in [0, 1], and per second once they are divided."""
    return EntropyPerSecond(options)


@final
@dataclass(frozen=True, slots=True)
class EntropyPerSecond:
    """Scores by entropy, describes an image by its expected number of objects, and divides when a batch is chosen."""

    options: Options

    def score(self, prediction: Prediction) -> float:
        return image_score(prediction, measures.entropy, self.options)

    def describe(self, prediction: Prediction) -> FloatArray:
        return np.array([expected_objects(prediction, self.options.min_score)], np.float32)

    def rescore(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        a, b = times(candidates.labelled) or (self.options.seconds, self.options.seconds_per_object)
        return candidates.scores / (a + b * features_of(candidates)[:, 0].astype(np.float64))


def expected_objects(prediction: Prediction, min_score: float) -> float:
    """How many objects a person will probably draw."""
    match prediction:
        case BoxPrediction(probs=probs):
            best = probs.max(axis=1, initial=0)
            return float(best[best >= min_score].sum())
        case MapPrediction(probs=probs):
            best = probs.argmax(axis=0)
            return float(sum(_regions(np.asarray(best == name)) for name in range(1, len(probs))))
    return 0.0


def times(labelled: Labelled) -> tuple[float, float] | None:
    """Seconds for an image and for each object, as measured; None where too few answers say how long they took."""
    found = [
        (objects(example.labels), labelled.seconds[example.item.key])
        for example in labelled.examples
        if labelled.seconds.get(example.item.key, 0) > 0
    ]
    if len(found) < ENOUGH:
        return None
    counts, seconds = np.array(found, np.float64).T
    usual = seconds <= LEFT_OPEN * np.median(seconds)
    return line(counts[usual], seconds[usual])


def line(counts: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> tuple[float, float]:
    """a ≥ 0.1 and b ≥ 0 of the least squares line seconds = a + b · counts."""
    least = 0.1  # nobody opens an image in no time
    a, b = np.linalg.lstsq(np.stack([np.ones(len(counts)), counts], axis=1), seconds, rcond=None)[0]
    if a < least and counts.any():
        a, b = least, ((seconds - least) @ counts) / (counts @ counts)
    if b < 0:
        a, b = max(least, float(seconds.mean())), 0.0
    return float(a), float(b)


def objects(labels: Labels) -> int:
    """How many objects were drawn: boxes, or connected regions of masks."""
    match labels:
        case Boxes(names=names):
            return len(names)
        case Masks(by_name=by_name):
            return sum(_regions(rle.decode(mask) > 0) for mask in by_name.values())
    return 0


def _regions(mask: npt.NDArray[np.bool_]) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1
