"""Images at the size the networks see, kept in memory where they fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import cv2
import numpy as np
import torch

from alpipe import images
from alpipe.types import ByteArray, Item

T = TypeVar("T")

CACHE_BYTES = 1 << 30
"""Memory that the decoded images of one training may take; the others are read again each time."""

READERS = 4
"""Threads that decode images: decoding and resizing release the interpreter's lock."""

FILL = 128
"""Grey that stands outside an image: zero after normalisation, near enough."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An image at network size: ``pixels`` (h, w, 3) uint8 RGB; ``scale`` (x, y) network pixels per image pixel;
    ``size`` (width, height) of the image itself.
    """

    pixels: ByteArray
    scale: tuple[float, float]
    size: tuple[int, int]


def frame(pixels: ByteArray, long_side: int) -> Frame:
    """The image scaled down so that its longer side is at most ``long_side``; smaller images stay as they are."""
    height, width = pixels.shape[:2]
    factor = min(1.0, long_side / max(height, width))
    if factor < 1:
        target = (max(1, round(width * factor)), max(1, round(height * factor)))
        pixels = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return Frame(pixels, (pixels.shape[1] / width, pixels.shape[0] / height), (width, height))


def read_frame(item: Item, long_side: int) -> Frame:
    """Reads and scales down one image. Raises DataError for a file that cannot be read."""
    return frame(images.read(item.path), long_side)


class Frames:
    """The frames of a sequence of items by index, decoded once where ``CACHE_BYTES`` allow it.

    All are read when it is made, so that a file that cannot be read stops the training before it starts. ``sizes`` are
    their (width, height), ``scales`` their (x, y) network pixels per image pixel.
    """

    def __init__(self, items: Sequence[Item], long_side: int) -> None:
        self._items, self._long_side = items, long_side
        self._kept: dict[int, Frame] = {}
        self.sizes: list[tuple[int, int]] = []
        self.scales: list[tuple[float, float]] = []
        left = CACHE_BYTES
        for index, read in enumerate(ahead(lambda item: read_frame(item, long_side), items)):
            self.sizes.append((read.pixels.shape[1], read.pixels.shape[0]))
            self.scales.append(read.scale)
            if read.pixels.nbytes <= left:
                left -= read.pixels.nbytes
                self._kept[index] = read

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Frame:
        kept = self._kept.get(index)
        return kept if kept is not None else read_frame(self._items[index], self._long_side)


def ahead(function: Callable[[Item], T], items: Sequence[Item], window: int = 64) -> Iterator[T]:
    """The function of each item in order, a window of items ahead of the consumer in threads."""
    source = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(function, item) for item in islice(source, window)]
        while waiting:
            result = waiting.pop(0).result()
            waiting.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result


def canvas_size(sizes: Sequence[tuple[int, int]], multiple: int) -> tuple[int, int]:
    """(height, width) that holds every frame of the sizes (width, height), each a multiple of ``multiple``."""
    width, height = (max(side) for side in zip(*sizes, strict=True))
    return round_up(height, multiple), round_up(width, multiple)


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not smaller than the value."""
    return math.ceil(value / multiple) * multiple


def pad(pixels: ByteArray, height: int, width: int) -> ByteArray:
    """(height, width, 3): the image in the top left corner, grey elsewhere."""
    canvas = np.full((height, width, 3), FILL, np.uint8)
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    return canvas


def to_input(pixels: ByteArray, device: torch.device) -> torch.Tensor:
    """(B, 3, H, W) float32 around zero, channels last, of (B, H, W, 3) uint8."""
    tensor = torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2)
    return (tensor.float() - FILL) / 64.0
