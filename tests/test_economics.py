"""What labelling cost, and what pre-annotations saved: the arithmetic, and what is left out of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alpipe.economics import ENOUGH, Basis, Shown, Work, by_round, cost, saved
from alpipe.effort import TimeModel
from alpipe.pool.agreement import Rule
from alpipe.pool.store import LATEST, NewItem, PoolStore
from alpipe.types import Annotation, AnswerState, Edits, ImageClass

COUNTS = st.integers(0, 5)
EDITS = st.builds(Edits, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
WORK = st.builds(
    Work,
    st.just("k"),
    st.sampled_from([AnswerState.LABELLED, AnswerState.EMPTY, AnswerState.SKIPPED]),
    st.sampled_from([None, 0, 1, 2]),
    st.sampled_from([None, "m1"]),
    st.booleans(),
    st.none() | st.floats(0, 1000),
    st.none() | st.dictionaries(st.sampled_from("ab"), EDITS),
)


def work(seconds: float | None, *, blind: bool = False, round_: int = 1, edits: Edits | None = None) -> Work:
    by_class = None if edits is None else {"a": edits}
    return Work("k", AnswerState.LABELLED, round_, None if blind else "m1", blind, seconds, by_class)


@given(st.lists(WORK, max_size=12))
def test_each_answer_stands_in_one_round_under_what_was_shown(answers: list[Work]) -> None:
    found = by_round(answers)
    placed = [one for kinds in found.values() for some in kinds.values() for one in some]
    assert sorted(map(repr, placed)) == sorted(map(repr, answers))
    numbers = [number for number in found if number is not None]
    assert numbers == sorted(numbers)
    for kinds in found.values():
        assert all(one.model for one in kinds[Shown.SUGGESTION])
        assert all(one.blind and not one.model for one in kinds[Shown.BLIND])


@given(st.lists(WORK, max_size=12))
def test_the_cost_of_all_is_the_sum_over_its_parts(answers: list[Work]) -> None:
    whole = cost(answers)
    parts = [cost(some) for kinds in by_round(answers).values() for some in kinds.values()]
    assert whole.edits == sum((part.edits for part in parts), Edits())
    assert whole.edits == sum((cost(answers, name).edits for name in "ab"), Edits())
    assert whole.answers + whole.skipped == len(answers)
    assert whole.spent == pytest.approx(sum(one.lead_time or 0 for one in answers))
    assert sum(part.answers for part in parts) == whole.answers
    assert len(whole.times) <= whole.answers


@given(
    blind=st.lists(st.floats(1, 500), min_size=ENOUGH, max_size=12),
    shown=st.lists(st.floats(1, 500), min_size=ENOUGH, max_size=12),
)
def test_what_was_saved_is_the_difference_of_the_means_with_welch_s_interval(
    blind: list[float], shown: list[float]
) -> None:
    found = saved([*(work(s, blind=True) for s in blind), *(work(s) for s in shown)])
    assert found.basis is Basis.MEASURED
    assert found.each == pytest.approx(np.mean(blind) - np.mean(shown), abs=1e-9)
    assert found.total == pytest.approx(found.each * len(shown))
    assert found.low is not None
    assert found.high is not None
    if np.ptp(blind) > 1e-3 and np.ptp(shown) > 1e-3:
        low, high = stats.ttest_ind(blind, shown, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    else:
        assert found.low <= found.each <= found.high


def test_blind_answers_are_compared_with_those_of_their_own_rounds_alone() -> None:
    same = [work(20.0, blind=True)] * ENOUGH + [work(12.0)] * ENOUGH
    easy = [work(1.0, round_=2)] * 30  # of this round nobody was blind
    first = [Work("k", AnswerState.LABELLED, 0, None, False, 500.0, None)]
    found = saved([*same, *easy, *first])
    assert (found.each, found.low, found.high) == (8.0, 8.0, 8.0)
    assert found.total == 8.0 * 35


def test_with_too_few_blind_answers_a_model_of_people_s_time_speaks() -> None:
    done = Edits(objects=10, accepted=6, moved=2, relabelled=1, deleted=3, added=1)
    few = [work(30.0, blind=True)] * (ENOUGH - 1) + [work(5.0, edits=done)] * 2
    found = saved(few)
    assert found.basis is Basis.MODEL
    assert found.each == pytest.approx(7.0 * 10 - 7.0 * (2 + 1 + 1) - 1.6 * 12)
    assert found.low is None
    slow = saved(few, TimeModel(image=1, drawn=20, checked=1))
    assert slow.each == pytest.approx(20 * 10 - 20 * 4 - 12)


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert (saved([]).each, saved([work(5.0)]).each) == (None, None)
    assert saved([work(None, blind=True)] * 9 + [work(None)] * 9).basis is Basis.NOTHING


# ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────────

A = "a" * 20
START = datetime(2026, 1, 1, tzinfo=UTC)


def answer(who: str, minute: int = 0, **more: object) -> Annotation:
    at = START + timedelta(minutes=minute)
    found = Annotation(A, AnswerState.LABELLED, ImageClass("a"), who, f"{who}/{minute}", 5.0, 1, "m1", at=at)
    return found if not more else Annotation(**{name: getattr(found, name) for name in found.__slots__} | more)  # type: ignore[arg-type]


def opened(folder: Path, rule: Rule = LATEST) -> PoolStore:
    store = PoolStore.open(f"sqlite:///{folder / 'pool.db'}", rule)
    store.items.add([NewItem(A, "/a.jpg", 64, 64)])
    return store


@pytest.mark.parametrize("rule", [LATEST, Rule("majority"), Rule("consensus", minimum=2)])
def test_each_person_s_answer_is_counted_once_whatever_they_come_to(tmp_path: Path, rule: Rule) -> None:
    with opened(tmp_path, rule) as store:
        store.annotations.upsert([answer("labelstudio:1"), answer("labelstudio:2", 1), answer("import:coco", 2)])
        assert [one.lead_time for one in store.annotations.work()] == [5.0, 5.0]
        assert store.annotations.imported() == 1


def test_edits_are_kept_with_the_answer_and_follow_it(tmp_path: Path) -> None:
    first, then = {"a": Edits(1, accepted=1)}, {"a": Edits(1, moved=1, overlap=0.5), 'b"': Edits(deleted=2)}
    with opened(tmp_path) as store:
        for edits in (None, first, then):
            store.annotations.upsert([answer("labelstudio:1", edits=edits)])
            assert store.annotations.work()[0].edits == edits
            assert store.annotations.latest()[A].edits == edits


def test_drafts_and_deleted_answers_cost_nothing_that_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.annotations.upsert([answer("labelstudio:1"), answer("labelstudio:2", 1, state=AnswerState.DRAFT)])
        assert len(store.annotations.work()) == 1
        store.annotations.withdraw(["labelstudio:1/0"])
        assert store.annotations.work() == []
