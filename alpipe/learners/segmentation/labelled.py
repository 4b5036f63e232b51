"""The images of a segmenter's training beside their class maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from alpipe import rle
from alpipe.errors import DataError, TrainingError
from alpipe.learners.training.data import Frames
from alpipe.learners.training.negatives import boxes_by_item
from alpipe.types import ByteArray, Example, FloatArray, Masks, Negative


@dataclass(frozen=True, slots=True)
class Labelled:
    """Frames with, for each, the (h, w) uint8 class map (0 is background) and (M, 4) hard negatives, both in network
    pixels.
    """

    frames: Frames
    maps: list[ByteArray]
    negatives: list[FloatArray]


def gather(
    examples: Sequence[Example], negatives: Sequence[Negative], classes: Sequence[str], image_size: int
) -> Labelled:
    """Reads the images and brings the masks to network size. Raises TrainingError for labels that are no masks, masks
    of another size than the image, or of a class that is not among the classes.
    """
    by_key = boxes_by_item(negatives)
    for example in examples:
        if not isinstance(example.labels, Masks):
            kind = type(example.labels).__name__
            raise TrainingError(f"item {example.item.key} is labelled with {kind}; a segmenter learns from masks")
    frames = Frames([example.item for example in examples], image_size)
    maps, regions = [], []
    for example, size, scale in zip(examples, frames.sizes, frames.scales, strict=True):
        item, labels = example.item, example.labels
        assert isinstance(labels, Masks)  # noqa: S101 - seen above
        try:
            whole = rle.class_map(labels, classes, item.height, item.width)
        except DataError as error:
            raise TrainingError(f"item {item.key}: {error}") from error
        maps.append(np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8))
        factors = np.array(scale * 2, np.float32)
        regions.append(np.array(by_key.get(item.key, []), np.float32).reshape(-1, 4) * factors)
    return Labelled(frames, maps, regions)
