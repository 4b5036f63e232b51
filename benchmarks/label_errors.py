"""How many of the labels that are asked about are wrong, in sample and out of sample: true labels, some made wrong.

    python -m benchmarks.label_errors classify | detect [--count 300] [--wrong 0.1] [--folds 3] [--seed 0]
    python -m benchmarks.label_errors sign_digits | bccd --data PATH/TO/SET [--count 300]
    python -m benchmarks.label_errors nuclei --data PATH/TO/SET --length 0.3

In sample: one model trained on all labels, wrong ones included, judges them, as the loop does after each training. Out
of sample: as `alpipe check-labels` does. ``classify`` and ``detect`` are built-in digits. Classes of images: another
one, at random. Boxes: a third of the wrong ones get another class, a third move to an empty place (so that their object
is unmarked), and a third are left out. ``--folder`` keeps the models, so that a stopped run goes on from there.

Of each way it prints how many of the first 10, 20, 50 questions are right, and how much of what is wrong is found by as
many questions as there are wrong places. A question about a label is right if the label was made wrong; one about an
object that nobody marked, if it overlaps one by an IoU of 0.5 or more.

``nuclei`` has real errors: the labels of 108 images before reviewers corrected them. Printed is the AUROC of an image's
likeliest error (0 where nothing is asked) for whether a region that holds a square of 5 pixels a side was added or
taken away; most corrections part or join nuclei, which masks of one class do not show.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from alpipe import boxes, plugins, rle
from alpipe.config import DEFAULT_LEARNER
from alpipe.datasets import digits
from alpipe.mining import folds
from alpipe.mining.label_errors import LabelErrors
from alpipe.mining.overlooked import Overlooked
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext, Model
from alpipe.steps.folders import save_whole
from alpipe.types import Boxes, Example, ImageClass, Item, Labels, Masks, Prediction, Question, QuestionKind, Task
from benchmarks import bccd, sign_digits

SMALL: dict[Task, dict[str, Any]] = {
    Task.CLASSIFY: {"image_size": 32},
    Task.DETECT: {"image_size": 160, "width": 32},
    Task.SEGMENT: {"image_size": 192, "crop_size": 96, "features": (16, 32, 64, 128)},
}
FIRST = (10, 20, 50)


@dataclass(frozen=True, slots=True)
class Wrong:
    """A label that was made wrong (``box`` None: the image's class), or, where ``missed``, an object without one."""

    key: str
    box: tuple[float, ...] | None
    missed: bool = False


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A labelled set, some labels of which are ``wrong``."""

    task: Task
    classes: tuple[str, ...]
    examples: list[Example]
    wrong: list[Wrong]


def main(arguments: argparse.Namespace) -> None:
    """Prints a line a way of judging."""
    with TemporaryDirectory(prefix="alpipe-") as temporary:
        if arguments.set == "nuclei":
            data = nuclei(arguments.data)
        else:
            data = read(arguments.set, arguments.data, arguments.count, arguments.seed, Path(temporary))
            data = spoil(*data, arguments.wrong, arguments.seed)
        kinds = Counter("no label" if one.missed else "label" for one in data.wrong)
        print(f"{arguments.set}: {len(data.examples)} images, wrong: {dict(kinds)}", flush=True)
        models = Models(data, arguments.length, arguments.seed, arguments.folder or Path(temporary) / "models")
        print(line("in sample", data, models, [(data.examples, data.examples)]), flush=True)
        parts = folds.split(data.examples, arguments.folds, arguments.seed)
        pairs = [([one for other in parts if other is not part for one in other], part) for part in parts]
        print(line(f"{arguments.folds} folds", data, models, pairs), flush=True)


def line(way: str, data: Spoilt, models: Models, pairs: Sequence[tuple[list[Example], list[Example]]]) -> str:
    """What became of judging each second part by the model trained on the first."""
    truths = {example.item.key: example for example in data.examples}
    doubted = LabelErrors(truths, data.classes)
    overlooked = Overlooked(data.task, truths, data.classes)
    busy = time.process_time()
    for number, (train, judged) in enumerate(pairs):
        predictions: Iterator[Prediction] = models.fit(f"{way}-{number}", train).predict([one.item for one in judged])
        for _ in overlooked.watch(doubted.watch(predictions)):
            pass
    busy = time.process_time() - busy
    asked = doubted.questions(1, "m") + overlooked.questions(1, "m")
    asked.sort(key=lambda question: -question.score)
    if data.task is Task.SEGMENT:
        return f"{way}: {_ranks(data, asked)}; {busy:.0f} CPU s"
    found = [hits(question, data.wrong) for question in asked]
    first = ", ".join(f"{sum(map(bool, found[:most]))}/{min(most, len(found))}" for most in FIRST)
    recall = len(set().union(*found[: len(data.wrong)])) / len(data.wrong)
    right = Counter(str(question.kind) for question, hit in zip(asked, found, strict=True) if hit)
    kinds = ", ".join(
        f"{right[str(kind)]}/{count} {kind}" for kind, count in sorted(Counter(one.kind for one in asked).items())
    )
    return (
        f"{way}: right of the first {FIRST}: {first}; {recall:.2f} of {len(data.wrong)} wrong found by as many;"
        f" of all {sum(map(bool, found))}/{len(found)} ({kinds}); {busy:.0f} CPU s"
    )


def _ranks(data: Spoilt, asked: Sequence[Question]) -> str:
    wrong = {one.key for one in data.wrong}
    best = {question.item.key: question.score for question in reversed(asked)}
    keys = sorted((one.item.key for one in data.examples), key=lambda key: -best.get(key, 0))
    ranks = [at for at, key in enumerate(keys, 1) if key in wrong]
    area = roc_auc_score([key in wrong for key in keys], [best.get(key, 0) for key in keys])
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(one.kind for one in asked).items()))
    return f"AUROC {area:.3f}, ranks of the corrected among {len(keys)}: {ranks}; {len(asked)} questions ({kinds})"


def hits(question: Question, wrong: Sequence[Wrong]) -> set[Wrong]:
    """The wrong places that a question is about."""
    missed = question.kind is QuestionKind.MISSED
    some = [one for one in wrong if one.key == question.item.key and one.missed is missed]
    if not missed:
        return {one for one in some if one.box == question.box}
    places = np.array([one.box for one in some], np.float32).reshape(-1, 4)
    overlap = boxes.iou(np.array([question.box], np.float32), places)[0]
    return {one for one, iou in zip(some, overlap, strict=True) if iou >= 0.5}


class Models:
    """Trains the task's default learner, small, or takes what was trained before."""

    def __init__(self, data: Spoilt, length: float, seed: int, folder: Path) -> None:
        name = DEFAULT_LEARNER[data.task]
        self._plugin = plugins.load(Kind.LEARNER, name, data.task)
        options = plugins.options(Kind.LEARNER, name, self._plugin, SMALL[data.task] | {"length": length})
        self._context = LearnerContext(data.task, data.classes, "cpu")
        self._learner = self._plugin.build(options, self._context)
        self._seed, self._folder = seed, folder

    def fit(self, name: str, train: Sequence[Example]) -> Model:
        folder = self._folder / name.replace(" ", "-")
        if not folder.is_dir():
            checkpoints = self._folder / f"{folder.name}.checkpoints"
            save_whole(self._learner.fit(train, [], [], seed=self._seed, resume_from=checkpoints), folder)
        model: Model = self._plugin.load(folder, self._context)
        return model


def read(
    name: str, data: Path | None, count: int, seed: int, work: Path
) -> tuple[Task, tuple[str, ...], list[Example]]:
    """Task, classes and at most ``count`` examples of a set."""
    if name in ("classify", "detect"):
        task = Task(name)
        made = digits.make(work, task=task, count=count, seed=seed, size=96)
        return (
            task,
            digits.CLASSES[task],
            [_example(p.path, digits.labels_for(p, task), at) for at, p in enumerate(made)],
        )
    if data is None:
        raise SystemExit("--data is missing: the folder of the set")
    if name == "bccd":
        return Task.DETECT, bccd.CLASSES, bccd.read(data, "trainval")[:count]
    photos = sign_digits.photos(data)[:count]
    examples = [
        _example(photo.path, ImageClass(photo.digit), at, f"person {photo.person}") for at, photo in enumerate(photos)
    ]
    return Task.CLASSIFY, sign_digits.DIGITS, examples


def nuclei(data: Path) -> Spoilt:
    """The images that reviewers corrected, with the labels of before; wrong where a region was added or taken away."""
    examples, wrong = [], []
    for at, path in enumerate(sorted((data / "labels_before_review").glob("*.png"))):
        before, after = (
            (cv2.imread(str(one), cv2.IMREAD_UNCHANGED) > 0).astype(np.uint8)
            for one in (path, data / "labels" / path.name)
        )
        changed = cv2.morphologyEx((before != after).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        examples.append(_example(data / "images" / path.name, Masks({"nucleus": rle.encode(before)}), at))
        if changed.any():
            wrong.append(Wrong(examples[-1].item.key, None))
    return Spoilt(Task.SEGMENT, ("nucleus",), examples, wrong)


def spoil(task: Task, classes: tuple[str, ...], examples: Sequence[Example], share: float, seed: int) -> Spoilt:
    """The examples with that share of their labels made wrong."""
    rng = np.random.default_rng(seed)
    made, wrong = [], []
    for example in examples:
        labels, places = _spoil(example, classes, share, rng)
        made.append(Example(example.item, labels))
        wrong += places
    return Spoilt(task, classes, made, wrong)


def _example(path: Path, labels: Labels, at: int, group: str | None = None) -> Example:
    with Image.open(path) as image:
        return Example(Item(f"{at:05d}", str(path), *image.size, group=group), labels)


def _spoil(
    example: Example, classes: Sequence[str], share: float, rng: np.random.Generator
) -> tuple[Labels, list[Wrong]]:
    labels, key = example.labels, example.item.key
    if isinstance(labels, ImageClass):
        if rng.random() >= share:
            return labels, []
        return ImageClass(_another(labels.name, classes, rng)), [Wrong(key, None)]
    assert isinstance(labels, Boxes)
    rows, names, wrong = [], [], []
    for box, name in zip(labels.xyxy, labels.names, strict=True):
        kind = rng.integers(3) if rng.random() < share else None
        moved = _elsewhere(box, labels.xyxy, (example.item.width, example.item.height)) if kind == 1 else None
        if kind == 0 or moved is not None:
            wrong.append(Wrong(key, tuple(box.tolist()), missed=True))
        if kind == 0:
            continue
        row = box if moved is None else moved
        if kind is not None:
            wrong.append(Wrong(key, tuple(row.tolist())))
        rows.append(row)
        names.append(name if kind is None or moved is not None else _another(name, classes, rng))
    return Boxes(np.asarray(rows, np.float32).reshape(-1, 4), tuple(names)), wrong


def _another(name: str, classes: Sequence[str], rng: np.random.Generator) -> str:
    return str(rng.choice([other for other in classes if other != name]))


def _elsewhere(box: np.ndarray, others: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The box in a corner of the image where no object is, if there is one."""
    w, h = box[2] - box[0], box[3] - box[1]
    for x in (0.0, size[0] - w):
        for y in (0.0, size[1] - h):
            place = np.asarray([x, y, x + w, y + h], np.float32)
            if not boxes.iou(place[None], others).any():
                return place
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=["classify", "detect", "sign_digits", "bccd", "nuclei"])
    parser.add_argument("--data", type=Path, help="folder of the set")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--wrong", type=float, default=0.1, help="share of the labels that are made wrong")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--length", type=float, default=0.4, help="of the trainings, beside what is usual")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the models are kept")
    main(parser.parse_args())
