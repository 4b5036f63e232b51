"""How much longer mining takes than predicting the same images; part of ``benchmarks.mining``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from alpipe import plugins
from alpipe.mining.guard import doubtful
from alpipe.mining.hard import mine
from alpipe.mining.options import MiningOptions, View
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext
from alpipe.types import Example, Item, Negative, Prediction, Task
from benchmarks.detection_sets import DetectionSet

GOAL = 0.1
"""Mining adds at most this share to the time that predicting takes."""


def speed(given: argparse.Namespace, data: DetectionSet) -> None:
    """Predicts 1,000 images, mines them, and has the guard look at what was mined: CPU seconds of each, on which other
    work of the machine has little influence.
    """
    module = plugins.load(Kind.LEARNER, "detector")
    options = plugins.options(Kind.LEARNER, "detector", module, {"steps": 60 if given.quick else 150, "flip": "none"})
    learner = module.build(options, LearnerContext(Task.DETECT, data.classes, "cpu", "fp32"))
    model = learner.fit(data.train, [], [], seed=0)
    count = 100 if given.quick else 1000
    given_ = [*data.train, *data.test]
    examples = [again(given_[at % len(given_)], at // len(given_)) for at in range(count)]
    truths = {one.item.key: one for one in examples}
    seconds: dict[str, float] = {}

    # a short training is unsure of everything: with the default thresholds there would be little to do
    asked = MiningOptions(min_score=0.1, guard_score=0.3)
    predicted = timed(model.predict([one.item for one in examples]), seconds, "predicting")
    seen: list[Item] = []

    def look(items: Sequence[Item]) -> Iterator[Prediction]:
        seen.extend(items)
        return model.predict(items)

    def guard(candidates: Sequence[Negative], sure: float) -> Mapping[Negative, str]:
        started = time.process_time()
        doubts = doubtful(Task.DETECT, candidates, truths, look, data.classes, asked, View.SHRINK, sure)
        seconds["guard"] = time.process_time() - started
        return doubts

    started = time.process_time()
    mined = mine(Task.DETECT, predicted, truths, data.classes, asked, guard=guard)
    seconds["mining"] = time.process_time() - started - seconds["predicting"] - seconds["guard"]
    for name, value in seconds.items():
        print(f"{name:12} {value:8.2f} CPU s  {value / seconds['predicting']:7.1%} of predicting")
    result: dict[str, Any] = {
        "name": f"mining {count} images of {given.set}, CPU seconds added to a second of predicting",
        "value": round((seconds["mining"] + seconds["guard"]) / seconds["predicting"], 4),
        "goal": GOAL,
        "without_guard": round(seconds["mining"] / seconds["predicting"], 4),
        "mined": len(mined.new),
        "looked_at_again": len(seen),
        "doubtful": len(mined.doubts),
    }
    print(json.dumps(result))


def again(example: Example, number: int) -> Example:
    """The example as an image of its own: what is mined, and what the guard looks at, is counted by image."""
    return replace(example, item=replace(example.item, key=f"{example.item.key}-{number}"))


def timed(source: Iterator[Prediction], seconds: dict[str, float], name: str) -> Iterator[Prediction]:
    """What the source gives; the time that it takes is added up."""
    seconds[name] = 0.0
    while True:
        started = time.process_time()
        one = next(source, None)
        seconds[name] += time.process_time() - started
        if one is None:
            return
        yield one
