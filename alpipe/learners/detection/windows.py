"""Windows of a fixed size over an image pyramid: their shapes, their crops, and the boxes that they stand for.

A classifier of W×W pixels is shown a box with ``CONTEXT`` pixels around it, stretched to W×W, as R-CNN does (Girshick
et al. 2014). For each window shape (w, h) there is a level of the pyramid: the image stretched so that a w×h box fills
the inner part of the classifier's window. There the classifier slides, one window every few pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from alpipe.learners.training.data import FILL
from alpipe.types import ByteArray, FloatArray

CONTEXT = 4
"""Pixels, at the classifier's size, that it sees beyond each edge of a box."""

MOST_ENLARGED = 4.0
"""Sides of windows are so many times smaller than the classifier's at most: a level's area grows with the square."""


def window_shapes(sides: FloatArray, count: int, window: int) -> FloatArray:
    """(K, 2) widths and heights, K ≤ ``count``, smallest area first, that stand for the (N, 2) sides of boxes: k-means
    over (log w, log h), begun at the quantiles of the area. Without boxes, the classifier's own size.
    """
    least = inner(window) / MOST_ENLARGED
    if not len(sides):
        return np.full((1, 2), inner(window), np.float32)
    logs = np.log(np.maximum(sides, least).astype(np.float64))
    logs = logs[np.argsort(logs.sum(axis=1), kind="stable")]
    centres = _distinct(logs[((np.arange(count) + 0.5) / count * len(logs)).astype(int)])
    for _ in range(100):
        nearest = ((logs[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        moved = np.stack([logs[nearest == index].mean(axis=0) for index in np.unique(nearest)])
        if moved.shape == centres.shape and np.allclose(moved, centres):
            break
        centres = moved
    centres = _distinct(centres)
    shapes = np.exp(centres[np.argsort(centres.sum(axis=1), kind="stable")])
    return np.asarray(shapes, np.float32)


def _distinct(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rows without those that stand, to a tenth of a side, for the same shape."""
    _, first = np.unique(logs.round(1), axis=0, return_index=True)
    return logs[np.sort(first)]


def inner(window: int) -> int:
    """Pixels of the side of the part of the classifier's window that its box fills."""
    return window - 2 * CONTEXT


def crops(pixels: ByteArray, boxes: FloatArray, window: int) -> ByteArray:
    """(N, window, window, 3): what the classifier is shown of (N, 4) boxes, grey beyond the image."""
    made = np.empty((len(boxes), window, window, 3), np.uint8)
    margin = (boxes[:, 2:] - boxes[:, :2]) * (CONTEXT / inner(window))
    corners = np.rint(np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)).astype(int)
    for index, (x1, y1, x2, y2) in enumerate(corners.tolist()):
        crop = np.full((max(1, y2 - y1), max(1, x2 - x1), 3), FILL, np.uint8)
        inside = pixels[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
        top, left = max(0, -y1), max(0, -x1)
        crop[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        # what shrinks first, by areas: OpenCV would skip pixels of it where the other side grows
        smaller = min(crop.shape[1], window), min(crop.shape[0], window)
        if smaller != crop.shape[1::-1]:
            crop = cv2.resize(crop, smaller, interpolation=cv2.INTER_AREA)
        cv2.resize(crop, (window, window), made[index], interpolation=cv2.INTER_LINEAR)
    return made


@dataclass(frozen=True, slots=True)
class Level:
    """The image stretched for one window shape: ``size`` (height, width) in pixels of the level, which are ``factor``
    (x, y) to one of the image. The classifier's windows of ``window`` pixels stand ``step`` pixels apart, the first
    with its box in the image's corner, the last with it at the far edge or beyond.
    """

    size: tuple[int, int]
    factor: tuple[float, float]
    window: int
    step: int

    @property
    def places(self) -> tuple[int, int]:
        """Windows down and across."""
        down, across = (math.ceil(max(0, side - inner(self.window)) / self.step) + 1 for side in self.size)
        return down, across

    def image(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) for the network, of the image (3, h, w): stretched, with grey around."""
        height, width = self.size
        made = functional.interpolate(image[None], self.size, mode="bilinear", antialias=True)
        down, across = ((count - 1) * self.step + self.window for count in self.places)
        around = (CONTEXT, across - width - CONTEXT, CONTEXT, down - height - CONTEXT)
        return functional.pad(made, around).contiguous(memory_format=torch.channels_last)

    def bands(self, image: torch.Tensor, pixels: int) -> Iterator[torch.Tensor]:
        """The (1, 3, H, W) image of the level in bands of about so many pixels, from the top down: each has the windows
        of whole rows, and together they have those of the image, each once.
        """
        down = self.places[0]
        rows = max(1, (pixels // image.shape[3] - self.window) // self.step + 1)
        for top in range(0, down, rows):
            last = min(top + rows, down) - 1
            yield image[:, :, top * self.step : last * self.step + self.window]

    def boxes(self) -> FloatArray:
        """(places, 4) the boxes of the windows, in image pixels, in the order of the network's output, row by row."""
        down, across = self.places
        y, x = np.mgrid[:down, :across].reshape(2, -1) * self.step
        side = inner(self.window)
        factors = np.array(self.factor * 2, np.float32)
        return np.stack([x, y, x + side, y + side], axis=1).astype(np.float32) / factors


def pyramid(size: tuple[int, int], shapes: FloatArray, window: int, step: int) -> list[Level]:
    """A level for each window shape (K, 2), for an image of ``size`` (height, width)."""
    height, width = size
    levels = []
    for w, h in shapes.tolist():
        down, across = max(1, round(height * inner(window) / h)), max(1, round(width * inner(window) / w))
        levels.append(Level((down, across), (across / width, down / height), window, step))
    return levels
