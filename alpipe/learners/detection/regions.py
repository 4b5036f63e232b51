"""Regions of labelled images, and the training of a classifier that tells objects from background in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from alpipe import boxes as box_arithmetic
from alpipe.learners.detection.labelled import Labelled
from alpipe.learners.detection.windows import crops
from alpipe.learners.training.augment import Augmentation, Augmenter
from alpipe.learners.training.data import canvas_size, to_input
from alpipe.learners.training.options import Auto
from alpipe.types import ByteArray, FloatArray

AN_IMAGE = 16
"""Regions that are drawn of an image at once."""

POSITIVE_SHARE = 1 / 4
"""Share of positives among the regions of an image with objects, as in R-CNN."""

CANDIDATES = 8
"""So many regions are looked at for each that is drawn, so that there are positives among them."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How regions are drawn: ``shapes`` (K, 2) of windows in pixels; ``positive_iou``, from which overlap with a box a
    region is of its class; ``hard_share`` of the regions of an image that are its hard negatives, if it has any;
    ``weights`` (C,) of the classes, rare ones more.
    """

    shapes: FloatArray
    positive_iou: float
    hard_share: float
    weights: FloatArray


class Regions(NamedTuple):
    """``xyxy`` (N, 4) and ``class_index`` (N,): 0 is the background, 1 + c class c."""

    xyxy: FloatArray
    class_index: npt.NDArray[np.int64]


def label(
    regions: FloatArray, boxes: FloatArray, class_index: npt.NDArray[np.int64], positive_iou: float
) -> npt.NDArray[np.int64]:
    """(N,) 1 + the class of the box that a region overlaps most, if by ``positive_iou`` or more, else 0, background."""
    if not len(boxes):
        return np.zeros(len(regions), np.int64)
    overlap = box_arithmetic.iou(regions, boxes)
    best = overlap.argmax(axis=1)
    return np.where(overlap[np.arange(len(regions)), best] >= positive_iou, class_index[best] + 1, 0)


def draw(
    boxes: FloatArray,
    class_index: npt.NDArray[np.int64],
    negatives: FloatArray,
    size: tuple[int, int],
    count: int,
    how: Drawing,
    rng: np.random.Generator,
) -> Regions:
    """``count`` regions of an image of ``size`` (width, height): the hard negatives' share, a quarter positives, and
    the rest negatives, out of random regions around the boxes and anywhere. Hard negatives take the place of random
    ones, not of positives: with fewer of these all objects would score lower. Each region is labelled by its overlap
    with the boxes, wherever it comes from.
    """
    hard = round(count * how.hard_share) if len(negatives) else 0
    found = [_jittered(negatives[rng.integers(len(negatives), size=hard)], 0.1, rng)] if hard else []
    left = count - hard
    anywhere = _anywhere(how.shapes, size, left * CANDIDATES // 2, rng)
    if len(boxes):
        chances = how.weights[class_index] / how.weights[class_index].sum()
        near = _jittered(boxes[rng.choice(len(boxes), left * CANDIDATES // 2, p=chances)], 0.5, rng)
        is_near = label(near, boxes, class_index, how.positive_iou) > 0
        positives = near[is_near][: min(left, max(1, round(count * POSITIVE_SHARE)))]
        negative_near = near[~is_near][: (left - len(positives)) // 2]
        found += [positives, negative_near]
        left -= len(positives) + len(negative_near)
    found.append(anywhere[:left])
    xyxy = np.concatenate(found)
    return Regions(xyxy, label(xyxy, boxes, class_index, how.positive_iou))


def _jittered(boxes: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """The boxes moved by up to ``strength`` of their sides, each side up to e to the ``strength`` larger or smaller."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + sides / 2 + rng.uniform(-strength, strength, sides.shape) * sides
    half = sides * np.exp(rng.uniform(-strength, strength, sides.shape)) / 2
    return np.concatenate([centres - half, centres + half], axis=1, dtype=np.float32)


def _anywhere(shapes: FloatArray, size: tuple[int, int], count: int, rng: np.random.Generator) -> FloatArray:
    """Windows of random shapes at random places of the image, centred where they are larger than it."""
    sides = shapes[rng.integers(len(shapes), size=count)] * np.exp(rng.uniform(-0.2, 0.2, (count, 2)))
    room = np.array(size) - sides
    corners = np.where(room > 0, rng.uniform(size=(count, 2)), 0.5) * room
    return np.concatenate([corners, corners + sides], axis=1, dtype=np.float32)


class RegionObjective:
    """Cross-entropy over the background and the classes, of regions as the classifier's windows."""

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        how: Drawing,
        augmentation: Augmentation,
        batch_size: int,
        window: int,
        device: torch.device,
        empty_share: float | Auto = "auto",
    ) -> None:
        self._train, self._how, self._window = train, how, window
        self._batch_size, self._device = batch_size, device
        height, width = canvas_size(train.frames.sizes, 1)
        self._augmenter, self._size = Augmenter(augmentation, (height, width)), (width, height)
        self._chances = train.chances(empty_share=empty_share)
        self._validation = validation

    def batch(self, rng: np.random.Generator) -> tuple[ByteArray, npt.NDArray[np.int64]]:
        images = -(-self._batch_size // AN_IMAGE)
        made = [self._of_image(int(index), rng) for index in rng.choice(len(self._chances), images, p=self._chances)]
        windows, class_index = (np.concatenate(part)[: self._batch_size] for part in zip(*made, strict=True))
        return windows, class_index

    def loss(self, net: nn.Module, batch: tuple[ByteArray, npt.NDArray[np.int64]]) -> torch.Tensor:
        windows, class_index = batch
        target = torch.from_numpy(class_index).to(self._device)
        return functional.cross_entropy(net(to_input(windows, self._device)).flatten(1), target)

    def validation_loss(self, net: nn.Module) -> float | None:
        """Over the same random regions each time, ``AN_IMAGE`` of each image."""
        given = self._validation
        if not len(given.frames):
            return None
        total = 0.0
        for index in range(len(given.frames)):
            pixels, boxes, class_index = given.frames[index].pixels, given.boxes[index], given.class_index[index]
            rng = np.random.default_rng(index)
            size = (pixels.shape[1], pixels.shape[0])
            regions = draw(boxes, class_index, given.negatives[index], size, AN_IMAGE, self._how, rng)
            total += float(self.loss(net, (crops(pixels, regions.xyxy, self._window), regions.class_index)))
        return total / len(given.frames)

    def _of_image(self, index: int, rng: np.random.Generator) -> tuple[ByteArray, npt.NDArray[np.int64]]:
        boxes, negatives = self._train.boxes[index], self._train.negatives[index]
        both = np.concatenate([boxes, negatives])
        made = self._augmenter(self._train.frames[index].pixels, rng, xyxy=both)
        is_box = made.kept < len(boxes)
        regions = draw(
            made.xyxy[is_box],
            self._train.class_index[index][made.kept[is_box]],
            made.xyxy[~is_box],
            self._size,
            AN_IMAGE,
            self._how,
            rng,
        )
        return crops(made.pixels, regions.xyxy, self._window), regions.class_index
