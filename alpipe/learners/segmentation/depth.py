"""How deep a trained U-Net++ has to be: the Dice of each of its heads, and the smallest depth that is good enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from alpipe import rle
from alpipe.labels import predicted_class_map
from alpipe.types import Example, MapPrediction, Masks


def dice_by_depth(pairs: Iterable[tuple[Sequence[MapPrediction], Example]], classes: Sequence[str]) -> list[float]:
    """The mean Dice, 2 TP / (2 TP + FP + FN), of each head of the predictions (shallowest first) over the classes that
    are in the truths or in its own predictions; pixels of all images are counted together, background is none.
    """
    size = len(classes) + 1
    confusion: dict[int, npt.NDArray[np.int64]] = {}
    for heads, example in pairs:
        assert isinstance(example.labels, Masks)  # noqa: S101 - the training has seen it
        truth = rle.class_map(example.labels, classes, example.item.height, example.item.width).astype(np.int64) * size
        for depth, head in enumerate(heads):
            counts = np.bincount((truth + predicted_class_map(head)).ravel(), minlength=size * size)
            confusion[depth] = confusion.get(depth, 0) + counts.reshape(size, size)
    found = []
    for counted in confusion.values():
        hit = np.diagonal(counted)[1:]
        either = (counted.sum(axis=0) + counted.sum(axis=1))[1:]
        present = either > 0
        found.append(float((2 * hit[present] / either[present]).mean()) if present.any() else 0.0)
    return found


def smallest(scores: Sequence[float], tolerance: float, least: int = 1) -> int:
    """The smallest depth (from ``least``) whose score is within ``tolerance`` of the best, of ``scores`` by depth."""
    enough = max(scores) - tolerance
    deep = [depth for depth, score in enumerate(scores, 1) if score >= enough and depth >= least]
    return min(deep, default=len(scores))
