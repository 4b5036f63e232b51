"""Batches and losses of a segmenter's training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from alpipe import rle
from alpipe.errors import DataError, TrainingError
from alpipe.learners.training.augment import Augmentation, centring, jitter_colour, random_affine, warp, warp_boxes
from alpipe.learners.training.data import Frames, canvas_size, to_input
from alpipe.types import ByteArray, Example, FloatArray, Masks, Negative

OUTSIDE = 255
"""In class maps: a pixel outside the image, of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Frames with, for each, the (h, w) uint8 class map (0 is background) and (M, 4) hard negatives, both in network
    pixels.
    """

    frames: Frames
    maps: list[ByteArray]
    negatives: list[FloatArray]


class MapBatch(NamedTuple):
    """``pixels`` (B, H, W, 3) and ``maps`` (B, H, W) uint8; ``focus`` (B, H, W) float32 weights of the pixels."""

    pixels: ByteArray
    maps: ByteArray
    focus: FloatArray


def gather(
    examples: Sequence[Example], negatives: Sequence[Negative], classes: Sequence[str], image_size: int
) -> Labelled:
    """Reads the images and brings the masks to network size. Raises TrainingError for labels that are no masks, masks
    of another size than the image, or of a class that is not among the classes.
    """
    by_key: dict[str, list[tuple[float, float, float, float]]] = {}
    for negative in negatives:
        by_key.setdefault(negative.item_key, []).append(negative.box)
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


class MapObjective:
    """Cross-entropy and Dice loss of each head, averaged over the heads (deep supervision)."""

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        augmentation: Augmentation,
        batch_size: int,
        crop: int,
        multiple: int,
        negative_weight: float,
        device: torch.device,
    ) -> None:
        self._train, self._validation = train, validation
        self._augmentation, self._batch_size, self._device = augmentation, batch_size, device
        self._multiple, self._negative_weight = multiple, negative_weight
        height, width = canvas_size(train.frames.sizes, multiple)
        self._canvas = (min(height, crop), min(width, crop))

    def batch(self, rng: np.random.Generator) -> tuple[MapBatch, np.random.Generator]:
        chosen = rng.integers(len(self._train.frames), size=self._batch_size)
        made = [self._one(self._train, int(index), self._canvas, rng) for index in chosen]
        pixels, maps, focus = zip(*made, strict=True)
        return MapBatch(np.stack(pixels), np.stack(maps), np.stack(focus)), rng

    def loss(self, net: nn.Module, batch: tuple[MapBatch, np.random.Generator]) -> torch.Tensor:
        made, rng = batch
        images = jitter_colour(to_input(made.pixels, self._device), self._augmentation.colour, rng)
        return self._loss(net(images), made)

    def validation_loss(self, net: nn.Module) -> float | None:
        count = len(self._validation.frames)
        if not count:
            return None
        total = 0.0
        for index in range(count):
            canvas = canvas_size([self._validation.frames.sizes[index]], self._multiple)
            pixels, maps, focus = self._one(self._validation, index, canvas, None)
            made = MapBatch(pixels[None], maps[None], focus[None])
            total += float(self._loss(net(to_input(made.pixels, self._device)), made))
        return total / count

    def _loss(self, heads: list[torch.Tensor], made: MapBatch) -> torch.Tensor:
        truth = torch.from_numpy(made.maps).to(self._device).long()
        focus = torch.from_numpy(made.focus).to(self._device)
        losses = [segmentation_loss(logits.float(), truth, focus) for logits in heads]
        return torch.stack(losses).mean()

    def _one(
        self, labelled: Labelled, index: int, canvas: tuple[int, int], rng: np.random.Generator | None
    ) -> tuple[ByteArray, ByteArray, FloatArray]:
        frame = labelled.frames[index]
        size = (frame.pixels.shape[1], frame.pixels.shape[0])
        affine = random_affine(size, canvas, self._augmentation, rng) if rng else centring(size, canvas)
        pixels = warp(frame.pixels, affine, canvas, nearest=False)
        classes = warp(labelled.maps[index], affine, canvas, nearest=True, fill=OUTSIDE)
        return pixels, classes, self._focus(labelled.negatives[index], affine, canvas)

    def _focus(self, regions: FloatArray, affine: npt.NDArray[np.float64], canvas: tuple[int, int]) -> FloatArray:
        weights = np.ones(canvas, np.float32)
        boxes, seen = warp_boxes(regions, affine, canvas)
        for x1, y1, x2, y2 in boxes[seen].round().astype(int):
            weights[y1:y2, x1:x2] = self._negative_weight
        return weights


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
