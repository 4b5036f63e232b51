"""The sets that detectors are compared on: labelled images to learn from and to test on, apart by place or sequence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from alpipe import boxes, images
from alpipe.datasets import digits
from alpipe.errors import DataError
from alpipe.formats import yolo
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Boxes, Example, Item, Task
from benchmarks import bccd

SETS = ("digits", "bccd", "aerial")

TILE, EVERY = 224, 4
"""Side of the tiles of aerial frames, in pixels, and which frames of a sequence are taken: every so-manieth."""


TESTED = "MunichStreet"
"""How the sequence begins that is tested on: the one of the other street."""


class DetectionSet(NamedTuple):
    """``train`` and ``test`` examples, their classes, and whether every object is labelled."""

    train: list[Example]
    test: list[Example]
    classes: tuple[str, ...]
    exhaustive: bool


def read(name: str, data: Path | None, work: Path) -> DetectionSet:
    """The set of that name, below the folder ``data``; the built-in one is made in ``work``."""
    if name == "digits":
        return _digits(work)
    if data is None:
        raise DataError(f"--data is missing: the folder that holds the set {name}")
    if name == "bccd":
        return DetectionSet(bccd.read(data / "bccd", "trainval"), bccd.read(data / "bccd", "test"), bccd.CLASSES, False)
    return _aerial(data / "aerial_cars", work)


def _digits(work: Path) -> DetectionSet:
    """Digits on photographs; a fifth of the images is without digit, a quarter of the others has cut-up ones too."""
    made = digits.make(work / "digits", task=Task.DETECT, count=400, holdout_share=0.5)
    sides: tuple[list[Example], list[Example]] = ([], [])
    for image in made:
        height, width = images.read(image.path).shape[:2]
        sides[image.holdout].append(Example(Item(image.path.stem, str(image.path), width, height), image.boxes))
    return DetectionSet(*sides, digits.CLASSES[Task.DETECT], True)


def _aerial(folder: Path, work: Path) -> DetectionSet:
    """Cars from the air, in tiles. Neighbouring frames of a sequence are almost alike, so a sequence is on one side
    only: the one of the other street is tested on. Of each every fourth frame is taken.
    """
    sequences = aerial_sequences(folder)
    tested = [name for name in sequences if name.startswith(TESTED)]
    sides: tuple[list[Example], list[Example]] = ([], [])
    for name, frames in sequences.items():
        for frame in frames[::EVERY]:
            sides[name in tested].extend(tiles(frame, TILE, work / "tiles"))
    return DetectionSet(*sides, ("car",), True)


def aerial_sequences(folder: Path) -> dict[str, list[Example]]:
    """The labelled frames by sequence, in the order of time: what has one name and one size is one sequence."""
    names = tuple((folder / "classes.txt").read_text(encoding="utf-8").split())
    found: dict[str, list[tuple[int, Example]]] = {}
    for entry in yolo.read(folder, ReadRequest(Task.DETECT, names)):
        if not isinstance(entry, LabelledFile) or not isinstance(entry.labels, Boxes):
            continue
        cars = np.array([name == "car" for name in entry.labels.names], bool)
        height, width = images.read(entry.image).shape[:2]
        labels = Boxes(entry.labels.xyxy[cars], ("car",) * int(cars.sum()))
        stem = entry.image.stem
        sequence = f"{stem.rstrip('0123456789')} {width}x{height}"
        number = int(re.sub(r"^.*?(\d+)$", r"\1", stem))
        found.setdefault(sequence, []).append((number, Example(Item(stem, str(entry.image), width, height), labels)))
    return {name: [example for _, example in sorted(found[name], key=lambda one: one[0])] for name in sorted(found)}


def tiles(frame: Example, side: int, folder: Path) -> list[Example]:
    """The frame cut into tiles of this side at most, evenly and without overlap, written into the folder. A box belongs
    to the tiles that hold half of it or more, cut at their edges. A tile's name begins with the frame's size and
    the place, and ends with the frame's name, so that tiles of one place are a video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels, item, labels = images.read(frame.item.path), frame.item, frame.labels
    assert isinstance(labels, Boxes)
    across, down = -(-item.width // side), -(-item.height // side)
    made = []
    for row in range(down):
        for column in range(across):
            x1, x2 = (round(item.width * at / across) for at in (column, column + 1))
            y1, y2 = (round(item.height * at / down) for at in (row, row + 1))
            key = f"{item.width}x{item.height}-{row}-{column}-{item.key}"
            path = folder / f"{key}.png"
            if not path.exists():
                Image.fromarray(pixels[y1:y2, x1:x2]).save(path)
            within = labels.xyxy - np.array([x1, y1, x1, y1], np.float32)
            cut = within.clip(0, np.array([x2 - x1, y2 - y1] * 2, np.float32))
            kept = boxes.areas(cut) >= 0.5 * boxes.areas(within)
            mine = Boxes(cut[kept].astype(np.float32), tuple(n for n, k in zip(labels.names, kept, strict=True) if k))
            made.append(Example(Item(key, str(path), x2 - x1, y2 - y1), mine))
    return made
