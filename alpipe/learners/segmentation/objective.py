"""Batches and losses of a segmenter's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from alpipe.learners.segmentation.labelled import Labelled
from alpipe.learners.segmentation.sampling import PartSampler
from alpipe.learners.training.augment import OUTSIDE, Augmenter
from alpipe.learners.training.data import pad, round_up, to_input
from alpipe.types import ByteArray, FloatArray

VALIDATED_PIXELS = 1 << 20
"""Network pixels of a validation, about: there are 16 of them, and together they are to take less than the training."""


class MapBatch(NamedTuple):
    """``pixels`` (B, H, W, 3) and ``maps`` (B, H, W) uint8; ``focus`` (B, H, W) float32 weights of the pixels."""

    pixels: ByteArray
    maps: ByteArray
    focus: FloatArray


class MapObjective:
    """Cross-entropy and Dice loss of each head, averaged over the heads (deep supervision)."""

    def __init__(
        self,
        sampler: PartSampler,
        augmenter: Augmenter,
        validation: Labelled,
        least_part: int,
        multiple: int,
        batch_size: int,
        negative_weight: float,
        device: torch.device,
    ) -> None:
        self._sampler, self._augmenter, self._validation = sampler, augmenter, validation
        self._least_part, self._multiple = least_part, multiple
        self._batch_size, self._negative_weight, self._device = batch_size, negative_weight, device

    def batch(self, rng: np.random.Generator) -> MapBatch:
        pixels, maps, focus = zip(*(self._one(rng) for _ in range(self._batch_size)), strict=True)
        return MapBatch(np.stack(pixels), np.stack(maps), np.stack(focus))

    def loss(self, net: nn.Module, batch: MapBatch) -> torch.Tensor:
        truth, focus = (torch.from_numpy(part).to(self._device) for part in (batch.maps, batch.focus))
        heads: Sequence[torch.Tensor] = net(to_input(batch.pixels, self._device))
        target = target_of(truth, focus, heads[0].shape[1])
        return torch.stack([segmentation_loss(logits.float(), target) for logits in heads]).mean()

    def validation_loss(self, net: nn.Module) -> float | None:
        """The mean over the images, or over the middle of each where they are many or large."""
        count = len(self._validation.frames)
        if not count:
            return None
        side = max(self._least_part, math.isqrt(VALIDATED_PIXELS // count))
        total = 0.0
        for index in range(count):
            pixels, classes = self._validation.frames[index].pixels, self._validation.maps[index]
            top, left = (max(0, length - side) // 2 for length in classes.shape)
            part = slice(top, top + side), slice(left, left + side)
            truth = classes[part]
            height, width = (round_up(length, self._multiple) for length in truth.shape)
            known = np.full((height, width), OUTSIDE, np.uint8)
            known[: truth.shape[0], : truth.shape[1]] = truth
            weights = np.ones((1, height, width), np.float32)
            total += float(self.loss(net, MapBatch(pad(pixels[part], height, width)[None], known[None], weights)))
        return total / count

    def _one(self, rng: np.random.Generator) -> tuple[ByteArray, ByteArray, FloatArray]:
        pixels, classes, negatives = self._sampler.draw(rng)
        made = self._augmenter(pixels, rng, classes=classes, xyxy=negatives)
        assert made.classes is not None  # noqa: S101 - some were given
        focus = np.ones(made.classes.shape, np.float32)
        for x1, y1, x2, y2 in made.xyxy.round().astype(int):
            window = np.s_[y1:y2, x1:x2]
            focus[window][made.classes[window] == 0] = self._negative_weight  # what is an object there is no mistake
        return made.pixels, made.classes, focus


class Target(NamedTuple):
    """What all heads are compared with: ``is_class`` (B, 1 + C, H, W) of 0 and 1, 0 in all classes where nothing is
    known; ``known`` (B, 1, H, W) of 0 and 1; ``weight`` (B, H, W) of the pixels, 0 where nothing is known.
    """

    is_class: torch.Tensor
    known: torch.Tensor
    weight: torch.Tensor


def target_of(truth: torch.Tensor, focus: torch.Tensor, channels: int) -> Target:
    """The target of a (B, H, W) class map with OUTSIDE where nothing is known, and the (B, H, W) weights of pixels."""
    known = (truth != OUTSIDE).float()
    names = torch.arange(channels, device=truth.device)[None, :, None, None]
    return Target((truth[:, None] == names).float(), known[:, None], focus * known)


def segmentation_loss(logits: torch.Tensor, target: Target) -> torch.Tensor:
    """Weighted cross-entropy plus the soft Dice loss of the foreground classes, of (B, 1 + C, H, W) logits; a scalar.

    Dice is taken over the whole batch (Milletari et al. 2016), so that a class which one image lacks is no special
    case.
    """
    logs = torch.log_softmax(logits.contiguous(), dim=1)
    entropy = -(logs * target.is_class).sum(dim=1)
    entropy = (entropy * target.weight).sum() / target.weight.sum().clamp(min=1)
    probs = logs.exp()[:, 1:] * target.known
    is_class = target.is_class[:, 1:]
    both = (probs * is_class).sum(dim=(0, 2, 3))
    sizes = (probs.square() + is_class).sum(dim=(0, 2, 3))
    dice = (2 * both + 1) / (sizes + 1)
    return entropy + (1 - dice).mean()
