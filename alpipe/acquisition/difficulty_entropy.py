"""Class-difficulty-weighted entropy: entropy counts more for classes that the model still finds hard. Scores in [0,
1.2].

H · (1 + Σ_c s_c (w_c − 1)), H the image's entropy and s_c class c's share of it; w_c = 1 + αβ ln(1 + (e^{1/α} − 1)
d_c), α = 0.3, β = 0.2, and the difficulty d_c = 1 − q_c. q_c is the mean over the labelled objects of c of p^0.6 ·
IoU^0.4, p the probability of c in the best predicted box over it (0 where none is), for whole-image classes of p^0.6.
Yang, Huang & Crowley 2024, "Plug and play active learning for object detection" (PPAL), which keeps q as a running mean
during the training; here it is that of the trained model on what it was trained on, so it is on the side of the easy. A
class that was never labelled has q = 0. With the partner ``kmedoids`` this is PPAL's choice but for its distance of
images. An image without a box has the entropy of one faint box, and weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from alpipe import boxes
from alpipe.acquisition.ranking import measures
from alpipe.acquisition.ranking.aggregate import Aggregation, image_score
from alpipe.acquisition.ranking.classes import shares
from alpipe.acquisition.ranking.topk import features_of
from alpipe.protocols import Candidates, Labelled
from alpipe.types import Boxes, BoxPrediction, ClassPrediction, FloatArray, ImageClass, Labels, Prediction, Task

TASKS = frozenset({Task.CLASSIFY, Task.DETECT})
NEEDS_EMBEDDINGS = False
ALPHA, BETA, XI = 0.3, 0.2, 0.6


class Options(Aggregation):
    """How the entropies of boxes become one score."""


def build(options: Options) -> DifficultyEntropy:
    """The strategy; its scores lie in [0, 1], and in [0, 1.2] once they are weighted."""
    return DifficultyEntropy(options)


@final
@dataclass(frozen=True, slots=True)
class DifficultyEntropy:
    """Scores by entropy, describes an image by each class's share of it, and weighs these when a batch is chosen."""

    options: Options

    def score(self, prediction: Prediction) -> float:
        return image_score(prediction, measures.entropy, self.options)

    def describe(self, prediction: Prediction) -> FloatArray:
        return shares(prediction, measures.entropy, self.options)

    def rescore(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        features = features_of(candidates).astype(np.float64)
        weights = class_weights(quality(candidates.labelled, features.shape[1]))
        return np.asarray(candidates.scores * (1 + features @ (weights - 1)), np.float64)


def class_weights(q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(C,) w_c in [1, 1.2] of (C,) mean qualities in [0, 1]: the harder the class, the larger."""
    return np.asarray(1 + ALPHA * BETA * np.log(1 + (np.exp(1 / ALPHA) - 1) * (1 - q)), np.float64)


def quality(labelled: Labelled, classes: int) -> npt.NDArray[np.float64]:
    """(C,) q_c in [0, 1]: how well the model finds the labelled objects of each class; 0 for a class without any."""
    total, count = np.zeros(classes), np.zeros(classes)
    index = {name: at for at, name in enumerate(labelled.classes[:classes])}
    for example, prediction in zip(labelled.examples, labelled.scan(), strict=True):
        for name, value in _qualities(prediction, example.labels, index):
            total[index[name]] += value
            count[index[name]] += 1
    return np.divide(total, count, out=np.zeros(classes), where=count > 0)


def _qualities(prediction: Prediction, truth: Labels, index: dict[str, int]) -> list[tuple[str, float]]:
    match prediction, truth:
        case ClassPrediction(probs=probs), ImageClass(name=name) if name in index:
            return [(name, float(probs[index[name]]) ** XI)]
        case BoxPrediction(xyxy=xyxy, probs=probs), Boxes(xyxy=true, names=names):
            overlap = boxes.iou(true, xyxy)
            return [
                (name, float((probs[:, index[name]] ** XI * row ** (1 - XI)).max(initial=0)))
                for name, row in zip(names, overlap, strict=True)
                if name in index
            ]
    return []
