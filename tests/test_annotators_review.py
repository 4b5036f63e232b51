"""Questions about labels through the real server: asked once, answered by people, taken into labels and bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpipe import rle
from alpipe.annotators import labelstudio
from alpipe.annotators.labelstudio import LabelStudioAnnotator
from alpipe.annotators.studio import project as projects
from alpipe.annotators.studio import review
from alpipe.annotators.studio.client import DETAILS, Row
from alpipe.annotators.studio.server import Server
from alpipe.steps import exchange
from alpipe.steps import review as steps
from alpipe.types import (
    Annotation,
    AnswerState,
    Boxes,
    Example,
    Negative,
    NegativeState,
    Question,
    QuestionKind,
    QuestionState,
    Split,
    Task,
)
from tests.conftest import MakeProject
from tests.studio_server import Case, make_case, truth_of

pytestmark = pytest.mark.server

NOTHING = 0  # the first image of a case holds no object


def open_case(folder: Path, task: Task, server: Server) -> tuple[Case, LabelStudioAnnotator]:
    case = make_case(folder, task, name=f"review{task}"[:9])
    return case, labelstudio.build(labelstudio.Options(home=server.home), case.context)


def tasks_of(annotator: LabelStudioAnnotator, choice: Any) -> list[Row]:
    with annotator.studio() as studio:
        project = projects.find(studio, choice, annotator.context)
        return [] if project is None else studio.tasks(project.id, include=f"{DETAILS},result")


def say(
    annotator: LabelStudioAnnotator, task: Row, model_is_right: bool | None, result: list[Row] | None = None
) -> None:
    """Answers as the browser does: with the regions that are shown, and the choice."""
    shown = task["predictions"][0]["result"] if result is None else result
    answer: Row = {"result": shown, "was_cancelled": model_is_right is None, "lead_time": 2.5}
    if model_is_right is not None:
        value = {"choices": [review.MODEL if model_is_right else review.LABELS]}
        chosen = {"id": "c", "type": "choices", "from_name": review.ANSWER, "to_name": "image", "value": value}
        answer["result"] = [*shown, chosen]
    with annotator.studio() as studio:
        studio.annotate(int(task["id"]), answer)


def question(case: Case, number: int, key: str) -> Question:
    item, labels = list(case.items.values())[number], truth_of(case.context.task, number)
    box = (2.0, 30.0, 20.0, 44.0)
    return Question(key, item, QuestionKind.MISSED, labels, box, None, case.context.classes[1], 0.9, 1, "m1", "sure")


@pytest.mark.parametrize("task", [Task.DETECT, Task.SEGMENT])
def test_a_question_is_asked_once_and_the_labels_come_back_as_they_were(
    tmp_path: Path,
    label_studio: Server,
    task: Task,
) -> None:
    case, annotator = open_case(tmp_path, task, label_studio)
    annotator.push(case.requests)
    asked = [question(case, 1, "q-one"), question(case, 3, "q-two"), question(case, 3, "q-three")]
    receipts = annotator.ask(asked[:2])
    assert annotator.ask(asked) == [*receipts, *annotator.ask(asked[2:])]
    tasks = tasks_of(annotator, annotator.review)
    assert sorted(row["data"]["alpipe_key"] for row in tasks) == ["q-one", "q-three", "q-two"]
    assert len(tasks_of(annotator, annotator.choice)) == len(case.requests), "an item's own task is not touched"
    assert annotator.replies(asked) == []
    by_key = {row["data"]["alpipe_key"]: row for row in tasks}
    say(annotator, by_key["q-one"], True)
    say(annotator, by_key["q-two"], False)
    said = {reply.key: reply for reply in annotator.replies(asked)}  # type: ignore[union-attr]
    assert {key: reply.model_is_right for key, reply in said.items()} == {"q-one": True, "q-two": False}  # type: ignore[union-attr]
    for one in asked[:2]:
        back = said[one.key].labels  # type: ignore[union-attr]
        if isinstance(one.labels, Boxes):
            np.testing.assert_allclose(back.xyxy, one.labels.xyxy, atol=0.01)  # type: ignore[union-attr]
        else:
            assert {name: mask for name, mask in back.by_name.items() if rle.area(mask)} == one.labels.by_name  # type: ignore[union-attr]
    kept = annotator.ask([], gone=[one.key for one in asked])
    assert {receipt.item_key for receipt in kept} == {"q-one", "q-two"}, "what somebody has answered or begun is named"
    left = {row["data"]["alpipe_key"] for row in tasks_of(annotator, annotator.review)}
    assert left == {"q-one", "q-two"}, "what somebody has answered is not taken back"


def test_the_tab_shows_what_is_not_answered(
    tmp_path: Path,
    label_studio: Server,
) -> None:
    case, annotator = open_case(tmp_path, Task.CLASSIFY, label_studio)
    item = next(iter(case.items.values()))
    given, seen = case.context.classes
    swapped = Question("q", item, QuestionKind.SWAPPED, truth_of(Task.CLASSIFY, 0), None, given, seen, 0.9, 1, "m", "w")
    annotator.ask([swapped])
    annotator.ask([swapped])
    with annotator.studio() as studio:
        project = projects.find(studio, annotator.review, annotator.context)
        assert project is not None
        assert project.tasks == 1
        [view] = studio._views(project.id, review.VIEW)
        shown = studio._request("", "GET", "/api/tasks/", params={"project": project.id, "view": view})
        assert shown["total"] == 1
    [task] = tasks_of(annotator, annotator.review)
    result = [dict(task["predictions"][0]["result"][0], value={"choices": [seen]})]
    with annotator.studio() as studio:
        studio.annotate(int(task["id"]), {"result": result, "was_cancelled": False})
        shown = studio._request("", "GET", "/api/tasks/", params={"project": project.id, "view": view})
        assert shown["total"] == 0
    [reply] = annotator.replies([swapped])
    assert reply.labels.name == seen  # type: ignore[union-attr]


def test_answers_flow_back_into_labels_and_bank(
    make_project: MakeProject,
    label_studio: Server,
) -> None:
    project = make_project(
        Task.DETECT,
        name="review flow",
        annotator={"name": "labelstudio", "home": str(label_studio.home)},
        batch=4,
        review={"share": 1.0},
    )
    name = project.classes[0]
    items = project.store.items.list(split=Split.POOL)[:3]
    labels = Boxes(np.array([[2, 2, 12, 12]], np.float32), (name,))
    project.store.annotations.upsert(
        [Annotation(item.key, AnswerState.LABELLED, labels, "import:test", f"import/{item.key}") for item in items]
    )
    project.store.rounds.open(1, "push", seed=0, config={}, versions={})
    places = [Negative(item.key, (30.0, 30.0, 44.0, 44.0), name, 0.9 - at / 10, 0.0) for at, item in enumerate(items)]
    project.store.negatives.replace(1, "m", [], questions=dict.fromkeys(places, "sure of it"))
    steps.file(project, {item.key: Example(item, labels) for item in items}, [])
    annotator = project.annotator()
    assert isinstance(annotator, LabelStudioAnnotator)
    assert steps.push(project, 1, annotator, lambda _: None) == 3
    assert steps.push(project, 1, annotator, lambda _: None) == 3
    tasks = {row["data"]["item"]: row for row in tasks_of(annotator, annotator.review)}
    assert len(tasks) == 3
    with annotator.studio() as studio:  # somebody deletes one: it is asked again
        there = projects.find(studio, annotator.review, annotator.context)
        assert there is not None
        studio.delete_untouched(there.id, [int(tasks[items[2].key]["id"])], [])
    assert steps.push(project, 1, annotator, lambda _: None) == 3
    tasks = {row["data"]["item"]: row for row in tasks_of(annotator, annotator.review)}
    assert len(tasks) == 3
    yes, no, skipped = (item.key for item in items)
    say(annotator, tasks[yes], True)
    say(annotator, tasks[no], False)
    say(annotator, tasks[skipped], None)
    assert exchange.pull(project, annotator, lambda _: None).answers == 3
    assert exchange.pull(project, annotator, lambda _: None).answers == 0, "what was taken in is not taken in again"
    now = project.store.annotations.latest(keys=[yes, no, skipped])
    assert now[no].labels == now[skipped].labels == labels
    np.testing.assert_allclose(now[yes].labels.xyxy, [[2, 2, 12, 12], [30, 30, 44, 44]], atol=0.01)  # type: ignore[union-attr]
    assert now[yes].annotator.startswith("labelstudio:")
    entries = {entry.negative.item_key: entry for entry in project.store.negatives.entries()}
    assert entries[yes].state is NegativeState.OBJECT
    assert entries[no].state is NegativeState.CONFIRMED
    assert str(entries[no].settled_by).startswith("labelstudio:")
    assert entries[skipped].state is NegativeState.QUESTION
    states = {one.question.item.key: one.state for one in project.store.questions.list()}
    assert states == {yes: QuestionState.WRONG, no: QuestionState.RIGHT, skipped: QuestionState.UNSURE}
    steps.file(project, {item.key: Example(item, labels) for item in items}, [])
    assert project.store.questions.next() == [], "nobody is asked twice"
    with annotator.studio() as studio:  # the person thinks again
        [answer] = [row for row in tasks_of(annotator, annotator.review) if row["data"]["item"] == yes]
        given = answer["annotations"][0]
        result = [region for region in given["result"] if region["from_name"] != review.ANSWER]
        chosen = {"type": "choices", "from_name": review.ANSWER, "to_name": "image", "id": "c"}
        body = {"result": [*result, chosen | {"value": {"choices": [review.LABELS]}}]}
        studio._request("", "PATCH", f"/api/annotations/{given['id']}/", body=body)
    assert exchange.pull(project, annotator, lambda _: None).answers == 1
    assert project.store.annotations.latest(keys=[yes])[yes].labels == labels
    [entry] = [entry for entry in project.store.negatives.entries() if entry.negative.item_key == yes]
    assert entry.state is NegativeState.CONFIRMED
