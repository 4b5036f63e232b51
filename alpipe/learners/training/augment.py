"""Random changes of a training image that leave its labels true: image, class map and boxes alike."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from alpipe.learners.training.data import FILL
from alpipe.types import ByteArray, FloatArray

if TYPE_CHECKING:
    import albumentations

OUTSIDE = 255
"""In class maps: a pixel outside the image, of which nothing is known."""

MIN_VISIBLE = 1 / 3
"""A box of which less than this is left by a crop no longer shows its object."""

SHIFT = 0.08
"""Largest shift, as a share of the image."""


class Flip(StrEnum):
    """Which mirror images are as good as the original. Digits, letters and left/right classes: none."""

    NONE = "none"
    HORIZONTAL = "horizontal"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far training images may be changed: ``scale``, the largest factor of size (1 = none); ``rotate``, degrees;
    ``colour`` in [0, 1], strength of brightness, contrast, saturation and, a tenth of it, hue.
    """

    flip: Flip = Flip.NONE
    scale: float = 1.0
    rotate: float = 0.0
    colour: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Augmented:
    """``pixels`` (H, W, 3) and ``classes`` (H, W) uint8 (None where none was given), ``xyxy`` (M, 4) float32 boxes cut
    at the canvas, and ``kept`` (M,), which of the boxes they are.
    """

    pixels: ByteArray
    classes: ByteArray | None
    xyxy: FloatArray
    kept: npt.NDArray[np.int64]


NO_BOXES = np.zeros((0, 4), np.float32)


class Augmenter:
    """Puts images on a canvas (height, width), changed at random.

    Smaller images go anywhere on the canvas, of larger ones a random part is seen; outside is grey, and ``OUTSIDE`` in
    class maps. Boxes stay where ``MIN_VISIBLE`` of them and 2 pixels a side are left. May be used from many threads.
    """

    def __init__(self, how: Augmentation, canvas: tuple[int, int]) -> None:
        self._how, self._canvas = how, canvas
        self._of_thread = threading.local()  # albumentations' pipelines carry their random state with them

    def __call__(
        self,
        pixels: ByteArray,
        rng: np.random.Generator,
        *,
        classes: ByteArray | None = None,
        xyxy: FloatArray = NO_BOXES,
    ) -> Augmented:
        pipeline = getattr(self._of_thread, "pipeline", None)
        if pipeline is None:
            pipeline = self._of_thread.pipeline = _pipeline(self._how, self._canvas)
        pipeline.set_random_seed(int(rng.integers(2**31)))
        given: dict[str, Any] = {"image": pixels, "bboxes": xyxy, "index": np.arange(len(xyxy))}
        if classes is not None:
            given["mask"] = classes
        made = pipeline(**given)
        boxes = np.asarray(made["bboxes"], np.float32).reshape(-1, 4)
        return Augmented(made["image"], made.get("mask"), boxes, np.asarray(made["index"], np.int64).reshape(-1))


def _pipeline(how: Augmentation, canvas: tuple[int, int]) -> albumentations.Compose:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the internet for its newest version
    import albumentations as transforms  # takes a second to import: only those who train pay for it

    height, width = canvas
    steps: list[Any] = []
    if how.flip is not Flip.NONE:
        steps.append(transforms.HorizontalFlip(p=0.5))
    if how.flip is Flip.BOTH:
        steps.append(transforms.VerticalFlip(p=0.5))
    steps.append(transforms.PadIfNeeded(height, width, position="random", fill=FILL, fill_mask=OUTSIDE))
    if how.scale > 1 or how.rotate:
        steps.append(
            transforms.Affine(
                scale=(1 / how.scale, how.scale),
                balanced_scale=how.scale > 1,
                translate_percent=(-SHIFT, SHIFT),
                rotate=(-how.rotate, how.rotate),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                fill=FILL,
                fill_mask=OUTSIDE,
                p=1,
            )
        )
    steps.append(transforms.RandomCrop(height, width))
    if how.colour:
        c = how.colour
        steps.append(transforms.ColorJitter((1 - c, 1 + c), (1 - c, 1 + c), (1 - c, 1 + c), (-c / 10, c / 10), p=0.9))
    boxes = transforms.BboxParams(
        "pascal_voc",
        label_fields=["index"],
        min_visibility=MIN_VISIBLE,
        min_width=2,
        min_height=2,
        clip=True,
        filter_invalid_bboxes=True,
    )
    return transforms.Compose(steps, bbox_params=boxes)
