"""A pull of whatever rows a server might give: each answer is taken or refused with a reason, none breaks it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpipe.annotators.studio import config
from alpipe.annotators.studio.client import Counts, Filter, Row
from alpipe.annotators.studio.project import OpenProject
from alpipe.annotators.studio.pull import Ledger, external_id, pull, shown_model
from alpipe.errors import AnnotatorError
from alpipe.protocols import AnnotatorContext, no_progress
from alpipe.types import AnswerState, Item, Pulled, Task
from tests.studio_server import CLASSES, HEIGHT, WIDTH

EXAMPLES = int(os.environ.get("ALPIPE_EXAMPLES", "300"))
"""How many mutated pulls; 10,000 take some minutes."""

ITEM = Item("k1", "image.png", WIDTH, HEIGHT)
CONFIG = config.write(Task.DETECT, CLASSES)
PROJECT = OpenProject(1, config.read(CONFIG, Task.DETECT, "test"), CONFIG, "m1", 1, "http://studio/projects/1/data")


class Canned:
    """Gives the rows that a test wants, where a server would give its own."""

    url = "http://studio"

    def __init__(self, rows: list[Any], *, changed: bool = True) -> None:
        self.rows, self.changed = rows, changed

    def tasks(self, number: int, filters: Sequence[Filter] = (), include: str = "") -> list[Any]:
        recent = any(condition.column == "updated_at" for condition in filters)
        return [] if recent and not self.changed else copy.deepcopy(self.rows)

    def delete_untouched(self, number: int, tasks: Sequence[int], filters: Sequence[Filter]) -> None:
        assert len(tasks) < len(self.rows)

    def counts(self, number: int) -> Counts:
        return Counts(len(self.rows), 0)


def pulled(
    rows: list[Any], folder: Path, since: str | None = None, *, changed: bool = True, asked: int = 1, **how: bool
) -> Pulled:
    context = AnnotatorContext(
        "test",
        Task.DETECT,
        CLASSES,
        folder,
        lambda _: None,
        list,
        {ITEM.key: ITEM}.get,
        asked=lambda: {f"k{number}": f"1/{number}" for number in range(1, asked + 1)},
        standing=lambda keys: {key: [f"1/{key}/a7"] for key in keys},
    )
    ledger = Ledger(folder / "seen.json", folder / "refused.jsonl")
    studio: Any = Canned(rows, changed=changed)
    return pull(studio, PROJECT, context, ledger, since, no_progress, **how)


def region() -> Row:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": [CLASSES[0]]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "r", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value} | size


def task() -> Row:
    answer = {
        "id": 7,
        "result": [region()],
        "was_cancelled": False,
        "completed_by": 3,
        "updated_at": "2026-01-01T00:00:00.000001Z",
        "lead_time": 4.0,
        "parent_prediction": 9,
    }
    other = answer | {"id": 8, "result": [], "completed_by": {"id": 4}}
    data = {"image": "u", "alpipe_key": "k1", "model": "m1", "round": 1, "blind": False}
    return {
        "id": 5,
        "data": data,
        "updated_at": "2026-01-01T00:00:00.000001Z",
        "annotations": [answer, other],
        "drafts": [],
        "predictions_model_versions": "m1",
    }


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["k1", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places(one, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A task as the server writes it, with some values replaced or gone."""
    row: Any = task()
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(places(row)))
        if not place:
            continue
        holder = row
        for key in place[:-1]:
            holder = holder[key]
        if draw(st.booleans()) and isinstance(holder, dict):
            del holder[place[-1]]
        else:
            holder[place[-1]] = draw(JUNK)
    return row


@given(rows=st.lists(mutated() | JUNK, max_size=3))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_row_breaks_a_pull_and_each_answer_is_taken_or_refused(rows: list[Any], tmp_path: Path) -> None:
    (tmp_path / "refused.jsonl").unlink(missing_ok=True)
    got = pulled(rows, tmp_path)
    ours = [
        row
        for row in rows
        if isinstance(row, dict)
        and isinstance(row.get("id"), int)
        and isinstance(row.get("data"), dict)
        and row["data"].get("alpipe_key")
    ]
    answers = [a for row in ours for a in (row.get("annotations") if isinstance(row.get("annotations"), list) else [])]
    assert len(got.annotations) + len(got.refused) >= len(answers)
    assert all(refusal.reason for refusal in got.refused)
    kept = (tmp_path / "refused.jsonl").read_text().splitlines() if (tmp_path / "refused.jsonl").exists() else []
    assert all(json.loads(line)["reason"] for line in kept)


def test_several_people_s_answers_are_all_kept_the_oldest_first(tmp_path: Path) -> None:
    rows = [task()]
    rows[0]["annotations"][0]["updated_at"] = "2026-01-02T00:00:00.000001Z"
    got = pulled(rows, tmp_path)
    assert [answer.annotator for answer in got.annotations] == ["labelstudio:4", "labelstudio:3"]
    assert [answer.state for answer in got.annotations] == [AnswerState.EMPTY, AnswerState.LABELLED]


def test_one_answer_that_cannot_be_understood_does_not_hide_the_others(tmp_path: Path) -> None:
    rows = [task()]
    rows[0]["annotations"][0]["result"][0]["value"]["rectanglelabels"] = ["unicorn"]
    got = pulled(rows, tmp_path)
    assert [answer.external_id for answer in got.annotations] == [external_id(PROJECT, "k1", "a", 8)]
    assert "unicorn" in got.refused[0].reason
    [line] = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["answer"] == rows[0]["annotations"][0], "kept as it came"


