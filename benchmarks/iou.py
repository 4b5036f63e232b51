"""IoU of boxes and masks beside pycocotools, in one run.

    python -m benchmarks.iou            10,000 × 10,000 boxes
    python -m benchmarks.iou --quick    2,000 × 2,000

Prints a table, and as its last line one JSON object. Each repeat times both sides one after the other. ``times`` is
pycocotools' seconds over ours: by the median of each side (``value``), and by the least of each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from pycocotools import mask as coco

from alpipe import boxes, rle, torch_iou
from alpipe.types import ByteArray, FloatArray, Rle

GOAL = 1.0
"""Not slower than pycocotools."""


class Timing(NamedTuple):
    """Median seconds of both sides, and how many times longer theirs took by the least seconds of each."""

    ours: float
    theirs: float
    by_least: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    count, sides = (2000, 10) if given.quick else (10_000, 40)
    rng = np.random.default_rng(0)
    a, b = made(rng, count), made(rng, count)
    theirs_a, theirs_b, crowd = xywh(a), xywh(b), [0] * count
    noise = [rle.encode(rng.random((240, 320)) < 0.02 * (1 + at % 9)) for at in range(sides)]
    objects = [rle.encode(ellipses(rng)) for _ in range(sides)]
    rows = {
        f"{count}×{count} boxes, float32": timed(
            lambda: boxes.iou(a, b), lambda: coco.iou(theirs_a, theirs_b, crowd), given.repeats
        ),
        f"{count}×{count} boxes, float64": timed(
            lambda: boxes.iou(a.astype(float), b.astype(float)),
            lambda: coco.iou(theirs_a, theirs_b, crowd),
            given.repeats,
        ),
        f"best of {count}×{count} boxes": timed(
            lambda: boxes.best(a, b), lambda: coco.iou(theirs_a, theirs_b, crowd).max(axis=1), given.repeats
        ),
        **on_a_device(a, b, objects, given.repeats),
        f"{sides}×{sides} masks of noise, 320×240": of_masks(noise, given.repeats),
        f"{sides}×{sides} masks of objects, 320×240": of_masks(objects, given.repeats),
    }
    largest = float(
        np.abs(boxes.iou(a[:2000], b[:2000]) - coco.iou(theirs_a[:2000], theirs_b[:2000], crowd[:2000])).max()
    )
    exact = bool(
        (
            boxes.iou(a[:2000].astype(float), b[:2000].astype(float))
            == coco.iou(theirs_a[:2000], theirs_b[:2000], crowd[:2000])
        ).all()
    )
    print(f"{'':36} {'alpipe s':>9} {'pycocotools s':>13} {'times':>6} {'by least':>8}")
    for name, row in rows.items():
        print(f"{name:36} {row.ours:9.3f} {row.theirs:13.3f} {row.theirs / row.ours:6.2f} {row.by_least:8.2f}")
    print(f"largest difference: float32 {largest:.1e}, float64 {'none' if exact else 'some'}")
    first = next(iter(rows.values()))
    result: dict[str, Any] = {
        "name": f"IoU of {count}×{count} boxes against pycocotools",
        "value": round(first.theirs / first.ours, 3),
        "goal": GOAL,
        "by_least": round(first.by_least, 3),
        "seconds": {name: [round(row.ours, 4), round(row.theirs, 4)] for name, row in rows.items()},
        "largest_difference": largest,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result))


def on_a_device(a: FloatArray, b: FloatArray, masks: list[Rle], repeats: int) -> dict[str, Timing]:
    """The same by PyTorch, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    of_a, of_b = torch.from_numpy(a).to(device), torch.from_numpy(b).to(device)
    theirs_a, theirs_b, crowd = xywh(a), xywh(b), [0] * len(b)
    coded = [{"size": list(mask[:2]), "counts": mask.counts.encode()} for mask in masks]

    def waited(made: torch.Tensor) -> None:
        if made.is_cuda:
            torch.cuda.synchronize()

    return {
        f"boxes, float32, PyTorch on {device}": timed(
            lambda: waited(torch_iou.iou(of_a, of_b)), lambda: coco.iou(theirs_a, theirs_b, crowd), repeats
        ),
        f"masks of objects, PyTorch on {device}": timed(
            lambda: waited(torch_iou.mask_iou(masks, masks, device)),
            lambda: coco.iou(coded, coded, [0] * len(masks)),
            repeats,
        ),
    }


def made(rng: np.random.Generator, count: int) -> FloatArray:
    """Boxes of 5 to 300 pixels in an image of 4000, at eighths of pixels."""
    corners = rng.uniform(0, 4000, (count, 2))
    xyxy = np.hstack([corners, corners + rng.uniform(5, 300, (count, 2))])
    return (np.rint(xyxy * 8) / 8).astype(np.float32)


def ellipses(rng: np.random.Generator) -> ByteArray:
    """A mask of three ellipses, 12 to 80 pixels in radius."""
    mask: ByteArray = np.zeros((240, 320), np.uint8)
    for centre, radii, turn in zip(
        rng.integers((0, 0), (320, 240), (3, 2)).tolist(),
        rng.integers(12, 80, (3, 2)).tolist(),
        rng.uniform(0, 180, 3).tolist(),
        strict=True,
    ):
        cv2.ellipse(mask, tuple(centre), tuple(radii), turn, 0, 360, 1, -1)
    return mask


def of_masks(masks: list[Rle], repeats: int) -> Timing:
    coded = [{"size": list(mask[:2]), "counts": mask.counts.encode()} for mask in masks]
    crowd = [0] * len(masks)
    return timed(lambda: rle.iou(masks, masks), lambda: coco.iou(coded, coded, crowd), repeats)


def xywh(xyxy: FloatArray) -> Any:
    wide = xyxy.astype(np.float64)
    return np.hstack([wide[:, :2], wide[:, 2:] - wide[:, :2]])


def timed(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> Timing:
    """Seconds of each, taken in turn so that what else the machine does falls on both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, run in zip(seconds, (ours, theirs), strict=True):
            started = time.perf_counter()
            run()
            side.append(time.perf_counter() - started)
    return Timing(statistics.median(seconds[0]), statistics.median(seconds[1]), min(seconds[1]) / min(seconds[0]))


if __name__ == "__main__":
    main()
