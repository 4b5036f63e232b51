"""Batches and losses of a segmenter's training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alpipe.learners.segmentation.labelled import Labelled
from alpipe.learners.segmentation.sampling import PartSampler
from alpipe.learners.training.augment import OUTSIDE, Augmenter
from alpipe.learners.training.data import pad, round_up, to_input
from alpipe.learners.training.tiling import Tiling, tiles
from alpipe.types import ByteArray, FloatArray


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
        tile: int,
        multiple: int,
        batch_size: int,
        negative_weight: float,
        device: torch.device,
    ) -> None:
        self._sampler, self._augmenter, self._validation = sampler, augmenter, validation
        self._tiling, self._multiple = Tiling(tile, 0), multiple
        self._batch_size, self._negative_weight, self._device = batch_size, negative_weight, device

    def batch(self, rng: np.random.Generator) -> MapBatch:
        pixels, maps, focus = zip(*(self._one(rng) for _ in range(self._batch_size)), strict=True)
        return MapBatch(np.stack(pixels), np.stack(maps), np.stack(focus))

    def loss(self, net: nn.Module, batch: MapBatch) -> torch.Tensor:
        truth = torch.from_numpy(batch.maps).to(self._device).long()
        focus = torch.from_numpy(batch.focus).to(self._device)
        heads: Sequence[torch.Tensor] = net(to_input(batch.pixels, self._device))
        return torch.stack([segmentation_loss(logits.float(), truth, focus) for logits in heads]).mean()

    def validation_loss(self, net: nn.Module) -> float | None:
        """The mean over the images, or over their parts where they are larger than a tile."""
        total, count = 0.0, 0
        for index in range(len(self._validation.frames)):
            pixels, classes = self._validation.frames[index].pixels, self._validation.maps[index]
            for tile in tiles(classes.shape[0], classes.shape[1], self._tiling, self._multiple):
                part, truth = pixels[tile.where], classes[tile.where]
                height, width = (round_up(side, self._multiple) for side in truth.shape)
                known = np.full((height, width), OUTSIDE, np.uint8)
                known[: truth.shape[0], : truth.shape[1]] = truth
                whole = MapBatch(pad(part, height, width)[None], known[None], np.ones((1, height, width), np.float32))
                total += float(self.loss(net, whole))
                count += 1
        return total / count if count else None

    def _one(self, rng: np.random.Generator) -> tuple[ByteArray, ByteArray, FloatArray]:
        pixels, classes, negatives = self._sampler.draw(rng)
        made = self._augmenter(pixels, rng, classes=classes, xyxy=negatives)
        assert made.classes is not None  # noqa: S101 - some were given
        focus = np.ones(made.classes.shape, np.float32)
        for x1, y1, x2, y2 in made.xyxy.round().astype(int):
            focus[y1:y2, x1:x2] = self._negative_weight
        return made.pixels, made.classes, focus


def segmentation_loss(logits: torch.Tensor, truth: torch.Tensor, focus: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, weighted by ``focus`` (B, H, W), plus the soft Dice loss of the foreground classes; a scalar.

    ``logits`` (B, 1 + C, H, W), ``truth`` (B, H, W) with OUTSIDE where nothing is known. Dice is taken over the whole
    batch (Milletari et al. 2016), so that a class which one image lacks is no special case.
    """
    known = truth != OUTSIDE
    entropy = functional.cross_entropy(logits, truth.where(known, 0), reduction="none")
    weight = focus * known
    entropy = (entropy * weight).sum() / weight.sum().clamp(min=1)
    probs = torch.softmax(logits, dim=1)[:, 1:] * known[:, None]
    names = torch.arange(1, logits.shape[1], device=logits.device)[None, :, None, None]
    is_class = (truth[:, None] == names).float()
    both = (probs * is_class).sum(dim=(0, 2, 3))
    sizes = (probs.square() + is_class).sum(dim=(0, 2, 3))
    dice = (2 * both + 1) / (sizes + 1)
    return entropy + (1 - dice).mean()
