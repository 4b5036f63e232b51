"""What is said of a person's edits is what was done to the regions that were shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpipe.annotators.studio import config, edits, regions, suggestions
from alpipe.annotators.studio.client import Row
from alpipe.annotators.studio.suggestions import Shown
from alpipe.types import Boxes, Edits, Item, Labels, Task
from tests.studio_server import CLASSES, HEIGHT, WIDTH, suggestion_of, truth_of

ITEM = Item("k", "image.png", WIDTH, HEIGHT)
CONTROLS = {task: config.read(config.write(task, CLASSES), task, "test") for task in Task}
CAT, DOG = CLASSES


def edits_of(row: Row, task: Row, model: str | None, shown: Shown, kind: Task = Task.DETECT) -> dict[str, Edits] | None:
    """What is said of an answer, as the server has it."""
    given_ = regions.parts(row["result"], ITEM, CONTROLS[kind], CLASSES)
    return suggestions.edits(given_, suggestions.result(row, task, model, shown), ITEM, CONTROLS[kind], CLASSES)


def told(task: Task, shown: list[regions.Region], answer: list[regions.Region]) -> dict[str, Edits]:
    """What is said of an answer that was made from prediction 9 of model m."""
    prediction = {"id": 9, "model_version": "m", "result": shown}
    found = edits_of({"result": answer, "parent_prediction": 9}, {"id": 5}, "m", Shown({9: prediction}, {}), task)
    assert found is not None
    return found


def regions_of(task: Task, labels: Labels) -> list[regions.Region]:
    return regions.encode(labels, ITEM, CONTROLS[task], "m")


def boxes(*rows: tuple[float, float, float, float, str]) -> Boxes:
    return Boxes(np.asarray([row[:4] for row in rows], np.float32).reshape(-1, 4), tuple(row[4] for row in rows))


@pytest.mark.parametrize("task", list(Task))
@given(shown=st.integers(0, 11), true=st.integers(0, 11), tolerance=st.floats(0.5, 1), data=st.data())
@settings(max_examples=40)
def test_what_is_told_is_what_the_robot_did(
    task: Task, shown: int, true: int, tolerance: float, data: st.DataObject
) -> None:
    before = regions_of(task, suggestion_of(task, shown, "m").labels)
    truth = truth_of(task, true)
    did = edits.correct(before, truth, ITEM, CONTROLS[task], CLASSES, tolerance)
    by_class = told(task, before, data.draw(st.permutations(did.result)))
    total = sum(by_class.values(), Edits())
    put_back = total.accepted - did.kept  # redrawn as it was: by whom it was touched does not matter
    assert 0 <= put_back <= did.changed
    assert (total.moved + total.relabelled, total.deleted, total.added) == (
        did.changed - put_back, did.deleted, did.added,
    )  # fmt: skip
    assert total.suggested == len(before)
    assert total.objects == len(did.result)
    assert 0 <= total.overlap <= total.moved
    for name, done in by_class.items():
        assert done.suggested == sum(region["value"][CONTROLS[task].region_type] == [name] for region in before)


def test_each_kind_of_edit_is_counted_under_the_class_that_was_suggested() -> None:
    shown = regions_of(
        Task.DETECT,
        boxes(
            (0, 0, 10, 10, CAT), (20, 0, 30, 10, CAT), (40, 0, 50, 10, CAT), (0, 20, 10, 30, CAT), (20, 20, 30, 30, DOG)
        ),
    )
    moved, renamed, added = regions_of(
        Task.DETECT, boxes((20, 5, 30, 15, CAT), (40, 0, 50, 10, DOG), (50, 30, 60, 40, DOG))
    )
    answer = [
        shown[0],
        moved | {"id": shown[1]["id"]},
        renamed | {"id": shown[2]["id"]},
        shown[4],
        added | {"id": "new"},
    ]
    by_class = told(Task.DETECT, shown, answer)
    cat, dog = by_class[CAT], by_class[DOG]
    assert replace(cat, overlap=0) == Edits(objects=2, accepted=1, moved=1, relabelled=1, deleted=1)
    assert cat.overlap == pytest.approx(1 / 3, abs=1e-4)
    assert dog == Edits(objects=3, accepted=1, added=1)


def test_a_box_that_was_touched_and_put_back_counts_as_accepted() -> None:
    shown = regions_of(Task.DETECT, boxes((0, 0, 10, 10, CAT)))
    value = shown[0]["value"] | {"x": shown[0]["value"]["x"] + 0.3 * 100 / WIDTH}
    assert told(Task.DETECT, shown, [shown[0] | {"value": value, "origin": "prediction-changed"}])[CAT].accepted == 1


def test_a_box_that_was_only_turned_was_moved() -> None:
    shown = regions_of(Task.DETECT, boxes((20, 20, 40, 30, CAT)))
    turned = [shown[0] | {"value": shown[0]["value"] | {"rotation": 20}}]
    assert told(Task.DETECT, shown, turned)[CAT].moved == 1
    assert told(Task.DETECT, turned, turned)[CAT].accepted == 1


def test_an_answer_without_suggestion_is_all_added() -> None:
    answer = {"result": regions_of(Task.DETECT, boxes((0, 0, 10, 10, CAT), (20, 0, 30, 10, CAT)))}
    found = edits_of(answer, {"id": 5}, None, Shown())
    assert found == {CAT: Edits(objects=2, added=2)}


def test_nothing_is_told_where_the_prediction_is_gone_or_not_as_we_send_it() -> None:
    answer = {"result": [], "parent_prediction": 9}
    for shown in (Shown(), Shown({9: {"id": 9, "result": [{"type": "textarea"}]}}), Shown({9: {"id": 9}})):
        assert edits_of(answer, {"id": 5}, "m", shown) is None


def test_without_a_parent_the_prediction_of_the_model_that_the_task_shows_is_meant() -> None:
    shown = regions_of(Task.DETECT, boxes((0, 0, 10, 10, CAT)))
    rows = Shown({}, {(5, "m"): {"id": 9, "result": shown}, (6, "m"): {"id": 10, "result": []}})
    found = edits_of({"result": shown}, {"id": 5}, "m", rows)
    assert found == {CAT: Edits(objects=1, accepted=1)}


@given(ids=st.lists(st.sampled_from(["a", "b", None, 3, ["x"]]), min_size=4, max_size=4))
def test_ids_that_are_missing_or_there_twice_lose_no_region(ids: list[object]) -> None:
    row = regions_of(Task.DETECT, boxes((0, 0, 10, 10, CAT), (20, 0, 30, 10, CAT)))
    named = [region | {"id": name} for region, name in zip([*row, *row], ids, strict=True)]
    done = told(Task.DETECT, named[:2], named[2:])[CAT]
    assert done.suggested == 2
    assert done.objects == 2
    assert done.accepted + done.moved + done.added == 2