def test_what_other_controls_say_is_counted_and_kept_and_the_boxes_are_taken(tmp_path: Path) -> None:
    rows = [task()]
    comment = {
        "id": "t",
        "type": "textarea",
        "from_name": "comment",
        "to_name": "image",
        "value": {"text": ["blurred"]},
    }
    for answer in rows[0]["annotations"]:
        answer["result"] = [*answer["result"], comment]
    got = pulled(rows, tmp_path)
    assert [answer.state for answer in got.annotations] == [AnswerState.LABELLED, AnswerState.EMPTY]
    assert (got.withdrawn, [refusal.source for refusal in got.refused]) == ((), [PROJECT.name])
    assert "2 results of other controls (comment) in 2 answers are no labels" in got.refused[0].reason
    kept = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert [(line["id"], line["answer"]) for line in kept] == [(f"1/k1/a{number}", comment) for number in (7, 8)]


def test_an_answer_that_is_refused_is_told_by_every_pull_until_people_change_it(tmp_path: Path) -> None:
    broken, mended = task(), task()
    broken["annotations"][0]["result"][0]["value"]["rectanglelabels"] = ["bird"]
    first = pulled([broken], tmp_path)
    assert [refusal.reason for refusal in first.refused] == [
        "region 1 ('r'): the unknown label 'bird'; the labels are " + ", ".join(CLASSES)
    ]
    later = pulled([broken], tmp_path, first.watermark, changed=False)
    assert (later.annotations, later.refused) == ((), first.refused)
    assert pulled([mended], tmp_path, first.watermark).refused == ()
    assert pulled([mended], tmp_path, first.watermark, changed=False).refused == ()


def test_what_was_refused_is_forgotten_with_its_task(tmp_path: Path) -> None:
    broken = task()
    broken["annotations"][0]["result"] = None
    first = pulled([broken], tmp_path)
    assert first.refused
    later = pulled([], tmp_path, first.watermark)
    assert (later.gone, later.refused) == (("k1",), ())


def test_a_task_that_went_while_others_added_one_is_noticed(tmp_path: Path) -> None:
    foreign = {"id": 9, "data": {"image": "theirs"}, "updated_at": "2026-01-01T00:00:01.0Z"}
    first = pulled([task()], tmp_path)
    assert pulled([foreign | {"created_at": "2026-01-01T00:00:01.0Z"}], tmp_path, first.watermark).gone == ("k1",)


def rows_of(*numbers: int) -> list[Row]:
    return [task() | {"id": number, "data": task()["data"] | {"alpipe_key": f"k{number}"}} for number in numbers]


@pytest.mark.parametrize(
    ("asked", "there", "stops"),
    [(21, 0, True), (20, 0, False), (100, 49, True), (100, 50, False), (100, 100, False)],
)
def test_most_questions_gone_at_once_stop_the_pull_with_nothing_changed(
    asked: int, there: int, stops: bool, tmp_path: Path
) -> None:
    pulled(rows_of(*range(1, asked + 1)), tmp_path, asked=asked)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rows = rows_of(*range(1, there + 1))
    if stops:
        with pytest.raises(AnnotatorError, match=rf"data: {asked - there} of the {asked} tasks .*accept-deletions"):
            pulled(rows, tmp_path, asked=asked)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    got = pulled(rows, tmp_path, asked=asked, accept_deletions=stops)
    assert len(got.gone) == asked - there
    assert {f"1/{key}/a7" for key in got.gone} <= {*got.withdrawn}


def test_a_time_in_the_future_does_not_hide_what_comes(tmp_path: Path) -> None:
    rows = [task(), task() | {"id": 6, "updated_at": "9999-01-01T00:00:00Z"}]
    assert pulled(rows, tmp_path).watermark == "1@2026-01-01T00:00:00.000001Z"


@pytest.mark.parametrize(
    ("parent", "versions", "data", "shown"),
    [
        (9, "m1", {"model": "m1"}, "m1"),
        (9, "m1", {"model": "m2"}, "m1"),  # the newer one came while the person was at it
        (9, "m1,m2", {"model": "m2"}, "m1"),
        (10, "m1,m2", {"model": "m1"}, "m2"),
        (None, "m1,m2", {"model": "m2"}, "m2"),
        (None, "", {"model": ""}, None),
        (None, None, {}, None),
    ],
)
def test_the_model_is_the_one_that_was_shown(parent: Any, versions: Any, data: Row, shown: str | None) -> None:
    row = {"data": data, "predictions_model_versions": versions}
    assert shown_model({"parent_prediction": parent}, row, {9: "m1", 10: "m2"}) == shown


@pytest.mark.parametrize(("model", "blind"), [("", True), ("m1", False)])
def test_a_blind_answer_is_marked(tmp_path: Path, model: str, blind: bool) -> None:
    rows = [task()]
    rows[0]["data"] |= {"model": model, "blind": blind}
    rows[0]["predictions_model_versions"] = model
    for answer in rows[0]["annotations"]:
        answer["parent_prediction"] = 9 if model else None
    assert {(answer.model, answer.blind) for answer in pulled(rows, tmp_path).annotations} == {(model or None, blind)}
