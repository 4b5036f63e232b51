"""The detector on blood cells, trained from scratch: official test images, COCO's metric.

    python -m benchmarks.bccd --data PATH/TO/bccd                          all training images
    python -m benchmarks.bccd --data PATH/TO/bccd --images 20 40 80        few of them, drawn by the seed
    python -m benchmarks.bccd --data PATH/TO/bccd --quick                  to see that it works

Trained with the options of ``FULL``; --set adds others.
Prints a table, and as its last line one JSON object. Trainings that --results already holds are not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alpipe import images, plugins
from alpipe.errors import DataError
from alpipe.evaluation import detection
from alpipe.formats import voc
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext, ReadRequest
from alpipe.types import Boxes, Example, Item, Progress, Refusal, Task

CLASSES = ("RBC", "WBC", "Platelets")

GOAL = 0.90
"""mAP50 that a detector trained from scratch on all images should reach on the test images, in ten minutes."""

FULL: dict[str, Any] = {"flip": "both"}
"""Options: cells look the same in a mirror; the rest are the defaults."""

QUICK: dict[str, Any] = {"flip": "both", "image_size": 160, "steps": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the set")
    parser.add_argument("--images", type=int, nargs="+", help="how many training images; default: all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fit", default="trainval", help="subset to train on: train, val or trainval")
    parser.add_argument("--test", default="test", help="subset to test on: val or test")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of the detector")
    parser.add_argument("--results", type=Path, default=Path("docs/results/bccd.jsonl"))
    parser.add_argument("--quick", action="store_true", help="100 steps, nothing kept")
    given = parser.parse_args()
    train, test = read(given.data, given.fit), read(given.data, given.test)
    known = [] if given.quick or not given.results.exists() else _lines(given.results)
    rows = []
    for count in given.images or [len(train)]:
        options = QUICK if given.quick else FULL
        options = options | dict(_option(text) for text in given.set)
        for seed in range(given.seeds):
            arm = {"fit": given.fit, "test": given.test, "images": min(count, len(train)), "seed": seed}
            arm |= {"options": options}
            done = [line for line in known if arm.items() <= line.items()]
            row = done[-1] if done else arm | measure(_some(train, count, seed), test, options, seed)
            if not done and not given.quick:
                given.results.parent.mkdir(parents=True, exist_ok=True)
                with given.results.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
            rows.append(row)
    report(rows)


def read(data: Path, subset: str) -> list[Example]:
    """The images of a subset, with boxes cut at the image's edges."""
    examples = []
    for entry in voc.read(data, ReadRequest(Task.DETECT, CLASSES, subset)):
        if isinstance(entry, Refusal):  # of three boxes without an area, not of their images
            continue
        labels = entry.labels
        if not isinstance(labels, Boxes):
            raise DataError(f"{entry.image}: has no boxes")
        height, width = images.read(entry.image).shape[:2]
        xyxy = np.clip(labels.xyxy, 0, [width, height, width, height]).astype(np.float32)
        seen = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        names = tuple(labels.names[index] for index in np.flatnonzero(seen))
        item = Item(entry.image.stem[:20], str(entry.image), width, height)
        examples.append(Example(item, replace(labels, xyxy=xyxy[seen], names=names)))
    return examples


def measure(train: Sequence[Example], test: Sequence[Example], options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains and tests one detector."""
    module = plugins.load(Kind.LEARNER, "detector")
    context = LearnerContext(Task.DETECT, CLASSES, "cpu", "fp32")
    learner = module.build(plugins.options(Kind.LEARNER, "detector", module, options), context)
    shown = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal shown
        if time.monotonic() - shown > 20:
            shown = time.monotonic()
            print(f"{len(train)} images, seed {seed}: {progress.done}/{progress.total}, {progress.detail}", flush=True)

    started, busy = time.monotonic(), time.process_time()
    model = learner.fit(train, [], [], seed=seed, progress=show)
    fitted, busy = time.monotonic(), time.process_time() - busy
    predictions = list(model.predict([example.item for example in test]))
    predicted = time.monotonic()
    metrics = detection.evaluate(zip(predictions, test, strict=True), CLASSES)
    return {
        "mAP50": round(metrics.value, 4),
        **{name: round(value, 4) for name, value in metrics.details.items()},
        "fit_seconds": round(fitted - started),
        "fit_cpu_seconds": round(busy),  # of all cores: a machine that does other work too is slower by the clock only
        "images_a_second": round(len(test) / (predicted - fitted), 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores",
    }


def report(rows: Sequence[dict[str, Any]]) -> None:
    """The table, and the line for all images (or the most there were)."""
    print(f"{'images':>6} {'seed':>4} {'mAP50':>6} {'mAP50-95':>8} {'RBC':>6} {'WBC':>6} {'Plate.':>6} {'seconds':>7}")
    for row in rows:
        by_class = " ".join(f"{row.get(f'AP50/{name}', 0.0):6.3f}" for name in CLASSES)
        print(
            f"{row['images']:6} {row['seed']:4} {row['mAP50']:6.3f} {row['mAP50-95']:8.3f} {by_class}"
            f" {row['fit_seconds']:7}"
        )
    most = max(row["images"] for row in rows)
    last = [row for row in rows if row["images"] == most]
    means = {
        str(count): round(statistics.mean(row["mAP50"] for row in rows if row["images"] == count), 4)
        for count in sorted({row["images"] for row in rows})
    }
    result = {
        "name": f"bccd detector, {most} images",
        "value": means[str(most)],
        "goal": GOAL,
        "mAP50-95": round(statistics.mean(row["mAP50-95"] for row in last), 4),
        "by_images": means,
        "seconds": max(row["fit_seconds"] for row in last),
        "machine": last[-1]["machine"],
    }
    print(json.dumps(result))


def _some(examples: list[Example], count: int, seed: int) -> list[Example]:
    """That many of the examples, drawn by the seed; all of them in their order where there are no more."""
    if count >= len(examples):
        return examples
    return [examples[index] for index in np.random.default_rng(seed).permutation(len(examples))[:count]]


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


if __name__ == "__main__":
    main()
