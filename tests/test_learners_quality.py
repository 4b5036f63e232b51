"""That the built-in learners learn: on easy pictures, in seconds, far better than chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpipe import boxes, rle
from alpipe.labels import predicted_class_map
from alpipe.types import Boxes, BoxPrediction, ImageClass, MapPrediction, Masks, Task
from tests.test_learners import CLASSES, Bench

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("detector", {"steps": 80, "batch_size": 8, "learning_rate": 5e-3}, 18),
        ("sliding", {"steps": 60, "batch_size": 64, "window": 22, "features": (8, 16)}, 16),
    ],
)
def test_detectors_find_rectangles_and_name_their_colour(
    name: str, options: dict[str, Any], least: int, tmp_path: Path
) -> None:
    bench = Bench(name, Task.DETECT, tmp_path)
    model = bench.learner(**options).fit(bench.examples(12, (64, 48)), [], [], seed=0)
    hits = 0
    for number in range(100, 120):
        example = bench.example(number, CLASSES[number % 2])
        (prediction,) = model.predict([example.item])
        assert isinstance(example.labels, Boxes)
        assert isinstance(prediction, BoxPrediction)
        if len(prediction.scores):
            same_name = CLASSES[prediction.class_index[0]] == example.labels.names[0]
            hits += bool(same_name and boxes.iou(prediction.xyxy[:1], example.labels.xyxy)[0, 0] > 0.5)
    assert hits >= least


def test_the_unetpp_colours_rectangles_in(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    learner = bench.learner(steps=60, batch_size=8, learning_rate=5e-3)
    model = learner.fit(bench.examples(12, (48, 48)), [], [], seed=0)
    right = []
    for number in range(100, 110):
        example = bench.example(number, CLASSES[number % 2], (48, 48))
        assert isinstance(example.labels, Masks)
        (prediction,) = model.predict([example.item])
        assert isinstance(prediction, MapPrediction)
        truth = rle.class_map(example.labels, CLASSES, 48, 48)
        found = predicted_class_map(prediction)
        right.append(((found == truth) & (truth > 0)).sum() / ((found > 0) | (truth > 0)).sum())
    assert np.mean(right) > 0.8


def test_the_cnn_tells_colours_apart(tmp_path: Path) -> None:
    bench = Bench("cnn", Task.CLASSIFY, tmp_path)
    learner = bench.learner(steps=100, batch_size=8, features=(16, 32), hidden=(32,))
    model = learner.fit(bench.examples(12, (32, 32)), [], [], seed=0)
    examples = [bench.example(number, CLASSES[number % 2], (32, 32)) for number in range(100, 130)]
    predictions = model.predict([example.item for example in examples])
    found = [CLASSES[int(one.probs.argmax())] for one in predictions]
    assert np.mean([ImageClass(name) == one.labels for name, one in zip(found, examples, strict=True)]) >= 0.9
