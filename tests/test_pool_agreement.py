"""What several people's answers come to: properties of the merge, and the store that keeps to it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpipe import rle
from alpipe.boxes import turn
from alpipe.pool.agreement import Agreed, Open, Rule, merge
from alpipe.pool.store import NewItem, PoolStore
from alpipe.types import (
    Annotation,
    AnswerState,
    Boxes,
    ImageClass,
    ItemState,
    Labels,
    Masks,
    Negative,
    Receipt,
    Split,
    corners_of,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
MAJORITY, CONSENSUS = Rule("majority"), Rule("consensus")
A = "a" * 20


def said(labels: Labels | None, who: int = 1, minute: float = 0, *, skipped: bool = False) -> Annotation:
    empty = labels is None or (not isinstance(labels, ImageClass) and labels in (Boxes.none(), Masks({})))
    state = AnswerState.SKIPPED if skipped else AnswerState.EMPTY if empty else AnswerState.LABELLED
    at = START + timedelta(minutes=minute)
    return Annotation(A, state, None if skipped else labels, f"labelstudio:{who}", f"{who}-{minute}", 5.0, at=at)


def all_say(*labels: Labels | None) -> list[Annotation]:
    return [said(one, who, who) for who, one in enumerate(labels)]


def boxes(*rows: tuple[float, float, float, float, str]) -> Boxes:
    return Boxes(np.asarray([row[:4] for row in rows], np.float32).reshape(-1, 4), tuple(row[4] for row in rows))


def turned_boxes(rows: list[tuple[float, float, float, float, str, float]]) -> Boxes:
    """Of rows (x, y, width, height, name, degrees), turned about their top left corner."""
    corners = np.asarray([turn(x, y, w, h, degrees) for x, y, w, h, _, degrees in rows], np.float32).reshape(-1, 4, 2)
    return Boxes(np.concatenate([corners.min(1), corners.max(1)], axis=1), tuple(row[4] for row in rows), corners)


def rows_of(labels: Boxes) -> list[tuple[str, list[list[float]]]]:
    corners = corners_of(labels.xyxy) if labels.corners is None else labels.corners
    return sorted(zip(labels.names, corners.tolist(), strict=True))


BOX = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.integers(1, 12), st.sampled_from("ab"))
UPRIGHT = st.lists(BOX, max_size=4).map(lambda rows: boxes(*((x, y, x + w, y + h, n) for x, y, w, h, n in rows)))
ANGLES = st.sampled_from([0, 0, 10, 45, 90, 200])
TURNED = st.lists(st.tuples(BOX, ANGLES).map(lambda both: (*both[0], both[1])), max_size=4).map(turned_boxes)
BOXES = UPRIGHT | TURNED
MASKS = st.dictionaries(
    st.sampled_from("ab"),
    st.lists(st.booleans(), min_size=12, max_size=12).map(lambda bits: rle.encode(np.reshape(bits, (3, 4)))),
).map(lambda masks: Masks({name: mask for name, mask in masks.items() if rle.area(mask)}))
CLASSES = st.sampled_from([None, ImageClass("a"), ImageClass("b"), ImageClass("c")])
LABELS = st.one_of(st.lists(BOXES, min_size=1, max_size=5), st.lists(MASKS, min_size=1, max_size=5),
                   st.lists(CLASSES, min_size=1, max_size=5))  # fmt: skip
RULES = st.builds(
    Rule, st.sampled_from(["latest", "majority", "consensus"]), st.integers(1, 4), st.sampled_from([0.3, 0.5, 0.9])
)


@given(labels=LABELS, skips=st.integers(0, 3), rule=RULES, data=st.data())
def test_the_order_in_which_answers_come_in_does_not_matter(
    labels: list[Labels | None], skips: int, rule: Rule, data: st.DataObject
) -> None:
    answers = [*all_say(*labels), *(said(None, 90 + at, at, skipped=True) for at in range(skips))]
    assert merge(data.draw(st.permutations(answers)), rule) == merge(answers, rule)


@given(labels=LABELS.map(lambda some: some[0]), voices=st.integers(1, 5), rule=RULES)
def test_where_all_say_the_same_it_is_what_counts(labels: Labels | None, voices: int, rule: Rule) -> None:
    if isinstance(labels, Boxes) and len({tuple(box) for box in labels.xyxy.tolist()}) < len(labels.names):
        return  # two boxes at one place: which is which cannot be told
    verdict = merge(all_say(*[labels] * voices), rule)
    if voices < rule.minimum:
        assert verdict == Open(f"{voices} of {rule.minimum} answers are there", disagree=False)
        return
    assert isinstance(verdict, Agreed)
    if isinstance(labels, Boxes) and isinstance(verdict.labels, Boxes):
        assert rows_of(verdict.labels) == rows_of(labels)
    else:
        assert verdict.labels == labels


@given(labels=LABELS)
def test_consensus_is_majority_or_nothing(labels: list[Labels | None]) -> None:
    answers = all_say(*labels)
    strict = merge(answers, CONSENSUS)
    assert isinstance(strict, Open) or strict == merge(answers, MAJORITY)


@given(names=st.lists(st.sampled_from("abc"), min_size=2, max_size=7))
def test_a_class_counts_when_more_than_half_say_it(names: list[str]) -> None:
    verdict = merge(all_say(*map(ImageClass, names)), MAJORITY)
    name, votes = Counter(names).most_common(1)[0]
    if 2 * votes > len(names):
        assert verdict == Agreed(AnswerState.LABELLED, ImageClass(name))
    else:
        assert isinstance(verdict, Open)
        assert verdict.disagree


@given(labels=st.lists(BOXES, min_size=2, max_size=5))
def test_a_merged_box_lies_between_those_it_was_made_of(labels: list[Boxes]) -> None:
    verdict = merge(all_say(*labels), MAJORITY)
    if not isinstance(verdict, Agreed):
        return
    assert isinstance(verdict.labels, Boxes)
    assert len(verdict.labels.names) <= sum(len(one.names) for one in labels) // (len(labels) // 2 + 1)
    for box, name in zip(verdict.labels.xyxy, verdict.labels.names, strict=True):
        near = np.concatenate([one.xyxy[[at for at, n in enumerate(one.names) if n == name]] for one in labels])
        assert (box >= near.min(axis=0) - 1e-4).all()
        assert (box <= near.max(axis=0) + 1e-4).all()


@given(
    angles=st.lists(st.floats(1, 89), min_size=2, max_size=5),
    shifts=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=5, max_size=5),
    corner=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    data=st.data(),
)
def test_of_turned_boxes_one_that_a_person_drew_counts_and_it_lies_in_their_middle(
    angles: list[float], shifts: list[tuple[float, float]], corner: list[int], data: st.DataObject
) -> None:
    middle = np.mean(angles)
    said_: list[Boxes] = []
    for angle, shift, first in zip(angles, shifts, corner, strict=False):
        near = middle + (angle - middle) / 20
        box = turn(0, 0, 60, 20, near)
        corners = np.roll(box - box.mean(axis=0) + 100 + shift, first, axis=0).astype(np.float32)
        said_.append(Boxes(np.concatenate([corners.min(0), corners.max(0)])[None], ("a",), corners[None]))
    verdict = merge(all_say(*said_), MAJORITY)
    assert isinstance(verdict, Agreed)
    assert isinstance(verdict.labels, Boxes)
    assert verdict.labels.rotated.all(), "not made upright"
    assert any(rows_of(verdict.labels) == rows_of(one) for one in said_), "a rectangle, and one of theirs"
    assert verdict.labels in said_, "with the upright box around it"
    centres = np.asarray([one.corners.mean(axis=1)[0] for one in said_ if one.corners is not None])
    spread = np.linalg.norm(centres - centres.mean(axis=0), axis=1)
    chosen = verdict.labels.corners.mean(axis=1)[0]  # type: ignore[union-attr]
    assert np.linalg.norm(chosen - centres.mean(axis=0)) <= spread.max() + 1e-3
    assert merge(all_say(*data.draw(st.permutations(said_))), MAJORITY) == verdict


def test_among_upright_marks_one_that_was_turned_does_not_win_and_of_two_it_does() -> None:
    upright, tilted = boxes((0, 0, 30, 10, "a")), turned_boxes([(0, 0, 30, 10, "a", 4)])
    verdict = merge(all_say(upright, tilted, upright), MAJORITY)
    assert verdict == Agreed(AnswerState.LABELLED, upright)
    assert merge(all_say(upright, tilted), MAJORITY) == Agreed(AnswerState.LABELLED, tilted)


@given(labels=st.lists(MASKS, min_size=2, max_size=5))
def test_a_pixel_counts_when_more_than_half_paint_it(labels: list[Masks]) -> None:
    verdict = merge(all_say(*labels), MAJORITY)
    for name in "ab":
        votes = np.sum([rle.decode(one.by_name[name]) for one in labels if name in one.by_name], axis=0)
        expected = np.broadcast_to(votes, (3, 4)) > len(labels) / 2
        if isinstance(verdict, Agreed) and isinstance(verdict.labels, Masks):
            got = verdict.labels.by_name.get(name)
            assert np.array_equal(expected, np.zeros((3, 4), bool) if got is None else rle.decode(got) > 0)
        else:
            assert not expected.any()


def test_boxes_of_more_than_half_are_kept_and_averaged() -> None:
    three = all_say(
        boxes((0, 0, 10, 10, "a"), (50, 50, 60, 60, "a")), boxes((1, 0, 11, 10, "a")), boxes((2, 0, 12, 10, "a"))
    )
    assert merge(three, MAJORITY) == Agreed(AnswerState.LABELLED, boxes((1, 0, 11, 10, "a")))
    assert merge(three, CONSENSUS) == Open("people disagree: 1 boxes are not everyone's", disagree=True)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (all_say(boxes((0, 0, 9, 9, "a")), boxes((0, 0, 9, 9, "b"))), "different names"),
        (all_say(boxes((0, 0, 9, 9, "a")), boxes((50, 0, 59, 9, "a"))), "no box is marked by more than half"),
        (all_say(ImageClass("a"), ImageClass("b")), "a 1, b 1"),
        (all_say(ImageClass("a"), boxes()), "different kinds"),
    ],
)
def test_an_object_that_people_see_differently_is_no_background(answers: list[Annotation], why: str) -> None:
    verdict = merge(answers, MAJORITY)
    assert isinstance(verdict, Open)
    assert verdict.disagree
    assert why in verdict.reason


def test_who_skips_does_not_vote_unless_most_do() -> None:
    skip = [said(None, 8, 8, skipped=True), said(None, 9, 9, skipped=True)]
    one, two = said(ImageClass("a"), 1), said(ImageClass("a"), 2)
    assert merge([one, two, skip[0]], MAJORITY) == Agreed(AnswerState.LABELLED, ImageClass("a"))
    assert merge([one, *skip], MAJORITY) == Agreed(AnswerState.SKIPPED, None)
    assert isinstance(merge([one, two, skip[0]], CONSENSUS), Open)


def test_of_one_person_the_newest_answer_is_the_vote() -> None:
    answers = [said(ImageClass("a"), 1, 1), said(ImageClass("b"), 1, 2), said(ImageClass("b"), 2, 0)]
    assert merge(answers, CONSENSUS) == Agreed(AnswerState.LABELLED, ImageClass("b"))


# ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'pool.db'}"


def opened(url: str, rule: Rule) -> PoolStore:
    store = PoolStore.open(url, rule)
    store.items.add([NewItem(A, "/a.jpg", 64, 64)])
    return store


def state(store: PoolStore) -> ItemState:
    item = store.items.get(A)
    assert item is not None
    return item.state


def test_disagreement_leaves_the_item_a_question_until_it_is_settled(url: str) -> None:
    with opened(url, Rule("majority", minimum=2)) as store:
        store.tasks.put([Receipt(A, "7")], "labelstudio", 0, None)
        store.annotations.upsert([said(boxes((0, 0, 9, 9, "a")), 1)])
        assert (state(store), store.annotations.disputed([A])) == (ItemState.PUSHED, {}), "one answer is not enough"
        store.annotations.upsert([said(boxes((0, 0, 9, 9, "b")), 2)])
        assert state(store) is ItemState.PUSHED
        assert "different names" in store.annotations.disputed([A])[A]
        assert store.annotations.examples(Split.POOL) == []
        store.annotations.upsert([said(boxes((0, 0, 9, 9, "a")), 3)])
        assert (state(store), store.annotations.disputed([A])) == (ItemState.LABELLED, {})
        [example] = store.annotations.examples(Split.POOL)
        assert example.labels == boxes((0, 0, 9, 9, "a"))
        assert len(store.annotations.standing([A])[A]) == 3, "each answer is kept"
        store.annotations.withdraw([said(None, 1).external_id])
        assert state(store) is ItemState.PUSHED


def test_an_edit_that_changes_what_counts_retires_what_was_mined(url: str) -> None:
    with opened(url, MAJORITY) as store:
        store.annotations.upsert([said(boxes((0, 0, 9, 9, "a")), 1), said(boxes((0, 0, 9, 9, "a")), 2)])
        store.negatives.replace(1, "m", [Negative(A, (20, 20, 25, 25), "a", 0.9, 0.0)])
        store.annotations.upsert([said(boxes((0, 0, 9, 9, "a")), 3)])
        assert len(store.negatives.all()) == 1, "a third voice says the same"
        store.annotations.upsert([said(boxes((0, 0, 11, 9, "a")), 3)])
        assert store.negatives.all() == []


def test_another_rule_is_applied_to_what_is_there(url: str) -> None:
    with opened(url, Rule()) as store:
        store.annotations.upsert([said(ImageClass("a"), 1, 1), said(ImageClass("b"), 2, 2)])
        assert store.annotations.latest()[A].labels == ImageClass("b")
    with opened(url, CONSENSUS) as store:
        assert store.annotations.latest() == {}
        assert state(store) is ItemState.UNLABELLED
    with opened(url, Rule()) as store:
        assert store.annotations.latest()[A].labels == ImageClass("b")
        assert state(store) is ItemState.LABELLED


def test_a_question_that_is_gone_returns_its_item_unless_an_answer_is_left(url: str) -> None:
    with opened(url, Rule()) as store:
        store.tasks.put([Receipt(A, "7")], "labelstudio", 0, None)
        assert store.tasks.asked("labelstudio") == {A: "7"}
        store.annotations.upsert([said(ImageClass("a"), 1)])
        assert store.tasks.drop([A], "labelstudio") == 1
        assert state(store) is ItemState.LABELLED
        store.annotations.withdraw([said(None, 1).external_id])
        assert state(store) is ItemState.UNLABELLED
        assert store.tasks.drop([A], "labelstudio") == 0


def test_whether_an_answer_was_blind_is_kept(url: str) -> None:
    blind = Annotation(A, AnswerState.LABELLED, ImageClass("a"), "labelstudio:1", "1", blind=True)
    with opened(url, Rule()) as store:
        store.annotations.upsert([blind])
        assert store.annotations.latest()[A].blind
