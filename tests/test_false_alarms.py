"""False alarms against recall: by the words of the definition, one confidence at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpipe import boxes
from alpipe.evaluation.false_alarms import MATCHED, REFERENCES, alarm_curve
from alpipe.types import Boxes, BoxPrediction, Example, Item

CLASSES = ("cat", "dog")


def truth(key: str, xyxy: np.ndarray, names: list[str]) -> Example:
    return Example(Item(key, f"{key}.png", 100, 100), Boxes(np.asarray(xyxy, np.float32).reshape(-1, 4), tuple(names)))


def predicted(key: str, xyxy: np.ndarray, scores: np.ndarray, index: np.ndarray) -> BoxPrediction:
    scores = np.asarray(scores, np.float32)
    probs = np.zeros((len(scores), 2), np.float32)
    return BoxPrediction(key, np.asarray(xyxy, np.float32).reshape(-1, 4), scores, probs, np.asarray(index, np.int64))


@st.composite
def scenes(draw: st.DrawFn) -> list[tuple[BoxPrediction, Example]]:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    pairs = []
    for number in range(draw(st.integers(1, 5))):
        n, extra = int(rng.integers(0, 4)), int(rng.integers(0, 4))
        corners = rng.uniform(0, 70, (n + extra, 2))
        found = np.hstack([corners, corners + rng.uniform(8, 30, corners.shape)]).astype(np.float32)
        true = found[:n] + np.clip(rng.normal(0, 2, (n, 4)), -3, 3).astype(np.float32)  # the sides are 8 at least
        scores = np.round(rng.random(n + extra), 1)
        names = [CLASSES[at] for at in rng.integers(0, 2, n)]
        pairs.append(
            (predicted(f"k{number}", found, scores, rng.integers(0, 2, n + extra)), truth(f"k{number}", true, names))
        )
    return pairs


def counted(pairs: list[tuple[BoxPrediction, Example]], least: float) -> tuple[float, float]:
    """False alarms an image and recall of the boxes of at least a score."""
    alarms = hits = objects = 0
    for prediction, example in pairs:
        assert isinstance(example.labels, Boxes)
        free = set(range(len(example.labels.names)))
        objects += len(free)
        for at in np.argsort(-prediction.scores, kind="stable"):
            if prediction.scores[at] < np.float32(least):
                continue
            name = CLASSES[prediction.class_index[at]]
            overlaps = boxes.iou(prediction.xyxy[at : at + 1], example.labels.xyxy)[0]
            near = [one for one in free if example.labels.names[one] == name and overlaps[one] >= MATCHED]
            if near:
                free.remove(max(near, key=lambda one: overlaps[one]))
                hits += 1
            else:
                alarms += 1
    return alarms / len(pairs), hits / max(1, objects)


@settings(max_examples=60)
@given(scenes())
def test_each_point_of_the_curve_is_what_counting_gives(pairs: list[tuple[BoxPrediction, Example]]) -> None:
    curve = alarm_curve(iter(pairs), CLASSES)
    assert (np.diff(curve.scores) < 0).all()
    for score, fppi, recall in zip(curve.scores, curve.fppi, curve.recall, strict=True):
        assert (fppi, recall) == pytest.approx(counted(pairs, float(score)))
    misses = [
        1 - max([r for f, r in zip(curve.fppi, curve.recall, strict=True) if f <= at], default=0) for at in REFERENCES
    ]
    assert curve.log_average_miss_rate() == pytest.approx(np.exp(np.mean(np.log(np.maximum(misses, 1e-10)))))


@given(scenes(), st.floats(0.05, 1))
def test_the_false_alarms_of_a_recall_are_the_fewest_that_reach_it(
    pairs: list[tuple[BoxPrediction, Example]], recall: float
) -> None:
    curve = alarm_curve(pairs, CLASSES)
    fppi = curve.fppi_at(recall)
    reached = [f for f, r in zip(curve.fppi, curve.recall, strict=True) if r >= recall - 1e-12]
    assert fppi == (min(reached) if reached else None)
    if fppi is not None:
        assert curve.recall_at(fppi) >= recall - 1e-12


def test_alarms_on_images_without_object_are_counted_at_the_same_confidence() -> None:
    box = np.array([[0, 0, 10, 10]], np.float32)
    nothing = np.zeros((0, 4), np.float32)
    pairs = [
        (predicted("a", box, [0.6], [0]), truth("a", box, ["cat"])),
        (predicted("b", np.repeat(box, 3, axis=0), [0.9, 0.7, 0.5], [0, 0, 1]), truth("b", nothing, [])),
        (predicted("c", nothing, [], []), truth("c", nothing, [])),
    ]
    curve = alarm_curve(pairs, CLASSES)
    assert curve.fppi_at(1.0) == pytest.approx(2 / 3)
    assert curve.empty_alarms_at(1.0) == 1.0
    assert curve.recall_at(0.5) == 0
    assert "FPPI@recall0.8" in curve.figures()


def test_a_recall_that_is_never_reached_is_left_out_of_the_figures() -> None:
    box = np.array([[0, 0, 10, 10]], np.float32)
    pairs = [(predicted("a", np.zeros((0, 4)), [], []), truth("a", box, ["cat"]))]
    figures = alarm_curve(pairs, CLASSES).figures()
    assert set(figures) == {"recall@FPPI0.1", "recall@FPPI1", "LAMR"}
    assert figures["LAMR"] == 1
