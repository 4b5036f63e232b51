"""Accuracy of image classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from alpipe.errors import DataError
from alpipe.evaluation.result import Metrics
from alpipe.types import ClassPrediction, Example, ImageClass


def evaluate(pairs: Iterable[tuple[ClassPrediction, Example]], classes: Sequence[str]) -> Metrics:
    """The share of images whose most probable class is the true one.

    Details: ``balanced accuracy``, the mean of the recalls of the classes in the truths, each as ``recall/class``, and
    ``left out``, the images whose truth names no class (they are not in ``count``). Without any image all are 0.
    """
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    left_out = 0
    for prediction, example in pairs:
        if not isinstance(example.labels, ImageClass):
            left_out += 1
            continue
        if example.labels.name not in classes or len(prediction.probs) != len(classes):
            raise DataError(
                f"item {example.item.key} is {example.labels.name!r}, predicted with {len(prediction.probs)}"
                f" probabilities; the labels are {', '.join(classes)}"
            )
        confusion[list(classes).index(example.labels.name), int(np.argmax(prediction.probs))] += 1
    of_class, hit = confusion.sum(axis=1), np.diagonal(confusion)
    count = int(of_class.sum())
    present = np.flatnonzero(of_class)
    recalls = {classes[index]: float(hit[index] / of_class[index]) for index in present}
    details = {"balanced accuracy": float(np.mean(list(recalls.values()))) if recalls else 0.0}
    details |= {f"recall/{name}": recall for name, recall in recalls.items()}
    details["left out"] = float(left_out)
    return Metrics("accuracy", float(hit.sum() / count) if count else 0.0, details, count)
