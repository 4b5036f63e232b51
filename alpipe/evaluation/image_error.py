"""How wrong a model is on one image, in [0, 1]: what images of a batch are compared by, and the noise of a metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from alpipe import boxes, rle
from alpipe.errors import DataError
from alpipe.labels import predicted_class_map
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    ImageClass,
    Labels,
    MapPrediction,
    Masks,
    Prediction,
)

MATCHED = 0.5
"""IoU from which a box has found an object."""


def image_error(prediction: Prediction, example: Example, classes: Sequence[str], min_score: float) -> float | None:
    """How wrong the prediction is: 0 where nothing had to be corrected, 1 where all is wrong.

    classify: 1 where the most probable class is not the true one, else 0. detect: 1 − F1 of the boxes of at least
    ``min_score``, F1 = 2 TP / (boxes found + true boxes), where TP are those matched one-to-one with a true box of
    their class by an IoU of 0.5 or more. segment: 1 − Dice over the image's pixels of all classes together, background
    aside. Where neither the prediction nor the truth has an object the error is 0. None where the truth names no class.
    Raises DataError for labels of another task.
    """
    match prediction, example.labels:
        case ClassPrediction(probs=probs), ImageClass(name=name):
            return float(classes[int(np.argmax(probs))] != name)
        case ClassPrediction(), _:
            return None
        case BoxPrediction(), Boxes() as truth:
            return _of_boxes(prediction, truth, classes, min_score)
        case MapPrediction(), Masks() as truth:
            return _of_masks(prediction, truth, example, classes)
        case _, labels:
            raise DataError(f"item {example.item.key} has {_kind(labels)}, which the model does not predict")


def watched(
    predictions: Iterable[Prediction],
    truths: Mapping[str, Example],
    classes: Sequence[str],
    min_score: float,
    errors: dict[str, float],
) -> Iterator[Prediction]:
    """The predictions as they come, with the error of each that has a truth put into ``errors`` by its item's key."""
    for prediction in predictions:
        truth = truths.get(prediction.item_key)
        error = None if truth is None else image_error(prediction, truth, classes, min_score)
        if error is not None:
            errors[prediction.item_key] = error
        yield prediction


def _of_boxes(prediction: BoxPrediction, truth: Boxes, classes: Sequence[str], min_score: float) -> float:
    shown = np.flatnonzero(prediction.scores >= min_score)
    shown = shown[np.argsort(-prediction.scores[shown], kind="stable")]
    total = len(shown) + len(truth.names)
    if not total:
        return 0.0
    names, found = np.array(truth.names, object), 0
    for index in np.unique(prediction.class_index[shown]):
        mine = shown[prediction.class_index[shown] == index]
        true = truth.xyxy[np.flatnonzero(names == classes[index])]
        found += int((boxes.match(prediction.xyxy[mine], true, MATCHED) >= 0).sum())
    return 1 - 2 * found / total


def _of_masks(prediction: MapPrediction, truth: Masks, example: Example, classes: Sequence[str]) -> float:
    item = example.item
    true, seen = rle.class_map(truth, classes, item.height, item.width), predicted_class_map(prediction)
    if true.shape != seen.shape:
        raise DataError(f"item {item.key} ({item.width}×{item.height}) was predicted as {prediction.size}")
    total = int((true > 0).sum()) + int((seen > 0).sum())
    return 1 - 2 * int(((true == seen) & (true > 0)).sum()) / total if total else 0.0


def _kind(labels: Labels) -> str:
    return type(labels).__name__
