"""Random changes of a training image that leave its labels true. One affine map moves image, boxes and mask alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt
import torch

from alpipe.learners.training.data import FILL
from alpipe.types import ByteArray, FloatArray


class Flip(StrEnum):
    """Which mirror images are as good as the original. Digits, letters and left/right classes: none."""

    NONE = "none"
    HORIZONTAL = "horizontal"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far training images may be changed.

    ``scale`` and ``stretch``: largest factor of size and of aspect ratio (1 = none); ``shift``: share of the canvas;
    ``rotate``: degrees; ``colour`` in [0, 1]: strength of brightness, contrast, saturation and tint.
    """

    flip: Flip = Flip.NONE
    scale: float = 1.0
    stretch: float = 1.0
    shift: float = 0.0
    rotate: float = 0.0
    colour: float = 0.0


def random_affine(
    size: tuple[int, int], canvas: tuple[int, int], how: Augmentation, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(2, 3) map from pixels of an image of ``size`` (width, height) to a ``canvas`` (height, width).

    Where the canvas is larger than the image, the image goes anywhere within it; where it is smaller, a random part of
    the image is seen. Pixel edges are at whole numbers, as everywhere.
    """
    grow = np.exp(rng.uniform(-1, 1) * np.log(how.scale))
    stretch = np.exp(rng.uniform(-0.5, 0.5) * np.log(how.stretch))
    angle = np.deg2rad(rng.uniform(-how.rotate, how.rotate))
    mirror_x = -1.0 if how.flip is not Flip.NONE and rng.random() < 0.5 else 1.0
    mirror_y = -1.0 if how.flip is Flip.BOTH and rng.random() < 0.5 else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    linear = turn @ np.diag([grow * stretch * mirror_x, grow / stretch * mirror_y])
    space = np.array([canvas[1], canvas[0]])
    slack = np.abs(space - np.abs(np.diag(linear)) * size)
    centre = space / 2 + rng.uniform(-0.5, 0.5, 2) * slack + rng.uniform(-how.shift, how.shift, 2) * space
    offset = centre - linear @ (np.array(size) / 2)
    return np.hstack([linear, offset[:, None]])


def centring(size: tuple[int, int], canvas: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The affine map that sets an image of (width, height) into the middle of a canvas (height, width) unchanged."""
    offset = (np.array([canvas[1], canvas[0]]) - np.array(size)) // 2
    return np.hstack([np.eye(2), offset[:, None].astype(np.float64)])


def warp(
    pixels: ByteArray, affine: npt.NDArray[np.float64], canvas: tuple[int, int], *, nearest: bool, fill: int = FILL
) -> ByteArray:
    """The image or mask on the canvas (height, width); ``nearest`` keeps class numbers whole."""
    # cv2 puts pixel centres at whole numbers where alpipe has pixel edges: half a pixel is moved in and out.
    shift = affine[:, :2] @ np.array([0.5, 0.5]) - 0.5
    matrix = np.hstack([affine[:, :2], (affine[:, 2] + shift)[:, None]])
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    moved = cv2.warpAffine(
        pixels,
        matrix,
        (canvas[1], canvas[0]),
        flags=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=[fill] * channels,
    )
    return np.asarray(moved, np.uint8)


def warp_boxes(
    xyxy: FloatArray, affine: npt.NDArray[np.float64], canvas: tuple[int, int]
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """The (N, 4) boxes around the moved corners, cut at the canvas, and which of them stay.

    A box stays where at least a third of its area is left and both sides have 2 pixels.
    """
    corners = xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) @ affine[:, :2].T + affine[:, 2]
    moved = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    height, width = canvas
    cut = np.clip(moved, 0, [width, height, width, height])
    sides = cut[:, 2:] - cut[:, :2]
    left = sides.prod(axis=1) / np.maximum((moved[:, 2:] - moved[:, :2]).prod(axis=1), 1e-6)
    return cut.astype(np.float32), (left >= 1 / 3) & (sides >= 2).all(axis=1)


def jitter_colour(inputs: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """(B, 3, H, W) with brightness, contrast, saturation and tint changed at random, each image by itself."""
    if strength == 0:
        return inputs
    batch = len(inputs)

    def draw(width: float, channels: int = 1) -> torch.Tensor:
        values = rng.uniform(-width * strength, width * strength, (batch, channels, 1, 1))
        return torch.from_numpy(values.astype(np.float32)).to(inputs.device)

    grey = inputs.mean(dim=1, keepdim=True)
    level = grey.mean(dim=(2, 3), keepdim=True)
    saturated = grey + (inputs - grey) * (1 + draw(0.8))
    return (saturated - level) * torch.exp(draw(0.7)) + level + draw(0.8) + draw(0.3, 3)
