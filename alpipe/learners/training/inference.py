"""Streams items through a network, in batches of images of one size, or in tiles where they are too large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from alpipe.learners.training.data import Frame, ahead, pad, read_frame, round_up, to_input
from alpipe.learners.training.device import Compute
from alpipe.learners.training.tiling import Tiling, join, tiles
from alpipe.types import ByteArray, Item

T = TypeVar("T")

WINDOW = 256
"""Items looked at together, so that images of one size meet in a batch; results keep the order of the items."""

WINDOW_PIXELS = 1 << 22
"""Network pixels looked at together: large images and their predictions are not held by the hundred."""

PIXELS_A_BATCH = {"cpu": 1 << 19, "cuda": 1 << 23}
"""Network pixels of a batch: enough to keep the device busy, little memory even for large images."""


def stream(
    items: Iterable[Item],
    long_side: int,
    multiple: int,
    compute: Compute,
    run: Callable[[torch.Tensor, list[tuple[Item, Frame]]], Sequence[T]],
    tiling: Tiling | None = None,
) -> Iterator[T]:
    """What ``run`` makes of each item, in order.

    ``run`` gets a batch (B, 3, H, W) with sides padded to ``multiple``, and the items with their frames, which stand
    in the top left corner; it gives one result an item. Whatever else is in the batch, an item is padded alike. With
    ``tiling``, an image larger than a tile is given as its tiles, whose results are joined.
    Raises DataError for an image that cannot be read.
    """

    def run_all(size: tuple[int, int], batch: list[tuple[Item, Frame]]) -> Iterator[T]:
        per_batch = max(1, PIXELS_A_BATCH[compute.device.type] // (size[0] * size[1]))
        for start in range(0, len(batch), per_batch):
            some = batch[start : start + per_batch]
            pixels = np.stack([pad(frame.pixels, *size) for _, frame in some])
            with torch.inference_mode(), compute.autocast():
                made = run(to_input(pixels, compute.device), some)
            yield from made

    for window in _windows(items, long_side):
        frames = list(ahead(lambda item: read_frame(item, long_side), window))
        results: dict[int, T] = {}
        for size, indices in _by_size(frames, multiple).items():
            if tiling is not None and max(size) > tiling.side:
                for index in indices:
                    results[index] = _in_tiles(window[index], frames[index], multiple, tiling, run_all)
            else:
                batch = [(window[index], frames[index]) for index in indices]
                results.update(zip(indices, run_all(size, batch), strict=True))
        for index in range(len(window)):
            yield results.pop(index)


def _in_tiles(item: Item, whole: Frame, multiple: int, tiling: Tiling, run_all: Callable[..., Iterator[Any]]) -> Any:
    height, width = whole.pixels.shape[:2]
    parts = tiles(height, width, tiling, multiple)
    canvas = (min(round_up(height, multiple), tiling.side), min(round_up(width, multiple), tiling.side))

    def results() -> Iterator[Any]:
        for part in parts:  # one after the other: a tile fills a device, and no copy of the whole image is made
            pixels: ByteArray = whole.pixels[part.where]
            yield from ((part, made) for made in run_all(canvas, [(item, Frame(pixels, whole.scale, whole.size))]))

    return join(results(), height, width)


def _windows(items: Iterable[Item], long_side: int) -> Iterator[list[Item]]:
    window: list[Item] = []
    pixels = 0
    for item in items:
        factor = min(1.0, long_side / max(item.width, item.height))
        size = round(item.width * factor) * round(item.height * factor)
        if window and (len(window) == WINDOW or pixels + size > WINDOW_PIXELS):
            yield window
            window, pixels = [], 0
        window.append(item)
        pixels += size
    if window:
        yield window


def _by_size(frames: list[Frame], multiple: int) -> dict[tuple[int, int], list[int]]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, frame in enumerate(frames):
        height, width = (round_up(side, multiple) for side in frame.pixels.shape[:2])
        by_size.setdefault((height, width), []).append(index)
    return by_size
