"""From the pool into every format and back: reviewed-empty images and turned boxes survive, what cannot is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alpipe import boxes, plugins
from alpipe.plugins import Kind
from alpipe.project import Project
from alpipe.steps import importing
from alpipe.types import AnswerState, Boxes, ItemState, Masks, Split, Task
from tests.conftest import Ran

CASES = [
    (name, task)
    for name in sorted(plugins.available(Kind.FORMAT))
    for task in sorted(plugins.load(Kind.FORMAT, name).TASKS)
    if task is not Task.CLASSIFY  # there is no empty class: an image without class is one without answer
]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_reviewed_empty_images_survive_every_format_and_back(
    name: str, task: Task, make_project: Callable[..., Project], tmp_path: Path
) -> None:
    first = make_project(task, 12)
    empty = Boxes.none() if task is Task.DETECT else Masks({})
    items = first.store.items.list(states=[ItemState.UNLABELLED])
    said = [importing.annotation_of(item, empty, "labelstudio:1") for item in items[:3]]
    first.store.annotations.upsert(said)
    importing.export_labels(first, name, tmp_path / "set")
    with Project.create(tmp_path / "second", first.config) as second:
        report = importing.import_labels(second, name, tmp_path / "set")
        back = second.store.annotations.latest()
    assert report.refused == ()
    assert {back[item.key].state for item in items[:3]} == {AnswerState.EMPTY}
    for split in Split:
        for example in first.store.annotations.examples(split):
            found = back[example.item.key].labels
            if isinstance(example.labels, Boxes) and isinstance(found, Boxes):
                np.testing.assert_allclose(found.xyxy, example.labels.xyxy, atol=1e-3)
                assert found.names == example.labels.names
            else:
                assert found == example.labels


@pytest.mark.parametrize("name", [name for name, task in CASES if task is Task.DETECT])
def test_an_export_says_how_many_boxes_lost_their_rotation(
    name: str, make_project: Callable[..., Project], alpipe: Callable[..., Ran], tmp_path: Path
) -> None:
    project = make_project(Task.DETECT, 12, holdout={"labels": 0})
    item = project.store.items.list(states=[ItemState.UNLABELLED])[0]
    corners = np.stack([boxes.turn(10, 10, 20, 10, 0), boxes.turn(30, 20, 20, 10, 30)]).astype(np.float32)
    around = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    labels = Boxes(around, tuple(project.classes[:2]), corners)
    project.store.annotations.upsert([importing.annotation_of(item, labels, "labelstudio:1")])
    (stored,) = (e.labels for e in project.store.annotations.examples(Split.POOL) if e.item.key == item.key)
    assert stored == labels, "the store keeps the corners to the bit"
    ran = alpipe("-C", project.root, "export", name, tmp_path / "set")
    assert ran.status == 0
    assert ("1 rotated boxes as the upright boxes around them" in ran.out.replace("\n", " ")) == (name == "voc")
