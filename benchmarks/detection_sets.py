"""The sets that detectors are compared on: labelled images to learn from and to test on, apart by place or sequence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alpipe import images
from alpipe.datasets import digits
from alpipe.errors import DataError
from alpipe.formats import yolo
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Boxes, Example, Item, Task
from benchmarks import bccd

SETS = ("digits", "bccd", "aerial")


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
    return _aerial(data / "aerial_cars")


def _digits(work: Path) -> DetectionSet:
    """Digits on photographs; a fifth of the images is without digit, a quarter of the others has cut-up ones too."""
    made = digits.make(work / "digits", task=Task.DETECT, count=400, holdout_share=0.5)
    sides: tuple[list[Example], list[Example]] = ([], [])
    for image in made:
        height, width = images.read(image.path).shape[:2]
        sides[image.holdout].append(Example(Item(image.path.stem, str(image.path), width, height), image.boxes))
    return DetectionSet(*sides, digits.CLASSES[Task.DETECT], True)


def _aerial(folder: Path) -> DetectionSet:
    """Cars from the air. Neighbouring frames of a sequence are almost alike, so a sequence is on one side only: each
    third one, in the order of their names, is tested on.
    """
    names = tuple((folder / "classes.txt").read_text(encoding="utf-8").split())
    by_sequence: dict[str, list[Example]] = {}
    for entry in yolo.read(folder, ReadRequest(Task.DETECT, names)):
        if not isinstance(entry, LabelledFile) or not isinstance(entry.labels, Boxes):
            continue
        cars = np.array([name == "car" for name in entry.labels.names], bool)
        height, width = images.read(entry.image).shape[:2]
        item = Item(entry.image.stem[:20], str(entry.image), width, height)
        labels = Boxes(entry.labels.xyxy[cars], ("car",) * int(cars.sum()))
        by_sequence.setdefault(re.sub(r"\d+$", "", entry.image.stem), []).append(Example(item, labels))
    train, test = [], []
    for at, sequence in enumerate(sorted(by_sequence)):
        (test if at % 3 == 2 else train).extend(by_sequence[sequence])
    return DetectionSet(train, test, ("car",), True)
