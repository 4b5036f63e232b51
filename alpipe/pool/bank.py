"""The bank of hard negatives: regions of labelled images that models took for objects, and what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Row, and_, bindparam, case, delete, func, insert, or_, select, update

from alpipe.pool.database import Database, chunks
from alpipe.pool.items import ITEM_COLUMNS, to_item
from alpipe.pool.tables import items, negatives, questions
from alpipe.types import (
    KEY_LENGTH,
    OUT_OF_SAMPLE,
    BankEntry,
    Negative,
    NegativeState,
    Question,
    QuestionState,
    RegionAnswer,
    RegionQuestion,
)

SETTLED = (NegativeState.CONFIRMED, NegativeState.OBJECT)
"""What a person said stays, whatever is mined again."""


class Settled(NamedTuple):
    """What became of answers: how many were taken, and the keys that name no region of the bank."""

    taken: int
    unknown: tuple[str, ...]


class Negatives:
    """The bank. What a round did to it can be undone, so that a round mined again leaves the bank as if it had been
    mined once.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(
        self,
        round_: int,
        model: str,
        mined: Iterable[Negative],
        *,
        questions: Mapping[Negative, str] | None = None,
        scores: Mapping[str, float] | None = None,
        still_hard: Collection[str] = (),
        evicted: Collection[str] = (),
    ) -> None:
        """Files what a round's mining made of the bank, in place of what it made of it before, in one transaction.

        ``mined`` are its new hard negatives; ``questions`` those that may be objects, with the reason; ``scores`` the
        model's new scores of entries by key; ``still_hard`` the keys of those that it falls for; ``evicted`` of those
        that are let go. Regions that a person has settled, or is being asked about, stay.
        """
        rows = [_row(round_, model, negative, NegativeState.HARD, None) for negative in mined]
        rows += [_row(round_, model, one, NegativeState.QUESTION, why) for one, why in (questions or {}).items()]
        new_scores = [{"key_": key, "last_score": float(value)} for key, value in (scores or {}).items()]
        with self._database.write() as connection:
            connection.execute(delete(negatives).where(negatives.c.round == round_, or_(*_with_people()).is_(False)))
            left = update(negatives).where(negatives.c.left_round == round_, _is(NegativeState.EASY))
            connection.execute(left.values(state=NegativeState.HARD.value, left_round=None))
            stay = set(connection.scalars(select(negatives.c.key).where(negatives.c.round == round_)))
            for some in chunks(row for row in rows if row["key"] not in stay):
                connection.execute(insert(negatives), some)
            rescored = update(negatives).where(negatives.c.key == bindparam("key_"), negatives.c.last_round <= round_)
            for some in chunks(new_scores):
                connection.execute(rescored.values(last_round=round_), some)
            for keys in chunks(still_hard):
                falls = and_(negatives.c.key.in_(keys), negatives.c.hard_round < round_)
                connection.execute(update(negatives).where(falls).values(hard_round=round_))
            for keys in chunks(evicted):
                change = update(negatives).where(negatives.c.key.in_(keys), _is(NegativeState.HARD))
                connection.execute(change.values(state=NegativeState.EASY.value, left_round=round_))

    def all(self, *, questions: bool = False) -> list[Negative]:
        """What learners train on: the hard and the confirmed ones, those of an item together; ``questions`` adds those
        that wait for a person.
        """
        states = [NegativeState.HARD, NegativeState.CONFIRMED, *([NegativeState.QUESTION] if questions else [])]
        return [entry.negative for entry in self.entries(states=states)]

    def entries(
        self,
        *,
        states: Iterable[NegativeState] = tuple(NegativeState),
        round_: int | None = None,
        name: str | None = None,
    ) -> list[BankEntry]:
        """The entries in these states, of the round that found them and of the class, by item and age."""
        query = select(negatives).where(_is(*states)).order_by(negatives.c.item_key, negatives.c.id)
        if round_ is not None:
            query = query.where(negatives.c.round == round_)
        if name is not None:
            query = query.where(negatives.c.name == name)
        with self._database.read() as connection:
            return [_to_entry(row) for row in connection.execute(query)]

    def before(self, round_: int) -> list[BankEntry]:
        """The bank that a round's mining starts from, however often it was mined: without what the round found, save
        what people have settled since or are being asked about, and with what it evicted. Easy and stale entries are
        not in it.
        """
        evicted = and_(_is(NegativeState.EASY), negatives.c.left_round == round_)
        state = case((evicted, NegativeState.HARD.value), else_=negatives.c.state).label("state")
        others = [column for column in negatives.c if column.name != "state"]
        there = or_(_is(NegativeState.HARD, NegativeState.QUESTION, *SETTLED), evicted)
        query = (
            select(*others, state)
            .where(there, or_(negatives.c.round != round_, *_with_people()))
            .order_by(negatives.c.item_key, negatives.c.id)
        )
        with self._database.read() as connection:
            return [_to_entry(row) for row in connection.execute(query)]

    def newest_round(self) -> int | None:
        """The last round whose mining left anything in the bank, or looked at what was there."""
        latest = [func.max(column) for column in (negatives.c.round, negatives.c.last_round, negatives.c.left_round)]
        by_mining = select(*latest).where(negatives.c.model != OUT_OF_SAMPLE)
        with self._database.read() as connection:
            return max((number for number in connection.execute(by_mining).one() if number is not None), default=None)

    def questions(self, min_score: float = 0.0) -> list[RegionQuestion]:
        """The open questions, the surest first; without those that the newest model scores below ``min_score``."""
        of_item, found = len(ITEM_COLUMNS), negatives.c
        query = (
            select(*ITEM_COLUMNS, *(found[name] for name in ("x1", "y1", "x2", "y2", "name", "last_score", "round")))
            .add_columns(found.key.label("region"), found.reason)
            .join(items, items.c.key == found.item_key)
            .where(_is(NegativeState.QUESTION), found.last_score >= min_score)
            .order_by(found.last_score.desc(), found.key)
        )
        with self._database.read() as connection:
            rows = [(to_item(row), row[of_item:]) for row in connection.execute(query)]
        return [
            RegionQuestion(region, item, (x1, y1, x2, y2), name, score, round_, reason or "")
            for item, (x1, y1, x2, y2, name, score, round_, region, reason) in rows
        ]

    def settle(self, given: Iterable[RegionAnswer]) -> Settled:
        """Takes in what people said to questions: a region without object is trained on from now on and stays, one with
        an object is never mined again. Answers may be given again, and changed.
        """
        latest = {answer.key: answer for answer in given}
        known: set[str] = set()
        with self._database.write() as connection:
            for keys in chunks(latest):
                known |= set(connection.scalars(select(negatives.c.key).where(negatives.c.key.in_(keys))))
            changes = [
                {
                    "key_": key,
                    "state": (NegativeState.OBJECT if answer.is_object else NegativeState.CONFIRMED).value,
                    "settled_by": answer.annotator,
                }
                for key, answer in latest.items()
                if key in known
            ]
            for some in chunks(changes):
                connection.execute(update(negatives).where(negatives.c.key == bindparam("key_")), some)
        return Settled(len(changes), tuple(sorted(latest.keys() - known)))

    def unsettle(self, key: str) -> None:
        """Makes a region a question again: who answered it is not sure any more."""
        change = update(negatives).where(negatives.c.key == key, _is(*SETTLED))
        with self._database.write() as connection:
            connection.execute(change.values(state=NegativeState.QUESTION.value, settled_by=None))

    def add_settled(self, negative: Negative, question: Question, is_object: bool, annotator: str) -> None:
        """Files a region that no mining found, under the key of the question that a person answered about it."""
        state = NegativeState.OBJECT if is_object else NegativeState.CONFIRMED
        row = _row(question.round, question.model, negative, state, question.reason)
        with self._database.write() as connection:
            connection.execute(insert(negatives), [row | {"key": question.key, "settled_by": annotator}])

    def counts(self) -> dict[NegativeState, int]:
        """How many entries are in each state."""
        query = select(negatives.c.state, func.count()).group_by(negatives.c.state)
        with self._database.read() as connection:
            found: dict[str, int] = dict(connection.execute(query).tuples().all())
        return {state: found.get(state.value, 0) for state in NegativeState}

    def count(self, round_: int) -> int:
        """How many the round found, questions among them."""
        with self._database.read() as connection:
            counted = select(func.count()).select_from(negatives).where(negatives.c.round == round_)
            return connection.scalar(counted) or 0


