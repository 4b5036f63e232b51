"""Dice of masks, from counts of pixels over all images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from alpipe import rle
from alpipe.errors import DataError
from alpipe.evaluation.result import Metrics
from alpipe.labels import predicted_class_map
from alpipe.types import Example, MapPrediction, Masks


def evaluate(pairs: Iterable[tuple[MapPrediction, Example]], classes: Sequence[str]) -> Metrics:
    """Mean Dice, 2 TP / (2 TP + FP + FN), over the classes that are in the truths or predictions; background is none.

    Pixels of all images are counted together, so that an image without object needs no rule of its own. Details:
    ``IoU``, TP / (TP + FP + FN), and both by class as ``Dice/class`` and ``IoU/class``. Where no class is anywhere, in
    truths or predictions, there is nothing to measure and both are 0.
    """
    size = len(classes) + 1
    confusion = np.zeros((size, size), np.int64)
    count = 0
    for prediction, example in pairs:
        item = example.item
        if not isinstance(example.labels, Masks):
            raise DataError(f"item {item.key} has {type(example.labels).__name__}, where the task needs masks")
        if prediction.size != (item.width, item.height) or len(prediction.probs) != size:
            raise DataError(
                f"item {item.key} ({item.width}×{item.height}, {size} channels with background) was predicted as"
                f" {prediction.size[0]}×{prediction.size[1]} with {len(prediction.probs)} channels"
            )
        truth = rle.class_map(example.labels, classes, item.height, item.width).astype(np.int64)
        pairs_of_classes = truth * size + predicted_class_map(prediction)
        confusion += np.bincount(pairs_of_classes.ravel(), minlength=size * size).reshape(size, size)
        count += 1
    hit = np.diagonal(confusion)[1:]
    either = (confusion.sum(axis=0) + confusion.sum(axis=1))[1:]  # 2 TP + FP + FN
    present = np.flatnonzero(either)
    dice, iou = np.zeros(len(classes)), np.zeros(len(classes))
    dice[present] = 2 * hit[present] / either[present]
    iou[present] = hit[present] / (either - hit)[present]
    details = {"IoU": float(iou[present].mean()) if present.size else 0.0}
    details |= {f"Dice/{classes[index]}": float(dice[index]) for index in present}
    details |= {f"IoU/{classes[index]}": float(iou[index]) for index in present}
    return Metrics("Dice", float(dice[present].mean()) if present.size else 0.0, details, count)
