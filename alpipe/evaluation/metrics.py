"""How good predictions are: one call for all tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from alpipe.errors import DataError
from alpipe.evaluation import classification, detection, segmentation
from alpipe.evaluation.result import Metrics
from alpipe.types import BoxPrediction, ClassPrediction, Example, MapPrediction, Prediction, Task

__all__ = ["Metrics", "evaluate"]

P = TypeVar("P", ClassPrediction, BoxPrediction, MapPrediction)


def evaluate(
    task: Task, predictions: Iterable[Prediction], truths: Mapping[str, Example], classes: Sequence[str]
) -> Metrics:
    """The metric of the task over all of ``truths``, which has the examples by the key of their item.

    detect: mAP50 as COCO computes it; segment: Dice by class over the pixels of all images; classify: accuracy. The
    predictions are read once, in any order, and none is kept for segmentation.
    Raises DataError for an item predicted twice, not at all, or without a truth, for labels that do not fit the task,
    and for a class that is not among ``classes``.
    """
    match task:
        case Task.DETECT:
            return detection.evaluate(_paired(predictions, truths, BoxPrediction), classes)
        case Task.SEGMENT:
            return segmentation.evaluate(_paired(predictions, truths, MapPrediction), classes)
        case Task.CLASSIFY:
            return classification.evaluate(_paired(predictions, truths, ClassPrediction), classes)


def _paired(
    predictions: Iterable[Prediction], truths: Mapping[str, Example], kind: type[P]
) -> Iterator[tuple[P, Example]]:
    """Each prediction beside its truth; at the end, that none was missing."""
    seen = set()
    for prediction in predictions:
        key = prediction.item_key
        if not isinstance(prediction, kind):
            raise DataError(f"item {key}: a {type(prediction).__name__} where the task needs a {kind.__name__}")
        if key in seen or key not in truths:
            raise DataError(
                f"item {key} was predicted {'twice' if key in seen else 'but has no truth to compare with'}"
            )
        seen.add(key)
        yield prediction, truths[key]
    missing = sorted(truths.keys() - seen)
    if missing:
        raise DataError(f"no prediction for {len(missing)} of {len(truths)} items, {missing[0]} among them")
