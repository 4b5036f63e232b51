"""What the loop asks people: open questions follow the newest model, some stay blind, disagreement goes back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from alpipe import loop
from alpipe.annotators import oracle
from alpipe.loop import advance, single
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps import exchange
from alpipe.types import (
    Annotation,
    AnswerState,
    ImageClass,
    Item,
    ItemState,
    LabelRequest,
    Pulled,
    Receipt,
    Split,
    Task,
)
from tests.conftest import MakeProject

Pushes = list[list[LabelRequest]]


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> Pushes:
    """The requests of every push to the oracle."""
    seen: Pushes = []
    plain = oracle.OracleAnnotator.push

    def push(
        self: oracle.OracleAnnotator, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress
    ) -> list[Receipt]:
        seen.append(list(requests))
        return plain(self, requests, progress)

    monkeypatch.setattr(oracle.OracleAnnotator, "push", push)
    return seen


def leave_open(project: Project, count: int) -> list[str]:
    """Goes to the first push, and takes the truth of some of the batch away, so that nobody answers them."""
    while loop.current_round(project).step != "push":
        loop.perform(project, loop.current_round(project))
    keys = [key for key in project.store.rounds.selected(0) if project.store.truth.get(key) is not None][:count]
    with project.store.database.write() as connection:
        for key in keys:
            connection.exec_driver_sql("DELETE FROM truth WHERE item_key = ?", (key,))
    return keys


def test_questions_of_earlier_rounds_that_are_open_get_what_the_new_model_makes_of_them(
    make_project: MakeProject, pushes: Pushes
) -> None:
    project = make_project(Task.CLASSIFY, wait_for=0.5, blind=0.0, suggest_above=0.0)
    keys = leave_open(project, 2)
    advance(project, rounds=2)
    first, second = pushes[:2]
    before = {request.item.key: request for request in first}
    again = {request.item.key: request for request in second if request.item.key in keys}
    assert set(again) == set(keys)
    model = project.store.rounds.list()[1].model
    for key, request in again.items():
        assert request.suggestion is not None
        assert request.suggestion.model == model
        assert request.uncertainty is not None
        assert (request.round, request.reason) == (0, before[key].reason), "why it was chosen does not change"
        task = project.store.tasks.get(key)
        assert task is not None
        assert (task.round, task.model) == (0, model)
    assert project.store.rounds.list()[1].counts["refreshed"] == 2
    assert project.store.rounds.list()[1].counts["pushed"] == len(second) - 2


def test_the_hold_out_is_never_shown_a_pre_annotation(make_project: MakeProject, pushes: Pushes) -> None:
    project = make_project(Task.CLASSIFY, wait_for=0.5, blind=0.0, suggest_above=0.0)
    leave_open(project, 2)
    key = project.store.items.list(split=Split.HOLDOUT)[0].key
    project.store.annotations.withdraw([external for _, external in project.store.annotations.ids([key])])
    project.store.tasks.put([Receipt(key, key)], "oracle", 0, None)
    advance(project, rounds=2)
    for request in (request for requests in pushes for request in requests):
        assert request.item.split is Split.POOL or request.suggestion is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_the_batch_is_blind(make_project: MakeProject, pushes: Pushes, share: float) -> None:
    project = make_project(Task.CLASSIFY, blind=share, suggest_above=0.0)
    advance(project, rounds=2)
    first, second = pushes
    assert not any(request.blind or request.suggestion for request in first), "there is no model yet"
    assert {(request.blind, request.suggestion is None) for request in second} == {(share == 1.0, share == 1.0)}
    assert project.store.rounds.list()[1].counts["blind"] == (4 if share else 0)


def test_who_is_blind_is_drawn_by_seed_and_key_alone() -> None:
    keys = [f"{number:020x}" for number in range(2000)]
    drawn = {key for key in keys if exchange.is_blind(key, 0.1, seed=0)}
    assert 150 < len(drawn) < 250
    assert drawn < {key for key in keys if exchange.is_blind(key, 0.2, seed=0)}, "a larger share only adds"
    assert drawn != {key for key in keys if exchange.is_blind(key, 0.1, seed=1)}


class TwoPeople:
    """Says what it is told to say, and remembers what it was asked."""

    def __init__(self, pulled: Pulled) -> None:
        self.pulled = pulled
        self.asked: list[LabelRequest] = []

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:
        return self.pulled

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        self.asked += requests
        return [Receipt(request.item.key, request.item.key) for request in requests]

    def where(self) -> str:
        return "here"


def say(item: Item, who: int, name: str) -> Annotation:
    at = datetime(2026, 1, who, tzinfo=UTC)
    return Annotation(item.key, AnswerState.LABELLED, ImageClass(name), f"test:{who}", f"{item.key}/{who}", at=at)


def test_an_item_about_which_people_disagree_goes_back_to_them(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, agreement={"policy": "majority", "minimum": 2})
    item, agreed, *_ = project.store.items.list(split=Split.POOL)
    project.store.tasks.put([Receipt(item.key, "1"), Receipt(agreed.key, "2")], "oracle", 3, None)
    a, b = project.classes[:2]
    people = TwoPeople(Pulled((say(item, 1, a), say(item, 2, b), say(agreed, 1, a), say(agreed, 2, a)), "w"))
    exchange.pull(project, people, no_progress)
    [request] = people.asked
    assert (request.item.key, request.round, request.uncertainty, request.again) == (item.key, 3, 1.0, True)
    assert "people disagree" in request.reason
    states = {one.key: one.state for one in project.store.items.list(keys=[item.key, agreed.key])}
    assert states == {item.key: ItemState.PUSHED, agreed.key: ItemState.LABELLED}


def test_a_round_does_not_wait_for_a_question_that_people_deleted(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    [key] = leave_open(project, 1)
    assert "answers to 1 of 4 tasks" in str(advance(project).waiting_for)
    gone = exchange.pull(project, TwoPeople(Pulled((), "w", gone=(key,))), no_progress)
    assert gone.gone == 1
    assert advance(project).waiting_for is None
    assert "deleted" not in single(project, "pull")
