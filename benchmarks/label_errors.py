"""How many of the labels that are asked about are wrong: true labels of built-in digits, some of them made wrong.

    python -m benchmarks.label_errors [classify | detect] [--count 300] [--wrong 0.1] [--steps 400] [--seed 0]

trains the task's default learner on all labels, wrong ones included, has it predict the same images, as the loop does,
and prints how many questions were raised, and how many are about wrong labels. classify: another class. detect: a
third of the wrong boxes get another class, a third move to an empty place, and a third are left out (these are for the
guard of mining, and not counted here).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from alpipe import plugins
from alpipe.config import DEFAULT_LEARNER
from alpipe.datasets import digits
from alpipe.mining.label_errors import LabelErrors
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext
from alpipe.types import Boxes, Example, ImageClass, Item, Labels, Question, Task


def main(task: Task, count: int, wrong: float, steps: int, seed: int) -> None:
    """Prints one line."""
    classes = digits.CLASSES[task]
    rng = np.random.default_rng(seed)
    with TemporaryDirectory(prefix="alpipe-") as folder:
        examples, bad = [], set()
        for at, picture in enumerate(digits.make(Path(folder), task=task, count=count, seed=seed, size=96)):
            width, height = Image.open(picture.path).size
            key = f"{at:05d}"
            labels, spoilt = _spoil(digits.labels_for(picture, task), classes, wrong, (width, height), rng)
            bad |= {(key, *one) for one in spoilt}
            examples.append(Example(Item(key, str(picture.path), width, height), labels))
        name = DEFAULT_LEARNER[task]
        plugin = plugins.load(Kind.LEARNER, name, task)
        learner = plugin.build(
            plugins.options(Kind.LEARNER, name, plugin, {"steps": steps}), LearnerContext(task, classes, "cpu")
        )
        model = learner.fit(examples, [], [], seed=seed)
        errors = LabelErrors({example.item.key: example for example in examples}, classes)
        for _ in errors.watch(model.predict([example.item for example in examples])):
            pass
        asked = errors.questions(1, "m")
    hits = [_name(question) in bad for question in asked]
    first = hits[: len(bad)]
    print(
        f"{task}: {len(bad)} wrong labels, {len(asked)} questions, {sum(hits)} of them about wrong labels;"
        f" of the first 10 {sum(hits[:10])}, of the first {len(first)} {sum(first)}"
    )


def _spoil(
    labels: Labels, classes: Sequence[str], wrong: float, size: tuple[int, int], rng: np.random.Generator
) -> tuple[Labels, list[tuple[float, ...]]]:
    """Labels with some made wrong, and where those are that can be asked about."""
    if isinstance(labels, ImageClass):
        if rng.random() >= wrong:
            return labels, []
        return ImageClass(str(rng.choice([name for name in classes if name != labels.name]))), [()]
    assert isinstance(labels, Boxes)
    xyxy, names, spoilt = [], [], []
    for box, name in zip(labels.xyxy, labels.names, strict=True):
        kind = rng.integers(3) if rng.random() < wrong else None
        moved = _elsewhere(box, labels.xyxy, size)
        if kind == 0:
            continue
        if kind == 1 and moved is not None:
            xyxy.append(moved)
            names.append(name)
            spoilt.append(tuple(moved.tolist()))
        elif kind is not None:
            xyxy.append(box)
            names.append(str(rng.choice([other for other in classes if other != name])))
            spoilt.append(tuple(box.tolist()))
        else:
            xyxy.append(box)
            names.append(name)
    return Boxes(np.asarray(xyxy, np.float32).reshape(-1, 4), tuple(names)), spoilt


def _elsewhere(box: np.ndarray, others: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The box in a corner of the image where no object is, if there is one."""
    w, h = box[2] - box[0], box[3] - box[1]
    for x in (0.0, size[0] - w):
        for y in (0.0, size[1] - h):
            place = np.asarray([x, y, x + w, y + h], np.float32)
            apart = (
                (place[0] >= others[:, 2])
                | (place[2] <= others[:, 0])
                | (place[1] >= others[:, 3])
                | (place[3] <= others[:, 1])
            )
            if apart.all():
                return place
    return None


def _name(question: Question) -> tuple[object, ...]:
    return (question.item.key, *(question.box or ()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("task", type=Task, nargs="?", default=Task.CLASSIFY, choices=[Task.CLASSIFY, Task.DETECT])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--wrong", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.task, arguments.count, arguments.wrong, arguments.steps, arguments.seed)
