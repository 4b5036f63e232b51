"""Batches and losses of a detector's training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from alpipe.learners.detection.assignment import PLACES, assign
from alpipe.learners.detection.labelled import Labelled
from alpipe.learners.detection.losses import hardest, overlaps, varifocal_loss
from alpipe.learners.detection.negatives import focus as focus_on
from alpipe.learners.nets.pyramid import MULTIPLE, places
from alpipe.learners.training.augment import Augmentation, Augmenter
from alpipe.learners.training.data import canvas_size, pad, to_input
from alpipe.learners.training.options import Auto
from alpipe.types import ByteArray, FloatArray

BOX_WEIGHT, QUALITY_WEIGHT = 5.0, 1.0
"""Weights of the losses of boxes and of their quality against that of the classes."""


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
    shown more often; ``empty_share``, that of images without object in the batches.
    """

    negatives: float = 1.0
    hardest: float = 0.0
    rare: float = 0.0
    empty_share: float | Auto = "auto"


class BoxObjective:
    """Varifocal loss of the classes, GIoU loss of the boxes and cross-entropy of their quality, each for an object
    of the batch: an object weighs the same whatever its size.
    """

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        augmentation: Augmentation,
        batch_size: int,
        weighting: Weighting,
        strides: Sequence[int],
        device: torch.device,
    ) -> None:
        self._train, self._validation = train, validation
        self._augment = Augmenter(augmentation, canvas_size(train.frames.sizes, MULTIPLE))
        self._batch_size, self._device = batch_size, device
        self._weighting, self._strides = weighting, strides
        # a dense detector sees every hard negative of an image anyway; drawing their images more often cost mAP
        self._chances = train.chances(weighting.rare, weighting.empty_share, more_often=1.0)

    def batch(self, rng: np.random.Generator) -> BoxBatch:
        chosen = rng.choice(len(self._chances), self._batch_size, p=self._chances)
        pixels, boxes, classes, negatives = [], [], [], []
        for index in chosen:
            true, regions = self._train.boxes[index], self._train.negatives[index]
            made = self._augment(self._train.frames[int(index)].pixels, rng, xyxy=np.concatenate([true, regions]))
            is_true = made.kept < len(true)
            pixels.append(made.pixels)
            boxes.append(made.xyxy[is_true])
            classes.append(self._train.class_index[index][made.kept[is_true]])
            negatives.append(made.xyxy[~is_true])
        return BoxBatch(np.stack(pixels), boxes, classes, negatives)

    def validation_loss(self, net: nn.Module) -> float | None:
        given = self._validation
        count = len(given.frames)
        if not count:
            return None
        canvas = canvas_size(given.frames.sizes, MULTIPLE)
        total = 0.0
        for start in range(0, count, self._batch_size):
            some = slice(start, min(start + self._batch_size, count))
            pixels = np.stack([pad(given.frames[at].pixels, *canvas) for at in range(some.start, some.stop)])
            made = BoxBatch(pixels, given.boxes[some], given.class_index[some], given.negatives[some])
            total += float(self.loss(net, made)) * len(pixels)
        return total / count

    def loss(self, net: nn.Module, batch: BoxBatch) -> torch.Tensor:
        images = to_input(batch.pixels, self._device)
        logits, boxes, quality = net(images)
        total: torch.Tensor = logits.new_zeros(())
        grids = [(images.shape[2] // stride, images.shape[3] // stride) for stride in self._strides]
        centres, strides = places(grids, self._strides, self._device)
        probs, target, focus = torch.sigmoid(logits.detach()), torch.zeros_like(logits), torch.ones_like(logits[..., 0])
        for i, (xyxy, class_index, negatives) in enumerate(self._to_device(batch)):
            owner, share = assign(probs[i], boxes[i].detach(), centres, strides, xyxy, class_index)
            place = share.nonzero()[:, 0]
            found, share = owner[place], share[place]
            target[i, place, class_index[found]] = share
            focus[i] = focus_on(centres, negatives, target[i].amax(dim=1) > 0, self._weighting.negatives)
            # an object's places weigh one together, however many they are
            weight = share / torch.zeros_like(xyxy[:, 0]).index_add(0, found, share)[found]
            iou, giou = overlaps(boxes[i, place], xyxy[found])
            entropy = functional.binary_cross_entropy_with_logits(quality[i, place], iou.detach(), reduction="none")
            total = total + ((BOX_WEIGHT * (1 - giou) + QUALITY_WEIGHT * entropy) * weight).sum()
        class_loss = varifocal_loss(logits, target).sum(dim=2) * focus
        if self._weighting.hardest:
            class_loss = class_loss * hardest(class_loss, target.amax(dim=2) > 0, self._weighting.hardest, PLACES)
        total = total + class_loss.sum()
        return total / max(1, sum(len(one) for one in batch.boxes))

    def _to_device(self, made: BoxBatch) -> list[tuple[torch.Tensor, ...]]:
        """Boxes, classes and hard negatives of each image."""
        return [
            tuple(torch.from_numpy(part).to(self._device) for part in parts)
            for parts in zip(made.boxes, made.class_index, made.negatives, strict=True)
        ]
