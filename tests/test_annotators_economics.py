"""The numbers that come back from a real Label Studio are what the person there did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpipe import economics
from alpipe.annotators import robot
from alpipe.annotators.studio import edits
from alpipe.annotators.studio.server import Server
from alpipe.economics import Shown
from alpipe.types import Boxes, Edits, LabelRequest, Suggestion, Task
from tests.studio_server import CLASSES, Case, make_case

pytestmark = pytest.mark.server

CAT, DOG = CLASSES


@pytest.fixture(autouse=True)
def no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def answered(case: Case, server: Server, requests: list[LabelRequest], **options: Any) -> list[economics.Work]:
    """The robot's answers to the requests, as the store has them after a pull."""
    settings: dict[str, Any] = {"home": server.home, "skip_share": 0.0} | options
    annotator = robot.build(robot.Options(**settings), case.context)
    case.note(annotator.push(requests))
    case.take(annotator.pull(None))
    return case.store.annotations.work()


def boxes(*rows: tuple[float, float, float, float, str]) -> Boxes:
    return Boxes(np.asarray([row[:4] for row in rows], np.float32).reshape(-1, 4), tuple(row[4] for row in rows))


def test_known_rates_of_edits_come_back_by_class(label_studio: Server, tmp_path: Path) -> None:
    case = make_case(tmp_path, Task.DETECT, 12, name="rates")
    truth = boxes((2, 2, 12, 12, CAT), (20, 2, 30, 12, CAT), (40, 2, 50, 12, DOG), (2, 20, 12, 30, DOG))
    shown = boxes(
        (2, 2, 12, 12, CAT),  # as it should be
        (20, 5, 30, 15, CAT),  # IoU 0.54: to be moved
        (40, 2, 50, 12, CAT),  # of the wrong class
        (40, 30, 50, 40, DOG),  # nothing is there
    )  # and the last one of the truth is missing
    case.truth.update(dict.fromkeys(case.items, truth))
    requests = [
        replace(request, suggestion=None if at < 5 else Suggestion(shown, (0.9,) * 4, "m1"), blind=at < 5)
        for at, request in enumerate(case.requests)
    ]
    work = answered(case, label_studio, requests)
    kinds = economics.by_round(work)[1]
    assert {kind: len(some) for kind, some in kinds.items()} == {Shown.SUGGESTION: 7, Shown.BLIND: 5, Shown.NOTHING: 0}
    cat = economics.cost(kinds[Shown.SUGGESTION], CAT)
    assert replace(cat.edits, overlap=0) == Edits(objects=14, accepted=7, moved=7, relabelled=7)
    assert cat.edits.overlap / 7 == pytest.approx(7 / 13, abs=1e-3)
    assert economics.cost(kinds[Shown.SUGGESTION], DOG).edits == Edits(objects=14, deleted=7, added=7)
    assert economics.cost(kinds[Shown.BLIND]).edits == Edits(objects=20, added=20)
    saved = economics.saved(work)
    assert saved.basis is economics.Basis.MEASURED
    assert saved.each is not None
    # by the robot's clock: 29.5 s for four boxes by hand, 1.5 + 0.3 + 2 × 3 + 7 + 1 s for the corrections
    assert saved.each == pytest.approx(29.5 - 15.8, abs=12)


@pytest.mark.parametrize("task", list(Task))
def test_what_the_robot_did_comes_back_whatever_the_task(
    label_studio: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: Task,
) -> None:
    did: list[edits.Edited] = []

    def watched(*arguments: Any) -> edits.Edited:
        did.append(correct(*arguments))
        return did[-1]

    correct = edits.correct
    monkeypatch.setattr(edits, "correct", watched)
    case = make_case(tmp_path, task, 10, name="did")
    work = answered(case, label_studio, case.requests, tolerance=(0.8, 0.8))
    assert len(work) == len(did) == 10
    total = economics.cost(work).edits
    put_back = total.accepted - sum(one.kept for one in did)  # moved by less than half a pixel, or redrawn as it was
    assert put_back == 0
    assert total.moved + total.relabelled == sum(one.changed for one in did)
    assert (total.deleted, total.added) == (sum(one.deleted for one in did), sum(one.added for one in did))
    assert total.objects == sum(len(one.result) for one in did)
    assert total.accepted
    assert total.moved + total.relabelled


def test_the_prediction_that_was_shown_is_compared_and_not_a_newer_one(
    label_studio: Server,
    tmp_path: Path,
) -> None:
    case = make_case(tmp_path, Task.DETECT, 4, name="newer")
    truth = boxes((2, 2, 12, 12, CAT))
    case.truth.update(dict.fromkeys(case.items, truth))
    off = Suggestion(boxes((30, 30, 40, 40, CAT)), (0.9,), "m1")
    case.requests = [replace(request, suggestion=off) for request in case.requests]
    annotator = robot.build(robot.Options(home=label_studio.home, skip_share=0.0), case.context)
    case.note(annotator.push(case.requests))
    newer = [replace(request, suggestion=Suggestion(truth, (0.9,), "m2"), round=2) for request in case.requests[:2]]
    annotator.push(newer)
    case.take(annotator.pull(None))
    done = {one.item_key: (one.model, one.edits) for one in case.store.annotations.work()}
    accepted, redrawn = {CAT: Edits(objects=1, accepted=1)}, {CAT: Edits(objects=1, deleted=1, added=1)}
    keys = list(case.items)
    assert done == dict.fromkeys(keys[:2], ("m2", accepted)) | dict.fromkeys(keys[2:], ("m1", redrawn))


def test_a_skipped_task_counts_beside_and_says_nothing_of_the_suggestion(
    label_studio: Server,
    tmp_path: Path,
) -> None:
    case = make_case(tmp_path, Task.DETECT, 6, name="skipped")
    work = answered(case, label_studio, case.requests, skip_share=0.999)
    cost = economics.cost(work)
    assert cost.skipped == 6
    assert (cost.answers, cost.times, cost.known, cost.edits) == (0, (), 0, Edits())


def test_as_many_people_are_asked_as_must_have_answered(label_studio: Server, tmp_path: Path) -> None:
    case = make_case(tmp_path, Task.DETECT, 2, name="people")
    annotator = robot.build(robot.Options(home=label_studio.home), replace(case.context, people=3))
    annotator.push(case.requests)
    with annotator.person.studio() as studio:
        number = annotator.person.choice.known()["project"]
        assert studio._sdk.projects.get(number).maximum_annotations == 3
