"""Batches and losses of a detector's training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from alpipe.errors import TrainingError
from alpipe.learners.detection.losses import focal_loss, giou_loss, to_boxes
from alpipe.learners.detection.targets import targets
from alpipe.learners.nets.dense import MULTIPLE, STRIDE
from alpipe.learners.training.augment import Augmentation, centring, jitter_colour, random_affine, warp, warp_boxes
from alpipe.learners.training.data import Frames, canvas_size, to_input
from alpipe.types import Boxes, ByteArray, Example, FloatArray, Negative

BOX_WEIGHT = 5.0
"""Weight of the box loss against the class loss, as in TTFNet."""

NEGATIVE_SAMPLING = 2.0
"""How much more often an image with hard negatives is drawn than one without."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Frames with, for each, (N, 4) boxes and (M, 4) hard negatives in network pixels and (N,) classes."""

    frames: Frames
    boxes: list[FloatArray]
    class_index: list[npt.NDArray[np.int64]]
    negatives: list[FloatArray]


class BoxBatch(NamedTuple):
    """``pixels`` (B, H, W, 3) uint8 and the targets, stacked; ``rng`` for the colours."""

    pixels: ByteArray
    heat: FloatArray
    boxes: FloatArray
    weight: FloatArray
    focus: FloatArray
    objects: int


def gather(
    examples: Sequence[Example], negatives: Sequence[Negative], classes: Sequence[str], image_size: int
) -> Labelled:
    """Reads the images and brings all boxes to network pixels. Raises TrainingError for labels that are no boxes, or
    of a class that is not among the classes.
    """
    index = {name: i for i, name in enumerate(classes)}
    frames = Frames([example.item for example in examples], image_size)
    by_key: dict[str, list[tuple[float, float, float, float]]] = {}
    for negative in negatives:
        by_key.setdefault(negative.item_key, []).append(negative.box)
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


class BoxObjective:
    """Focal loss of the classes and GIoU loss of the boxes, each a mean over the objects of the batch."""

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        classes: int,
        augmentation: Augmentation,
        batch_size: int,
        negative_weight: float,
        device: torch.device,
    ) -> None:
        self._train, self._validation, self._classes = train, validation, classes
        self._augmentation, self._batch_size, self._device = augmentation, batch_size, device
        self._negative_weight = negative_weight
        self._canvas = canvas_size(train.frames.sizes, MULTIPLE)
        drawn = np.array([NEGATIVE_SAMPLING if len(regions) else 1.0 for regions in train.negatives])
        self._chances = drawn / drawn.sum()

    def batch(self, rng: np.random.Generator) -> tuple[BoxBatch, np.random.Generator]:
        chosen = rng.choice(len(self._chances), self._batch_size, p=self._chances)
        return self._compose(self._train, chosen, self._canvas, rng), rng

    def loss(self, net: nn.Module, batch: tuple[BoxBatch, np.random.Generator]) -> torch.Tensor:
        made, rng = batch
        images = jitter_colour(to_input(made.pixels, self._device), self._augmentation.colour, rng)
        return self._loss(net, images, made)

    def validation_loss(self, net: nn.Module) -> float | None:
        frames = self._validation.frames
        if not len(frames):
            return None
        canvas = canvas_size(frames.sizes, MULTIPLE)
        total = 0.0
        for start in range(0, len(frames), self._batch_size):
            chosen = np.arange(start, min(start + self._batch_size, len(frames)))
            made = self._compose(self._validation, chosen, canvas, None)
            total += float(self._loss(net, to_input(made.pixels, self._device), made)) * len(chosen)
        return total / len(frames)

    def _loss(self, net: nn.Module, images: torch.Tensor, made: BoxBatch) -> torch.Tensor:
        logits, distances = net(images)
        heat, boxes, weight, focus = (
            torch.from_numpy(part).to(self._device) for part in (made.heat, made.boxes, made.weight, made.focus)
        )
        objects = max(1, made.objects)
        return (
            focal_loss(logits, heat, focus) + BOX_WEIGHT * giou_loss(to_boxes(distances, STRIDE), boxes, weight)
        ) / objects

    def _compose(
        self,
        labelled: Labelled,
        chosen: npt.NDArray[np.int64],
        canvas: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> BoxBatch:
        grid = (canvas[0] // STRIDE, canvas[1] // STRIDE)
        pixels, made, objects = [], [], 0
        for index in chosen:
            frame = labelled.frames[int(index)]
            size = (frame.pixels.shape[1], frame.pixels.shape[0])
            affine = random_affine(size, canvas, self._augmentation, rng) if rng else centring(size, canvas)
            pixels.append(warp(frame.pixels, affine, canvas, nearest=False))
            xyxy, kept = warp_boxes(labelled.boxes[index], affine, canvas)
            regions, seen = warp_boxes(labelled.negatives[index], affine, canvas)
            made.append(
                targets(
                    xyxy[kept],
                    labelled.class_index[index][kept],
                    regions[seen],
                    self._negative_weight,
                    self._classes,
                    grid,
                    STRIDE,
                )
            )
            objects += int(kept.sum())
        return BoxBatch(
            np.stack(pixels),
            np.stack([one.heat for one in made]),
            np.stack([one.boxes for one in made]),
            np.stack([one.weight for one in made]),
            np.stack([one.focus for one in made]),
            objects,
        )
