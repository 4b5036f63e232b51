"""Hard negatives: what a model takes for an object on labelled images although none is there.

As R-CNN mines (Girshick et al. 2014: a region that overlaps every true box by less than 0.3 is a negative), doubles
removed at IoU 0.7 as in OHEM (Shrivastava et al. 2016), at most three negatives to one positive as in SSD (Liu et al.
2016). The bank that earlier rounds filled is looked at with each new model: what it no longer falls for is let go, as
in the bootstrapping of Felzenszwalb et al. (2010, section 4.3), and what is there already is not found anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from alpipe import boxes, rle
from alpipe.errors import DataError
from alpipe.mining.findings import Findings, findings
from alpipe.mining.options import MiningOptions
from alpipe.mining.trust import Trust
from alpipe.types import (
    BankEntry,
    Boxes,
    Example,
    FloatArray,
    ImageClass,
    Masks,
    Negative,
    NegativeState,
    Prediction,
    Split,
    Task,
)

__all__ = ["Mined", "MiningOptions", "mine", "still_negative"]

SAME_REGION = 0.5
"""IoU from which two regions are the same one."""


@dataclass(frozen=True, slots=True)
class Mined:
    """``new`` hard negatives, best score first; ``doubts`` those that may be objects, with the reason, best score
    first: they are none of ``new`` and take no room from others. ``scores`` of the bank's entries by key, 0 where
    nothing of their class is found there; ``still_hard`` the keys of those that the model falls for; ``evicted`` of
    those that are let go, having been easy for long enough, or for harder ones. ``sure`` is the score down to which a
    quarter of what the model finds is labelled.
    """

    new: list[Negative]
    doubts: dict[Negative, str]
    scores: dict[str, float]
    still_hard: list[str]
    evicted: list[str]
    sure: float


Guard = Callable[[Sequence[Negative], float], Mapping[Negative, str]]
"""Those of the candidates that may be objects, with the reason, by the score from which the model is sure."""


def no_doubt(candidates: Sequence[Negative], sure: float) -> Mapping[Negative, str]:
    """The guard where every object is labelled."""
    del candidates, sure
    return {}


def mine(
    task: Task,
    predictions: Iterable[Prediction],
    truths: Mapping[str, Example],
    classes: Sequence[str],
    options: MiningOptions,
    bank: Sequence[BankEntry] = (),
    round_: int = 0,
    *,
    mined_in: Collection[int] | None = None,
    guard: Guard = no_doubt,
) -> Mined:
    """The hard negatives in predictions on labelled images, and what becomes of those in the bank in this round.
    ``mined_in`` are the rounds in which the bank was mined before (None: in each).

    detect: boxes of at least ``min_score`` whose IoU with each true box, of whatever class, is below ``max_iou``.
    segment: connected regions of a predicted class, by their mean probability, of which, and of the box around them,
    less than ``max_iou`` lies on true objects of any class (so a part of an object is none, nor is a ring around one).
    classify: the whole image where the most probable class is wrong. Regions of the bank are not found again, those
    that a person was asked about whatever the class.

    What the ``guard`` doubts is left out. The hardest of the other new ones and of the old are kept, ``per_image`` in
    an image, ``per_class`` of a class, and in all ``ratio`` times the true objects in ``truths`` (boxes, connected
    regions, images), or times 1 where there are none; what a person confirmed stays in any case. Old ones count by the
    score that they were found with where the new one is lower: a model no longer falls for what it learnt, but the
    next one would if that were gone. The order of the predictions has no influence.

    Raises DataError for a prediction on an item without truth or of the hold-out, which is never trained on, and for
    labels or predictions that do not fit the task.
    """
    by_item: dict[str, list[BankEntry]] = {}
    for entry in bank:
        by_item.setdefault(entry.negative.item_key, []).append(entry)
    new: list[Negative] = []
    scores: dict[str, float] = {}
    trust = Trust()
    for prediction in predictions:
        found = findings(task, prediction, _truth(prediction, truths), classes, options.min_area)
        known = by_item.get(prediction.item_key, [])
        scores |= {entry.key: _score(entry.negative, found, classes) for entry in known}
        new += _candidates(prediction.item_key, found, known, classes, options)
        trust.add(found, options.min_score)
    positives = sum(_objects(example) for example in truths.values())
    still_hard = [key for key, score in scores.items() if score >= options.min_score]
    # what a mining of this very round said before does not count: it may have been another model's
    last = {entry.key: min(entry.hard_round, round_ - 1) for entry in bank} | dict.fromkeys(still_hard, round_)
    old = [entry for entry in bank if entry.state in (NegativeState.HARD, NegativeState.CONFIRMED)]
    earlier = range(round_) if mined_in is None else sorted({number for number in mined_in if number < round_})
    misses = {key: sum(number > hard for number in earlier) + (hard < round_) for key, hard in last.items()}
    stay = [
        (entry, max(entry.negative.score, scores.get(entry.key, entry.score)))
        for entry in old
        if entry.state is NegativeState.CONFIRMED or misses[entry.key] < options.patience
    ]
    sure = trust.score()
    doubts = dict(sorted(guard(new, sure).items(), key=lambda one: _rank(one[0], one[0].score)))
    kept_new, kept_old = _hardest([one for one in new if one not in doubts], stay, options, positives)
    evicted = [entry.key for entry in old if entry.key not in kept_old]
    return Mined(kept_new, doubts, scores, still_hard, evicted, sure)


def still_negative(
    negatives: Iterable[Negative], examples: Iterable[Example], options: MiningOptions
) -> list[Negative]:
    """Those on images that are in ``examples`` and that no object of their labels, as they are now, contradicts."""
    truths = {example.item.key: example.labels for example in examples}
    kept = []
    for negative in negatives:
        labels = truths.get(negative.item_key)
        box = np.array([negative.box], np.float32)
        match labels:
            case Boxes(xyxy=xyxy):
                contradicted = bool(boxes.best(box, xyxy).iou[0] >= options.max_iou)
            case Masks(by_name=by_name):
                x1, y1, x2, y2 = box[0].round().astype(int).tolist()
                inside = [rle.decode(mask)[y1:y2, x1:x2] for mask in by_name.values()]
                contradicted = bool(inside) and float(np.maximum.reduce(inside).mean()) >= options.max_iou
            case ImageClass(name=name):
                contradicted = name == negative.name
            case None:
                contradicted = True
        if not contradicted:
            kept.append(negative)
    return kept


def _truth(prediction: Prediction, truths: Mapping[str, Example]) -> Example:
    example = truths.get(prediction.item_key)
    if example is None:
        raise DataError(f"item {prediction.item_key} has no labels: hard negatives are mined on labelled images only")
    if example.item.split is Split.HOLDOUT:
        raise DataError(f"item {prediction.item_key} is held out: nothing that is trained on may come from it")
    return example


def _score(negative: Negative, found: Findings, classes: Sequence[str]) -> float:
    """The best score of what is found of the negative's class in its region."""
    if not len(found.scores):
        return 0.0
    same = np.array([classes[index] == negative.name for index in found.class_index])
    near = boxes.iou(_box(negative), found.xyxy)[0] >= SAME_REGION
    return float(found.scores[same & near].max(initial=0))


