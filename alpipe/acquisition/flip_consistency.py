"""Flip consistency: the images of whose mirror image the model says something else. Scores lie in [0, 1].

Classes and pixels: the Jensen–Shannon divergence between the two distributions, relative to log 2. Boxes: each box of
either image looks for its best partner in the other, the one with the largest o · (1 − JS), o their IoU and JS the
divergence of their class distributions; the box counts p · (1 − o · (1 − JS)) with p the probability of its best class,
so that a sure box that the mirror image lacks counts whole and a faint one little. After Yu, Zhu, Yang & Chen 2022,
"Consistency-based active learning for object detection" (CALD), which uses more augmentations than the flip. An image
without a box on either side scores 0: both say the same. It needs no ensemble, and costs a second scan; it means little
where left and right differ (text, digits) and the learner was trained with ``flip: none``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from alpipe import boxes
from alpipe.acquisition.ranking.aggregate import Aggregation, box_distribution, join_boxes, join_pixels, over_pixels
from alpipe.acquisition.ranking.measures import disagreement
from alpipe.protocols import Scanner
from alpipe.types import BoxPrediction, ClassPrediction, FloatArray, MapPrediction, Mirrored, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False
SCANNER = Scanner.FLIP
"""The round's model looks at each image twice."""


class Options(Aggregation):
    """How the differences of boxes or pixels become one score."""


def build(options: Options) -> FlipConsistency:
    """The strategy; its scores lie in [0, 1]."""
    return FlipConsistency(options)


@final
@dataclass(frozen=True, slots=True)
class FlipConsistency:
    """Scores an image by what changes when it is mirrored."""

    options: Options

    def score(self, prediction: Mirrored) -> float:
        match prediction.plain, prediction.mirrored:
            case ClassPrediction(probs=a), ClassPrediction(probs=b):
                return float(disagreement(np.stack([a, b])[:, None])[0])
            case MapPrediction(probs=c), MapPrediction(probs=d):
                return join_pixels(over_pixels([c, d], disagreement), self.options)
            case BoxPrediction() as plain, BoxPrediction() as mirrored:
                return self._of_boxes(plain, mirrored)
        raise TypeError(f"item {prediction.item_key}: predictions of different kinds of an image and its mirror image")

    def _of_boxes(self, plain: BoxPrediction, mirrored: BoxPrediction) -> float:
        sides = []
        for one in (plain, mirrored):
            counts = one.probs.max(axis=1, initial=0) >= self.options.min_score
            sides.append((one.xyxy[counts], one.probs[counts]))
        changed = np.concatenate([_changes(*sides[0], *sides[1]), _changes(*sides[1], *sides[0])])
        return join_boxes(changed, self.options) if len(changed) else 0.0


def _changes(xyxy: FloatArray, probs: FloatArray, others: FloatArray, their: FloatArray) -> npt.NDArray[np.float64]:
    """(N,) how little each box is found again among the others."""
    sure = np.asarray(probs.max(axis=1, initial=0), np.float64)
    if not len(xyxy) or not len(others):
        return sure
    own, theirs = box_distribution(probs), box_distribution(their)
    overlap = boxes.iou(xyxy, others)
    kept = np.zeros(len(xyxy))
    for at in range(len(xyxy)):
        near = np.flatnonzero(overlap[at] > 0)
        if len(near):
            apart = disagreement(np.stack([np.repeat(own[at : at + 1], len(near), axis=0), theirs[near]]))
            kept[at] = (overlap[at, near] * (1 - apart)).max()
    return np.asarray(np.clip(sure * (1 - kept), 0, 1), np.float64)
