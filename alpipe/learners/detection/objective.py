"""Batches and losses of a detector's training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from alpipe.errors import TrainingError
from alpipe.learners.detection.assignment import PLACES, assign
from alpipe.learners.detection.losses import hardest, overlaps, varifocal_loss
from alpipe.learners.nets.pyramid import MULTIPLE, places
from alpipe.learners.training.augment import Augmentation, centring, jitter_colour, random_affine, warp, warp_boxes
from alpipe.learners.training.data import Frames, canvas_size, to_input
from alpipe.types import Boxes, ByteArray, Example, FloatArray, Negative

BOX_WEIGHT, QUALITY_WEIGHT = 5.0, 1.0
"""Weights of the losses of boxes and of their quality against that of the classes."""

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
    """``pixels`` (B, H, W, 3) uint8, and of each image ``boxes`` (N, 4), ``class_index`` (N,) and hard ``negatives``
    (M, 4) in network pixels.
    """

    pixels: ByteArray
    boxes: list[FloatArray]
    class_index: list[npt.NDArray[np.int64]]
    negatives: list[FloatArray]


class Weighting(NamedTuple):
    """What counts how much: ``negatives``, weight of the class loss within hard negatives; ``hardest``, places without
    object that are learnt for each place with one, 0 for all; ``rare``, the share of images below which a class is
    shown more often.
    """

    negatives: float = 1.0
    hardest: float = 0.0
    rare: float = 0.0


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
    """Varifocal loss of the classes, GIoU loss of the boxes and cross-entropy of their quality, each for an object
    of the batch: an object weighs the same whatever its size.
    """

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        classes: int,
        augmentation: Augmentation,
        batch_size: int,
        weighting: Weighting,
        strides: Sequence[int],
        device: torch.device,
    ) -> None:
        self._train, self._validation = train, validation
        self._augmentation, self._batch_size, self._device = augmentation, batch_size, device
        self._weighting, self._strides = weighting, strides
        self._canvas = canvas_size(train.frames.sizes, MULTIPLE)
        drawn = repeat_factors(train.class_index, classes, weighting.rare)
        drawn *= [NEGATIVE_SAMPLING if len(regions) else 1.0 for regions in train.negatives]
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
        logits, boxes, quality = net(images)
        total: torch.Tensor = logits.new_zeros(())
        grids = [(images.shape[2] // stride, images.shape[3] // stride) for stride in self._strides]
        centres, _ = places(grids, self._strides, self._device)
        probs, target, focus = torch.sigmoid(logits.detach()), torch.zeros_like(logits), torch.ones_like(logits[..., 0])
        for i, (xyxy, class_index, negatives) in enumerate(self._to_device(made)):
            focus[i] = self._focus(centres, negatives)
            owner, share = assign(probs[i], boxes[i].detach(), centres, self._strides[0], xyxy, class_index)
            place = share.nonzero()[:, 0]
            found, share = owner[place], share[place]
            target[i, place, class_index[found]] = share
            # an object's places weigh one together, however many they are
            weight = share / torch.zeros_like(xyxy[:, 0]).index_add(0, found, share)[found]
            iou, giou = overlaps(boxes[i, place], xyxy[found])
            entropy = functional.binary_cross_entropy_with_logits(quality[i, place], iou.detach(), reduction="none")
            total = total + ((BOX_WEIGHT * (1 - giou) + QUALITY_WEIGHT * entropy) * weight).sum()
        class_loss = varifocal_loss(logits, target).sum(dim=2) * focus
        if self._weighting.hardest:
            class_loss = class_loss * hardest(class_loss, target.amax(dim=2) > 0, self._weighting.hardest, PLACES)
        total = total + class_loss.sum()
        return total / max(1, sum(len(one) for one in made.boxes))

    def _to_device(self, made: BoxBatch) -> list[tuple[torch.Tensor, ...]]:
        """Boxes, classes and hard negatives of each image."""
        return [
            tuple(torch.from_numpy(part).to(self._device) for part in parts)
            for parts in zip(made.boxes, made.class_index, made.negatives, strict=True)
        ]

    def _focus(self, centres: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """(P,) weight of the class loss: more at places within hard negatives."""
        inside = (centres > negatives[:, None, :2]) & (centres < negatives[:, None, 2:])
        return torch.where(inside.all(dim=2).any(dim=0), self._weighting.negatives, 1.0)

    def _compose(
        self,
        labelled: Labelled,
        chosen: npt.NDArray[np.int64],
        canvas: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> BoxBatch:
        pixels, boxes, classes, negatives = [], [], [], []
        for index in chosen:
            frame = labelled.frames[int(index)]
            size = (frame.pixels.shape[1], frame.pixels.shape[0])
            affine = random_affine(size, canvas, self._augmentation, rng) if rng else centring(size, canvas)
            pixels.append(warp(frame.pixels, affine, canvas, nearest=False))
            xyxy, kept = warp_boxes(labelled.boxes[index], affine, canvas)
            regions, seen = warp_boxes(labelled.negatives[index], affine, canvas)
            boxes.append(xyxy[kept])
            classes.append(labelled.class_index[index][kept])
            negatives.append(regions[seen])
        return BoxBatch(np.stack(pixels), boxes, classes, negatives)


def repeat_factors(
    class_index: Sequence[npt.NDArray[np.int64]], classes: int, threshold: float
) -> npt.NDArray[np.float64]:
    """How often to draw each image, against one with common classes only (Gupta et al. 2019, "LVIS", repeat factor
    sampling): √(threshold / f), at least 1, of its rarest class, which is in a share f of the images.
    """
    present = np.zeros((len(class_index), classes), bool)
    for row, found in zip(present, class_index, strict=True):
        row[found] = True
    share = np.maximum(present.mean(axis=0), 1e-12)
    factors = np.maximum(1.0, np.sqrt(threshold / share))
    return np.asarray(np.where(present, factors, 1.0).max(axis=1), np.float64)
