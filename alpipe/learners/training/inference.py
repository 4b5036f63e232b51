"""Streams items through a network, in batches of images of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from alpipe.learners.training.data import Frame, ahead, pad, read_frame, round_up, to_input
from alpipe.learners.training.device import Compute
from alpipe.types import Item

T = TypeVar("T")

WINDOW = 256
"""Items looked at together, so that images of one size meet in a batch; results keep the order of the items."""

PIXELS_A_BATCH = {"cpu": 1 << 19, "cuda": 1 << 23}
"""Network pixels of a batch: enough to keep the device busy, little memory even for large images."""


def stream(
    items: Iterable[Item],
    long_side: int,
    multiple: int,
    compute: Compute,
    run: Callable[[torch.Tensor, list[tuple[Item, Frame]]], list[T]],
) -> Iterator[T]:
    """What ``run`` makes of each item, in order.

    ``run`` gets a batch (B, 3, H, W) with sides padded to ``multiple``, and the items with their frames, which stand
    in the top left corner; it gives one result an item. Whatever else is in the batch, an item is padded alike.
    Raises DataError for an image that cannot be read.
    """
    source = iter(items)
    while window := list(islice(source, WINDOW)):
        frames = list(ahead(lambda item: read_frame(item, long_side), window))
        results: dict[int, T] = {}
        for size, indices in _by_size(frames, multiple).items():
            per_batch = max(1, PIXELS_A_BATCH[compute.device.type] // (size[0] * size[1]))
            for start in range(0, len(indices), per_batch):
                chosen = indices[start : start + per_batch]
                pixels = np.stack([pad(frames[index].pixels, *size) for index in chosen])
                with torch.inference_mode(), compute.autocast():
                    made = run(to_input(pixels, compute.device), [(window[i], frames[i]) for i in chosen])
                results.update(zip(chosen, made, strict=True))
        for index in range(len(window)):
            yield results.pop(index)


def _by_size(frames: list[Frame], multiple: int) -> dict[tuple[int, int], list[int]]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, frame in enumerate(frames):
        height, width = (round_up(side, multiple) for side in frame.pixels.shape[:2])
        by_size.setdefault((height, width), []).append(index)
    return by_size
