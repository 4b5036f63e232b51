"""The guard against objects that nobody marked: a mistake that looks like a true object is asked about first.

A candidate is doubtful where three things hold: the model is sure of it (``sure``); it is sure of it again, with
the same class and an IoU of 0.5 or more, when it sees the image mirrored or smaller; and it is of a size that true
objects of its class have. Images that a person has seen and found empty are exhaustively labelled: there no candidate
is doubtful.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from alpipe import boxes, images, rle
from alpipe.errors import DataError
from alpipe.mining.findings import findings
from alpipe.mining.options import MiningOptions, View
from alpipe.types import Boxes, Example, FloatArray, Item, Masks, Negative, Prediction, Task, is_empty

AGREES = 0.5
"""IoU from which what is found in the other view is the same thing."""

SIZES = 0.05, 0.95
"""Quantiles of the areas of a class's true objects between which a doubtful one lies."""

SMALLER = 0.8
"""Factor by which ``View.SHRINK`` makes an image smaller."""

PIXELS_AT_ONCE = 1 << 25
"""Pixels of the images whose other views lie on disk together (100 MB); a larger image lies there alone."""


def doubtful(
    task: Task,
    mined: Sequence[Negative],
    truths: Mapping[str, Example],
    predict: Callable[[Sequence[Item]], Iterable[Prediction]],
    classes: Sequence[str],
    options: MiningOptions,
    view: View,
    sure: float,
) -> dict[Negative, str]:
    """Those of the mined negatives that may be objects, with the reason in words, best score first; none
    where labels are exhaustive.

    ``predict`` gives the model's predictions for items, in their order; it is asked about one other view of each image
    that has a candidate. ``sure`` is the score down to which a quarter of what the model finds is labelled
    (``hard.Mined``); it counts where ``guard_score`` is auto. Classes of whole images are never doubtful: no label is
    missing there.
    """
    if options.exhaustive or task is Task.CLASSIFY:
        return {}
    ranges = _true_areas(truths)
    candidates: dict[str, list[Negative]] = {}
    least = sure_from(options, sure)
    for negative in mined:
        low, high = ranges.get(negative.name, (1.0, 0.0))
        fits = low <= float(boxes.areas(_box(negative))[0]) <= high
        if negative.score >= least and fits and not is_empty(truths[negative.item_key].labels):
            candidates.setdefault(negative.item_key, []).append(negative)
    found: dict[Negative, str] = {}
    for some in _blocks([truths[key].item for key in candidates]):
        for item, again in zip(some, _seen_again(task, some, predict, classes, options, view, least), strict=True):
            found |= dict(_stable(candidates[item.key], again, view))
    return dict(sorted(found.items(), key=lambda one: (-one[0].score, one[0].item_key, one[0].box)))


def _blocks(items: Sequence[Item]) -> Iterator[list[Item]]:
    block: list[Item] = []
    pixels = 0
    for item in items:
        pixels += item.width * item.height
        if block and pixels > PIXELS_AT_ONCE:
            yield block
            block, pixels = [], item.width * item.height
        block.append(item)
    if block:
        yield block


def sure_from(options: MiningOptions, sure: float) -> float:
    """The score from which a mistake may be an object: what the options say, else ``sure``, that of ``hard.Mined``."""
    return sure if options.guard_score == "auto" else options.guard_score


def shown(item: Item, view: View, folder: Path) -> Item:
    """The item's image in another view, written into the folder: mirrored, or smaller in a frame of the same size, in
    the mean colour, since networks that scale every image to one size would see a smaller image just as before. Raises
    DataError where it cannot be read.
    """
    pixels = images.read(item.path)
    if view is View.FLIP:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    else:
        width, height = _smaller(item)
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        pixels = np.full_like(pixels, pixels.mean(axis=(0, 1)).round())
        pixels[:height, :width] = small
    path = folder / f"{item.key}.bmp"  # as it is: nothing is lost, and writing it takes no time
    if not cv2.imwrite(str(path), pixels[:, :, ::-1]):
        raise DataError(f"{path} cannot be written; is the disk for temporary files full?")
    return replace(item, uri=str(path))


def back(xyxy: FloatArray, item: Item, view: View) -> FloatArray:
    """(N, 4) boxes of the other view, in pixels of the item's image."""
    if view is View.FLIP:
        return np.stack([item.width - xyxy[:, 2], xyxy[:, 1], item.width - xyxy[:, 0], xyxy[:, 3]], axis=1)
    width, height = _smaller(item)
    return xyxy * np.array([item.width / width, item.height / height] * 2, np.float32)


def _smaller(item: Item) -> tuple[int, int]:
    return max(1, round(item.width * SMALLER)), max(1, round(item.height * SMALLER))


def _seen_again(
    task: Task,
    items: Sequence[Item],
    predict: Callable[[Sequence[Item]], Iterable[Prediction]],
    classes: Sequence[str],
    options: MiningOptions,
    view: View,
    least: float,
) -> Iterator[list[Negative]]:
    """What the model is sure of in the other view of each item, in pixels of the item's image."""
    nothing = Boxes.none() if task is Task.DETECT else Masks({})
    with tempfile.TemporaryDirectory(prefix="alpipe-") as folder:
        others = [shown(item, view, Path(folder)) for item in items]
        for item, other, prediction in zip(items, others, predict(others), strict=True):
            found = findings(task, prediction, Example(other, nothing), classes, options.min_area)
            sure = found.scores >= least
            places = back(found.xyxy[sure], item, view).tolist()
            rows = zip(places, found.class_index[sure].tolist(), found.scores[sure].tolist(), strict=True)
            yield [Negative(item.key, tuple(box), classes[index], score, 0.0) for box, index, score in rows]


def _stable(candidates: Sequence[Negative], again: Sequence[Negative], view: View) -> Iterator[tuple[Negative, str]]:
    for candidate in candidates:
        same = [other for other in again if other.name == candidate.name]
        if not same:
            continue
        overlap = boxes.best(_box(candidate), np.array([other.box for other in same], np.float32))
        if overlap.iou[0] >= AGREES:
            how, score = "mirrored" if view is View.FLIP else "smaller", same[overlap.which[0]].score
            why = f"sure of it ({candidate.score:.2f}), again in the {how} image ({score:.2f})"
            yield candidate, f"{why}, and of the size of a {candidate.name}"


def _true_areas(truths: Mapping[str, Example]) -> dict[str, tuple[float, float]]:
    """Of each class the areas, of boxes in square pixels, between which most of its true objects lie."""
    areas: dict[str, list[float]] = {}
    for example in truths.values():
        match example.labels:
            case Boxes(xyxy=xyxy, names=names):
                for name, area in zip(names, boxes.areas(xyxy).tolist(), strict=True):
                    areas.setdefault(name, []).append(area)
            case Masks(by_name=by_name):
                for name, mask in by_name.items():
                    stats = cv2.connectedComponentsWithStats(rle.decode(mask))[2][1:]
                    areas.setdefault(name, []).extend((stats[:, 2] * stats[:, 3]).tolist())
            case _:
                pass
    low, high = SIZES
    return {
        name: (float(np.quantile(some, low, method="lower")), float(np.quantile(some, high, method="higher")))
        for name, some in areas.items()
        if some
    }


def _box(negative: Negative) -> FloatArray:
    return np.array([negative.box], np.float32)
