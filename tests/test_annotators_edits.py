"""The robot corrects as a person would: whatever is shown, what it submits agrees with the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpipe import boxes as arithmetic
from alpipe import rle
from alpipe.annotators.studio import config, edits, regions
from alpipe.types import Boxes, Item, Labels, Masks, Task
from tests.studio_server import CLASSES, HEIGHT, WIDTH, suggestion_of, truth_of

ITEM = Item("k", "image.png", WIDTH, HEIGHT)
CONTROLS = {task: config.read(config.write(task, CLASSES), task, "test") for task in Task}


def shown_of(task: Task, number: int) -> list[regions.Region]:
    suggestion = suggestion_of(task, number, "m1")
    return regions.encode(suggestion.labels, ITEM, CONTROLS[task], "m1", suggestion.scores)


def correct(task: Task, shown: list[regions.Region], truth: Labels, tolerance: float) -> edits.Edited:
    return edits.correct(shown, truth, ITEM, CONTROLS[task], CLASSES, tolerance)


@pytest.mark.parametrize("task", list(Task))
@given(shown=st.integers(0, 11), true=st.integers(0, 11), tolerance=st.floats(0.5, 1))
@settings(deadline=None, max_examples=40)
def test_what_is_submitted_is_the_truth_up_to_the_tolerance(
    task: Task, shown: int, true: int, tolerance: float
) -> None:
    truth = truth_of(task, true)
    edited = correct(task, shown_of(task, shown), truth, tolerance)
    said = regions.decode(edited.result, ITEM, CONTROLS[task], CLASSES)
    if isinstance(truth, Boxes) and isinstance(said, Boxes):
        assert sorted(said.names) == sorted(truth.names)
        overlap = arithmetic.iou(truth.xyxy, said.xyxy)
        assert all(row.max() >= tolerance - 1e-5 for row in overlap)
    elif isinstance(truth, Masks) and isinstance(said, Masks):
        assert set(said.by_name) == set(truth.by_name)
        for name, mask in said.by_name.items():
            a, b = rle.decode(mask), rle.decode(truth.by_name[name])
            assert (a & b).sum() / (a | b).sum() >= tolerance - 1e-6
    else:
        assert said == truth


@pytest.mark.parametrize("task", list(Task))
@given(shown=st.integers(0, 11), true=st.integers(0, 11))
@settings(deadline=None, max_examples=25)
def test_the_ids_tell_what_was_kept_moved_deleted_and_drawn(task: Task, shown: int, true: int) -> None:
    before = shown_of(task, shown)
    edited = correct(task, before, truth_of(task, true), 0.8)
    ids = {region["id"] for region in before}
    origins = [region["origin"] for region in edited.result]
    assert origins.count("prediction") == edited.kept
    assert origins.count("prediction-changed") == edited.changed
    assert origins.count("manual") == edited.added
    assert edited.kept + edited.changed + edited.deleted == len(before)
    assert len({region["id"] for region in edited.result}) == len(edited.result)
    for region in edited.result:
        assert (region["id"] in ids) == (region["origin"] != "manual")
        if region["origin"] == "prediction":
            assert region | {"origin": ""} in [other | {"origin": ""} for other in before]


def test_a_blind_task_is_drawn_from_nothing() -> None:
    edited = correct(Task.DETECT, [], truth_of(Task.DETECT, 3), 0.8)
    assert (edited.kept, edited.changed, edited.deleted, edited.added) == (0, 0, 0, 3)


def test_an_image_without_object_is_emptied() -> None:
    edited = correct(Task.DETECT, shown_of(Task.DETECT, 3), Boxes.none(), 0.8)
    assert edited.result == []
    assert edited.deleted == 3


def test_a_box_of_the_wrong_class_is_renamed_not_redrawn() -> None:
    truth = Boxes(np.asarray([[5, 5, 25, 25]], np.float32), (CLASSES[0],))
    shown = regions.encode(Boxes(truth.xyxy, (CLASSES[1],)), ITEM, CONTROLS[Task.DETECT], "m1")
    edited = correct(Task.DETECT, shown, truth, 0.8)
    assert [region["id"] for region in edited.result] == [shown[0]["id"]]
    assert (edited.kept, edited.changed) == (0, 1)


def test_more_work_takes_longer() -> None:
    little, much = edits.Edited([], kept=3), edits.Edited([], added=3)
    for seed in range(20):
        assert edits.lead_time(little, np.random.default_rng(seed)) < edits.lead_time(much, np.random.default_rng(seed))
