"""Labelled images of a detector's training, with all boxes in network pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpipe.errors import TrainingError
from alpipe.learners.training.balance import image_factors
from alpipe.learners.training.data import Frames
from alpipe.learners.training.negatives import MORE_OFTEN, boxes_by_item, chances
from alpipe.learners.training.options import Auto
from alpipe.types import Boxes, Example, FloatArray, Negative


@dataclass(frozen=True, slots=True)
class Labelled:
    """Frames with, for each, (N, 4) boxes and (M, 4) hard negatives in network pixels and (N,) classes."""

    frames: Frames
    boxes: list[FloatArray]
    class_index: list[npt.NDArray[np.int64]]
    negatives: list[FloatArray]

    def chances(
        self, rare: float = 0.0, empty_share: float | Auto = "auto", more_often: float = MORE_OFTEN
    ) -> npt.NDArray[np.float64]:
        """(N,) with which chance to draw each image: those with classes that a smaller share than ``rare`` of the
        images have are drawn more often, those with hard negatives ``more_often``, those without object as
        ``empty_share`` says.
        """
        present = np.zeros((len(self.class_index), 1 + max(found.max(initial=0) for found in self.class_index)), bool)
        for row, found in zip(present, self.class_index, strict=True):
            row[found] = True
        hard = np.array([len(some) > 0 for some in self.negatives], bool)
        return chances(image_factors(present, rare), hard, np.asarray(~present.any(axis=1)), empty_share, more_often)


def gather(
    examples: Sequence[Example], negatives: Sequence[Negative], classes: Sequence[str], image_size: int
) -> Labelled:
    """Reads the images and brings all boxes to network pixels. Raises TrainingError for labels that are no boxes, or
    of a class that is not among the classes.
    """
    index = {name: i for i, name in enumerate(classes)}
    frames = Frames([example.item for example in examples], image_size)
    by_key = boxes_by_item(negatives)
    boxes, class_index, regions = [], [], []
    for example, scale in zip(examples, frames.scales, strict=True):
        key, labels = example.item.key, example.labels
        if not isinstance(labels, Boxes):
            raise TrainingError(f"item {key} is labelled with {type(labels).__name__}; a detector learns from boxes")
        unknown = sorted(set(labels.names) - set(index))
        if unknown:
            raise TrainingError(f"item {key} has boxes of {', '.join(unknown)}; the classes are {', '.join(classes)}")
        factors = np.array(scale * 2, np.float32)
        boxes.append(labels.xyxy * factors)
        class_index.append(np.array([index[name] for name in labels.names], np.int64))
        regions.append(np.array(by_key.get(key, []), np.float32).reshape(-1, 4) * factors)
    return Labelled(frames, boxes, class_index, regions)
