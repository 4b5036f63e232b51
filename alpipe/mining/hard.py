"""Hard negatives: what a model takes for an object on labelled images although none is there.

The plain form. Detection as R-CNN mines (Girshick et al. 2014: a region that overlaps every true box by less than 0.3
is a negative), doubles removed at IoU 0.7 as in OHEM (Shrivastava et al. 2016), at most three negatives to one positive
as in SSD (Liu et al. 2016). It trusts the labels to be exhaustive: an object that nobody marked looks like a mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from alpipe import boxes, rle
from alpipe.errors import DataError
from alpipe.labels import predicted_class_map
from alpipe.protocols import PluginOptions
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    ImageClass,
    MapPrediction,
    Masks,
    Negative,
    Prediction,
    Split,
    Task,
)


class MiningOptions(PluginOptions):
    """What counts as a hard negative, and how many are kept."""

    min_score: float = Field(0.3, ge=0, le=1, description="Confidence from which a mistake counts as hard.")
    max_iou: float = Field(0.3, gt=0, le=1, description="It overlaps every true object by less than this.")
    nms_iou: float = Field(0.7, gt=0, le=1, description="Of boxes that overlap by more only the best is kept.")
    min_area: int = Field(16, ge=1, description="Smallest region of a predicted mask, in pixels.")
    per_image: int = Field(10, ge=1, description="At most so many in one image.")
    ratio: float = Field(3.0, gt=0, description="At most so many in all for each true object.")


def mine(
    task: Task,
    predictions: Iterable[Prediction],
    truths: Mapping[str, Example],
    classes: Sequence[str],
    options: MiningOptions,
) -> list[Negative]:
    """The hard negatives in predictions on labelled images, best score first.

    detect: boxes of at least ``min_score`` whose IoU with each true box, of whatever class, is below ``max_iou``.
    segment: connected regions of a predicted class, by their mean probability, of which less than ``max_iou`` lies on
    true objects of any class (so a part of an object is none). classify: the whole image where the most probable class
    is wrong. In all at most ``ratio`` times the true objects in ``truths`` (boxes, connected regions, images), or times
    1 where there are none. The order of the predictions has no influence.

    Raises DataError for a prediction on an item without truth or of the hold-out, which is never trained on, and for
    labels or predictions that do not fit the task.
    """
    found: list[Negative] = []
    for prediction in predictions:
        example = truths.get(prediction.item_key)
        if example is None:
            raise DataError(
                f"item {prediction.item_key} has no labels: hard negatives are mined on labelled images only"
            )
        if example.item.split is Split.HOLDOUT:
            raise DataError(f"item {prediction.item_key} is held out: nothing that is trained on may come from it")
        inside = sorted(_in_image(task, prediction, example, classes, options), key=_rank)
        found += inside[: options.per_image]
    positives = sum(_objects(example) for example in truths.values())
    return sorted(found, key=_rank)[: int(options.ratio * max(1, positives))]


def _rank(negative: Negative) -> tuple[float, str, tuple[float, ...], str]:
    return -negative.score, negative.item_key, negative.box, negative.name


def _in_image(
    task: Task, prediction: Prediction, example: Example, classes: Sequence[str], options: MiningOptions
) -> Iterator[Negative]:
    match task, prediction, example.labels:
        case Task.DETECT, BoxPrediction(), Boxes() as labels:
            return _false_boxes(prediction, labels, classes, options)
        case Task.SEGMENT, MapPrediction(), Masks() as labels:
            return _false_regions(prediction, labels, classes, options)
        case Task.CLASSIFY, ClassPrediction(), ImageClass() as labels:
            return _wrong_class(prediction, labels, example, classes, options)
    raise DataError(
        f"item {prediction.item_key}: {type(prediction).__name__} and {type(example.labels).__name__} do not fit the"
        f" task {task}"
    )


def _false_boxes(
    prediction: BoxPrediction, labels: Boxes, classes: Sequence[str], options: MiningOptions
) -> Iterator[Negative]:
    best_iou = boxes.iou(prediction.xyxy, labels.xyxy).max(axis=1, initial=0)
    hard = (prediction.scores >= options.min_score) & (best_iou < options.max_iou) & (boxes.areas(prediction.xyxy) > 0)
    candidates = np.flatnonzero(hard)
    for kept in boxes.suppress(prediction.xyxy[candidates], prediction.scores[candidates], options.nms_iou):
        at = candidates[kept]
        x1, y1, x2, y2 = prediction.xyxy[at].tolist()
        name = classes[int(prediction.class_index[at])]
        yield Negative(prediction.item_key, (x1, y1, x2, y2), name, float(prediction.scores[at]), float(best_iou[at]))


def _false_regions(
    prediction: MapPrediction, labels: Masks, classes: Sequence[str], options: MiningOptions
) -> Iterator[Negative]:
    width, height = prediction.size
    predicted = predicted_class_map(prediction)
    truth = rle.class_map(labels, classes, height, width) > 0
    _, true_regions, true_stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8))
    for value in np.unique(predicted[predicted > 0]).tolist():
        count, regions, stats, _ = cv2.connectedComponentsWithStats((predicted == value).astype(np.uint8))
        channel = prediction.probs[value].astype(np.float32)
        probs = cv2.resize(channel, (width, height), interpolation=cv2.INTER_LINEAR)
        for region in range(1, count):
            x, y, w, h, area = stats[region].tolist()
            if area < options.min_area:
                continue
            window = np.s_[y : y + h, x : x + w]
            inside = regions[window] == region
            score = min(1.0, float(probs[window][inside].mean()))
            covered = true_regions[window][inside]
            if score < options.min_score or np.count_nonzero(covered) / area >= options.max_iou:
                continue
            iou = _best_iou(covered, area, true_stats[:, cv2.CC_STAT_AREA])
            box = (float(x), float(y), float(x + w), float(y + h))
            yield Negative(prediction.item_key, box, classes[value - 1], score, iou)


def _best_iou(covered: npt.NDArray[Any], area: int, true_areas: npt.NDArray[Any]) -> float:
    """Of a region with any true region, from the numbers of the true regions under its pixels (0 is none)."""
    shared = np.bincount(covered, minlength=len(true_areas))[1:]
    return float((shared / (area + true_areas[1:] - shared)).max(initial=0))


def _wrong_class(
    prediction: ClassPrediction, labels: ImageClass, example: Example, classes: Sequence[str], options: MiningOptions
) -> Iterator[Negative]:
    best = int(np.argmax(prediction.probs))
    score = float(prediction.probs[best])
    if classes[best] != labels.name and score >= options.min_score:
        box = (0.0, 0.0, float(example.item.width), float(example.item.height))
        yield Negative(prediction.item_key, box, classes[best], score, 0.0)


def _objects(example: Example) -> int:
    """How many true objects there are: boxes, connected regions of each mask, or one class."""
    match example.labels:
        case Boxes(names=names):
            return len(names)
        case Masks(by_name=by_name):
            return sum(cv2.connectedComponents(rle.decode(mask))[0] - 1 for mask in by_name.values())
        case _:
            return 1