def key_of(round_: int, negative: Negative) -> str:
    """The name of a region in the bank: the same round, image, class and box give the same one."""
    box = ",".join(f"{side:.2f}" for side in negative.box)
    text = f"{round_}:{negative.item_key}:{negative.name}:{box}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_LENGTH // 2).hexdigest()


def _is(*states: NegativeState) -> Any:
    return negatives.c.state.in_([state.value for state in states])


def _with_people() -> tuple[Any, Any]:
    """What a mining must leave: what people have settled, and what lies before them."""
    asked = select(questions.c.key).where(questions.c.state == QuestionState.ASKED.value)
    return _is(*SETTLED), and_(_is(NegativeState.QUESTION), negatives.c.key.in_(asked))


def _row(round_: int, model: str, negative: Negative, state: NegativeState, reason: str | None) -> dict[str, Any]:
    x1, y1, x2, y2 = map(float, negative.box)
    return {
        "key": key_of(round_, negative),
        "round": round_,
        "model": model,
        "item_key": negative.item_key,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "name": negative.name,
        "score": float(negative.score),
        "iou": float(negative.iou),
        "state": state.value,
        "last_score": float(negative.score),
        "last_round": round_,
        "hard_round": round_,
        "reason": reason,
    }


def _to_entry(row: Row[Any]) -> BankEntry:
    negative = Negative(row.item_key, (row.x1, row.y1, row.x2, row.y2), row.name, row.score, row.iou)
    state = NegativeState(row.state)
    facts = row.last_score, row.hard_round, row.reason, row.settled_by
    return BankEntry(row.key, negative, row.round, row.model, state, *facts)
