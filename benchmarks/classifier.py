"""Accuracy of the classifier on the sign language digits, trained from scratch, tested on people it has never seen.

    python -m benchmarks.classifier --data PATH/TO/sign_digits
    python -m benchmarks.classifier --data PATH/TO/sign_digits --labels 80 --option conv=separable

Each seed draws another fifth of the people for the test. Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from alpipe import plugins
from alpipe.learners.nets.cost import cost
from alpipe.learners.training.device import resolve
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext
from alpipe.types import Example, ImageClass, Item, Task
from benchmarks.sign_digits import DIGITS, Photo, split

GOAL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the set: 0/ … 9/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, help="train on so many photos; default: all of the training people")
    parser.add_argument("--learner", default="cnn")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the learner")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    given = parser.parse_args()
    values: dict[str, Any] = {name: yaml.safe_load(value) for name, value in (o.split("=", 1) for o in given.option)}
    if given.quick:
        given.seeds, values = 1, values | {"steps": 20}
    context = LearnerContext(Task.CLASSIFY, DIGITS, given.device)
    runs = [run(given.data, given.learner, values, context, seed, given.labels) for seed in range(given.seeds)]
    accuracies = [one["accuracy"] for one in runs]
    named = [given.learner, *given.option, *([f"{given.labels} labels"] if given.labels else [])]
    result = {
        "name": f"classifier sign_digits {' '.join(named)}{' quick' if given.quick else ''}",
        "value": round(float(np.mean(accuracies)), 4),
        "goal": GOAL,
        "metric": "accuracy",
        "by_seed": accuracies,
        "images": {"train": runs[0]["train"], "test": runs[0]["test"]},
        "network": runs[0]["network"],
        "seconds_to_train": [one["seconds"] for one in runs],
        "versions": {"torch": torch.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {resolve(context).device.type}",
    }
    print(json.dumps(result))


def run(
    data: Path, learner: str, values: dict[str, Any], context: LearnerContext, seed: int, labels: int | None
) -> dict[str, Any]:
    """Trains and tests once; prints a row."""
    known, unknown = (examples(photos) for photos in split(data, seed))
    if labels:
        known = [known[index] for index in np.random.default_rng(seed).permutation(len(known))[:labels]]
    module = plugins.load(Kind.LEARNER, learner, Task.CLASSIFY)
    options = plugins.options(Kind.LEARNER, learner, module, values)
    started = time.monotonic()
    model = module.build(options, context).fit(known, [], [], seed=seed)
    seconds = time.monotonic() - started
    found = (DIGITS[int(one.probs.argmax())] for one in model.predict([example.item for example in unknown]))
    right = [ImageClass(name) == example.labels for name, example in zip(found, unknown, strict=True)]
    size = model.setting.image_size
    spent = cost(module.network(options, len(DIGITS), size), size, size)
    row = {
        "seed": seed,
        "train": len(known),
        "test": len(unknown),
        "accuracy": round(float(np.mean(right)), 4),
        "seconds": round(seconds),
        "network": {"image_size": size, "parameters": spent.parameters, "multiply_adds": spent.multiply_adds},
    }
    print("  ".join(f"{name} {value}" for name, value in row.items() if name != "network"), flush=True)
    return row


def examples(photos: Sequence[Photo]) -> list[Example]:
    made = []
    for path, digit, person in photos:
        with Image.open(path) as image:
            width, height = image.size
        made.append(Example(Item(path.stem, str(path), width, height, group=str(person)), ImageClass(digit)))
    return made


if __name__ == "__main__":
    main()
