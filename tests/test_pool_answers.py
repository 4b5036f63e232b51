"""Answers: which one counts, and the state of the item that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpipe.pool.store import NewItem, PoolStore, Upserted
from alpipe.types import (
    Annotation,
    AnswerState,
    Boxes,
    Example,
    ImageClass,
    ItemState,
    Labels,
    Masks,
    Negative,
    Receipt,
    Refusal,
    Rle,
    Split,
)

A, B, C, H = ("a" * 20, "b" * 20, "c" * 20, "d" * 20)
START = datetime(2026, 1, 1, tzinfo=UTC)


def box(left: float = 0.1) -> Boxes:
    return Boxes(np.array([[left, 1, 10.3, 12]], np.float32), ("cell",))


def answer(
    item: str,
    external_id: str,
    labels: Labels | None = None,
    state: AnswerState = AnswerState.LABELLED,
    annotator: str = "labelstudio:3",
    minutes: float = 0,
) -> Annotation:
    given = box() if labels is None and state is AnswerState.LABELLED else labels
    return Annotation(item, state, given, annotator, external_id, at=START + timedelta(minutes=minutes))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PoolStore]:
    with PoolStore.open(f"sqlite:///{tmp_path / 'pool.db'}") as opened:
        opened.items.add([NewItem(key, f"/{key}.jpg", 64, 64) for key in (A, B, C)])
        opened.items.add([NewItem(H, f"/{H}.jpg", 64, 64, split=Split.HOLDOUT)])
        yield opened


def state_of(store: PoolStore, key: str) -> ItemState:
    item = store.items.get(key)
    assert item is not None
    return item.state


@pytest.mark.parametrize(
    "labels", [box(1 / 3), ImageClass("cat"), Masks({"sky": Rle(4, 6, "0h01")}), Boxes.none(), Masks({})], ids=str
)
def test_labels_come_back_to_the_bit(store: PoolStore, labels: Labels) -> None:
    store.truth.put(A, ImageClass("old"))
    store.truth.put(A, labels)
    assert store.truth.get(A) == labels
    assert store.truth.get(B) is None
    empty = labels in (Boxes.none(), Masks({}))
    given = answer(A, "1", labels, AnswerState.EMPTY if empty else AnswerState.LABELLED)
    store.annotations.upsert([given])
    assert store.annotations.latest() == {A: given}


def test_the_same_answers_again_change_nothing_and_an_edit_replaces(store: PoolStore) -> None:
    first = [answer(A, "1"), answer(B, "2", state=AnswerState.SKIPPED)]
    assert store.annotations.upsert(first) == Upserted(2, 0, 0)
    assert store.annotations.upsert(first) == Upserted(0, 0, 2)
    assert store.annotations.upsert([answer(A, "1", box(5), minutes=1)]) == Upserted(0, 1, 0)
    assert store.annotations.latest([A])[A].labels == box(5)
    assert store.annotations.standing([A]) == {A: ["1"]}, "an edit is no second answer"


def test_each_answer_gives_its_item_the_state(store: PoolStore) -> None:
    store.tasks.put([Receipt(key, key[0]) for key in (A, B, C, H)], "labelstudio", 0, None)
    assert store.items.counts() == {"pushed": 4}
    store.annotations.upsert(
        [
            answer(A, "1"),
            answer(B, "2", state=AnswerState.EMPTY),
            answer(C, "3", state=AnswerState.SKIPPED),
            answer(H, "4", state=AnswerState.DRAFT),
        ]
    )
    assert [state_of(store, key) for key in (A, B, C, H)] == ["labelled", "empty", "skipped", "pushed"]
    assert [item.key for item in store.tasks.open_items("labelstudio")] == [H]
    assert store.annotations.standing([H]) == {H: ["4"]}, "a draft is kept"
    assert set(store.annotations.latest()) == {A, B, C}


def test_a_withdrawn_answer_stops_counting_and_its_item_returns(store: PoolStore) -> None:
    store.tasks.put([Receipt(A, "7")], "labelstudio", 0, "m")
    store.annotations.upsert([answer(A, "1"), answer(B, "2")])
    assert store.annotations.withdraw(["1", "2", "unknown"]) == 2
    assert store.annotations.withdraw(["1"]) == 0
    assert (state_of(store, A), state_of(store, B)) == ("pushed", "unlabelled")
    assert store.annotations.latest() == {}
    store.annotations.upsert([answer(A, "1")])  # the deletion was undone
    assert state_of(store, A) == "labelled"


def test_external_ids_belong_to_their_kind_of_annotator(store: PoolStore) -> None:
    store.annotations.upsert([answer(A, "1"), answer(B, "1", annotator="robot")])
    assert store.annotations.withdraw(["1"], annotator="robot") == 1
    assert (state_of(store, A), state_of(store, B)) == ("labelled", "unlabelled")
    store.annotations.upsert([answer(A, "1", box(3), annotator="labelstudio:4")])  # another person edits it
    assert store.annotations.latest()[A].labels == box(3)


def test_the_newest_wins_but_an_import_never_over_a_person(store: PoolStore) -> None:
    store.annotations.upsert([answer(A, "1", box(1), minutes=5), answer(A, "2", box(2), minutes=9)])
    store.annotations.upsert([answer(A, "import:a", box(3), annotator="import:voc", minutes=99)])
    assert store.annotations.latest()[A].labels == box(2)
    store.annotations.withdraw(["2"])
    assert store.annotations.latest()[A].labels == box(1)
    store.annotations.withdraw(["1"])
    assert store.annotations.latest()[A].labels == box(3)


def test_an_answer_saved_again_is_the_newest(store: PoolStore) -> None:
    store.annotations.upsert([answer(A, "1", minutes=1), answer(A, "2", state=AnswerState.SKIPPED, minutes=2)])
    assert state_of(store, A) == "skipped"
    store.annotations.upsert([answer(A, "1", minutes=3)])
    assert state_of(store, A) == "labelled"


def test_examples_are_labelled_or_reviewed_empty_with_labels_and_of_one_split(store: PoolStore) -> None:
    store.annotations.upsert(
        [
            answer(A, "1"),
            answer(B, "2", Boxes.none(), AnswerState.EMPTY),
            answer(C, "3", state=AnswerState.SKIPPED),
            answer(H, "4"),
        ]
    )
    examples = store.annotations.examples(Split.POOL)
    assert [(example.item.key, example.labels) for example in examples] == [(A, box()), (B, Boxes.none())]
    assert [example.item.key for example in store.annotations.examples(Split.HOLDOUT)] == [H]
    assert isinstance(examples[0], Example)
    assert set(store.annotations.latest(split=Split.HOLDOUT)) == {H}
    assert store.annotations.ids([B, A, "e" * 20]) == [(B, "2"), (A, "1")]
    store.items.quarantine([Refusal(A, "gone")])
    assert [example.item.key for example in store.annotations.examples(Split.POOL)] == [B]


def test_an_empty_answer_without_labels_is_no_example(store: PoolStore) -> None:
    store.annotations.upsert([answer(A, "1", None, AnswerState.EMPTY)])
    assert state_of(store, A) == "empty"
    assert store.annotations.examples(Split.POOL) == []


def test_an_answer_for_no_item_is_refused_and_the_others_are_kept(store: PoolStore) -> None:
    done = store.annotations.upsert([answer("e" * 20, "8"), answer(A, "9")])
    assert (done.new, len(done.refused)) == (1, 1)
    assert done.refused[0].source == "labelstudio:3 8"
    assert state_of(store, A) == "labelled"


def test_a_quarantined_item_stays_so_whatever_is_said_of_it(store: PoolStore) -> None:
    store.items.quarantine([Refusal(A, "gone")])
    store.annotations.upsert([answer(A, "1")])
    store.tasks.put([Receipt(A, "1")], "labelstudio", 0, None)
    assert state_of(store, A) == "quarantined"


def test_tasks_are_kept_by_annotator_and_an_answered_item_stays_answered(store: PoolStore) -> None:
    store.annotations.upsert([answer(A, "1")])
    store.tasks.put([Receipt(A, "7"), Receipt(B, "8")], "labelstudio", 2, "m2")
    store.tasks.put([Receipt(B, "8")], "labelstudio", 2, "m2")
    assert (state_of(store, A), state_of(store, B)) == ("labelled", "pushed")
    task = store.tasks.get(B)
    assert task is not None
    assert (task.external_id, task.round, task.model) == ("8", 2, "m2")
    assert store.tasks.get(C) is None
    assert store.tasks.open_items("robot") == []


def test_negatives_are_retired_when_the_labels_they_were_measured_against_change(store: PoolStore) -> None:
    store.annotations.upsert([answer(key, key[0]) for key in (A, B, C)])
    store.negatives.replace(1, "m", [Negative(key, (0, 0, 5, 5), "cell", 0.9, 0.0) for key in (A, B, C)])
    store.annotations.upsert([answer(A, "a", minutes=3), answer(A, "draft", state=AnswerState.DRAFT)])
    assert len(store.negatives.all()) == 3  # the labels are the same
    store.annotations.upsert([answer(A, "a", box(7))])
    store.annotations.withdraw(["b"])
    assert [negative.item_key for negative in store.negatives.all()] == [C]
    assert store.negatives.count(1) == 3


ACTIONS = st.tuples(
    st.sampled_from(["upsert", "withdraw"]),
    st.sampled_from([0, 1]),  # the item
    st.sampled_from(["1", "2", "3"]),
    st.sampled_from([*AnswerState]),
    st.sampled_from(["labelstudio:1", "import:voc"]),
    st.integers(0, 5),  # the minute
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=12))
def test_the_current_answer_and_the_state_follow_from_the_answers_that_stand(
    store: PoolStore, actions: list[tuple[str, int, str, AnswerState, str, int]]
) -> None:
    run = sum(store.items.counts().values())  # items and ids of this example's own
    keys = [f"{run:018x}-{place}" for place in (0, 1)]
    store.items.add([NewItem(key, key, 9, 9) for key in keys])
    standing: dict[tuple[str, str], tuple[int, Annotation]] = {}
    order: dict[tuple[str, str], int] = {}
    for verb, item, number, state, annotator, minutes in actions:
        kind, external_id = annotator.partition(":")[0], f"{run}-{number}"
        if verb == "withdraw":
            store.annotations.withdraw([external_id], annotator=annotator)
            standing.pop((kind, external_id), None)
            continue
        said = answer(keys[item], external_id, state=state, annotator=annotator, minutes=minutes)
        store.annotations.upsert([said])
        old = standing.get((kind, external_id))
        if old and kind == "import" and (old[1].item_key, old[1].state) == (keys[item], state):
            said = old[1]  # an import that says the same again is as old as it was
        standing[kind, external_id] = (order.setdefault((kind, external_id), len(order)), said)
    for key in keys:
        valid = [
            (not said.annotator.startswith("import"), said.at, place, said)
            for place, said in standing.values()
            if said.item_key == key and said.state is not AnswerState.DRAFT
        ]
        best = max(valid, key=lambda entry: entry[:3])[3] if valid else None
        assert store.annotations.latest([key]).get(key) == best
        assert state_of(store, key) == (best.state.value if best else "unlabelled")