def _candidates(
    key: str, found: Findings, known: Sequence[BankEntry], classes: Sequence[str], options: MiningOptions
) -> Iterator[Negative]:
    hard = np.flatnonzero((found.scores >= options.min_score) & (found.covered < options.max_iou))
    for kept in boxes.suppress(found.xyxy[hard], found.scores[hard], options.nms_iou):
        at = hard[kept]
        x1, y1, x2, y2 = found.xyxy[at].tolist()
        name = classes[int(found.class_index[at])]
        negative = Negative(key, (x1, y1, x2, y2), name, float(found.scores[at]), float(found.iou[at]))
        if not any(_is_known(negative, entry) for entry in known):
            yield negative


def _is_known(negative: Negative, entry: BankEntry) -> bool:
    if entry.negative.name != negative.name and entry.state is NegativeState.HARD:
        return False
    return bool(boxes.iou(_box(negative), _box(entry.negative))[0, 0] >= SAME_REGION)


def _hardest(
    new: Sequence[Negative], old: Sequence[tuple[BankEntry, float]], options: MiningOptions, positives: int
) -> tuple[list[Negative], set[str]]:
    """New ones and keys of old ones that stay: confirmed ones, then by score as long as there is room."""
    ranked = [
        (entry.state is not NegativeState.CONFIRMED, _rank(entry.negative, score), entry.negative, entry.key)
        for entry, score in old
    ]
    ranked += [(True, _rank(negative, negative.score), negative, "") for negative in new]
    in_image, of_class = Counter[str](), Counter[str]()
    most = int(options.ratio * max(1, positives))
    kept_new: list[Negative] = []
    kept_old: set[str] = set()
    for may_fall, _, negative, key in sorted(ranked, key=lambda one: (one[0], one[1], one[3])):
        full = in_image.total() >= most or in_image[negative.item_key] >= options.per_image
        if may_fall and (full or of_class[negative.name] >= options.per_class):
            continue
        in_image[negative.item_key] += 1
        of_class[negative.name] += 1
        if key:
            kept_old.add(key)
        else:
            kept_new.append(negative)
    return kept_new, kept_old


def _rank(negative: Negative, score: float) -> tuple[float, str, tuple[float, ...], str]:
    return -score, negative.item_key, negative.box, negative.name


def _box(negative: Negative) -> FloatArray:
    return np.array([negative.box], np.float32)


def _objects(example: Example) -> int:
    """How many true objects there are: boxes, connected regions of each mask, or one class."""
    match example.labels:
        case Boxes(names=names):
            return len(names)
        case Masks(by_name=by_name):
            return sum(cv2.connectedComponents(rle.decode(mask))[0] - 1 for mask in by_name.values())
        case _:
            return 1
