"""Questions about labels that a model contradicts, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, and_, bindparam, delete, func, insert, select, update

from alpipe import labels as label_json
from alpipe.pool.database import Database, chunks
from alpipe.pool.items import ITEM_COLUMNS, to_item
from alpipe.pool.states import current_answers
from alpipe.pool.tables import answers, items, questions
from alpipe.types import Labels, Question, QuestionKind, QuestionState, Receipt, Rle

QuestionList: TypeAlias = list[Question]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question, where it stands, the annotator's id of its task where it was asked, and the answer that it got: the
    annotator's id of it, by whom and when.
    """

    question: Question
    state: QuestionState
    task: str | None = None
    answer: str | None = None
    by: str | None = None
    at: datetime | None = None


class Questions:
    """The questions. What is put in twice is there once; each question keeps its key for good, so that one that people
    answered is not asked again as long as the label that it is about stands.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, found: Iterable[Question], spare: str | None = None) -> int:
        """Files what is contradicted now, in place of what was before and nobody was asked about; returns how many are
        new. What stands under the model ``spare`` stays. What became stale, and lies before nobody any more, is open
        again, about the labels as they are now.
        """
        by_key = {question.key: question for question in found}
        before = _is(QuestionState.OPEN) if spare is None else and_(_is(QuestionState.OPEN), questions.c.model != spare)
        with self._database.write() as connection:
            connection.execute(delete(questions).where(before))
            outdated = and_(_is(QuestionState.STALE), questions.c.external_id.is_(None))
            known: set[str] = set()
            for keys in chunks(by_key):
                connection.execute(delete(questions).where(questions.c.key.in_(keys), outdated))
                known |= set(connection.scalars(select(questions.c.key).where(questions.c.key.in_(keys))))
            rows = [_row(question) for key, question in by_key.items() if key not in known]
            for some in chunks(rows):
                connection.execute(insert(questions), some)
        return len(rows)

    def next(self, most: int | None = None) -> QuestionList:
        """The open questions in the order in which they are asked, the likeliest errors first: one an image, and none
        about an image whose labels somebody is asked about already or that have changed.
        """
        taken: set[str] = set()
        with self._database.read() as connection:
            taken |= set(connection.scalars(select(questions.c.item_key).where(_is(QuestionState.ASKED))))
        chosen: QuestionList = []
        for asked in self.list([QuestionState.OPEN]):
            if most is not None and len(chosen) >= most:
                break
            if asked.question.item.key not in taken:
                taken.add(asked.question.item.key)
                chosen.append(asked.question)
        return chosen

    def list(self, states: Iterable[QuestionState] = tuple(QuestionState)) -> list[Asked]:
        """Those in these states, the likeliest errors first."""
        query = (
            select(*ITEM_COLUMNS, *questions.c)
            .join(items, items.c.key == questions.c.item_key)
            .where(_is(*states))
            .order_by(questions.c.score.desc(), questions.c.key)
        )
        with self._database.read() as connection:
            return [_to_asked(row) for row in connection.execute(query)]

    def asked(self, receipts: Iterable[Receipt], round_: int) -> None:
        """Records that questions came to people; the receipts are by the questions' keys."""
        rows = [{"key_": key, "external_id": number} for key, number in receipts]
        open_ = questions.c.state == QuestionState.OPEN.value
        change = update(questions).where(questions.c.key == bindparam("key_"), open_)
        with self._database.write() as connection:
            for some in chunks(rows):
                connection.execute(change.values(state=QuestionState.ASKED.value, asked_round=round_), some)

    def withdrawn(self, keys: Iterable[str]) -> None:
        """Records that stale questions no longer lie before people."""
        with self._database.write() as connection:
            for some in chunks(keys):
                gone = update(questions).where(questions.c.key.in_(some), _is(QuestionState.STALE))
                connection.execute(gone.values(external_id=None))

    def settle(
        self, key: str, state: QuestionState, answer: str | None = None, by: str | None = None, at: Any = None
    ) -> None:
        """Records what became of a question."""
        change = update(questions).where(questions.c.key == key)
        with self._database.write() as connection:
            connection.execute(change.values(state=state.value, answer_id=answer, answered_by=by, answered_at=at))

    def outdate(self) -> int:
        """Makes stale what waits (open or asked) although the image's labels are other ones by now; how many."""
        waiting = self.list([QuestionState.OPEN, QuestionState.ASKED])
        now = self._current(waiting)
        old = [one for one in waiting if now.get(one.question.item.key) != label_json.to_json(one.question.labels)]
        with self._database.write() as connection:
            for keys in chunks(one.question.key for one in old):
                change = update(questions).where(questions.c.key.in_(keys))
                connection.execute(change.values(state=QuestionState.STALE.value))
        return len(old)

    def count(self, round_: int) -> int:
        """How many were asked in a round."""
        with self._database.read() as connection:
            counted = select(func.count()).select_from(questions).where(questions.c.asked_round == round_)
            return connection.scalar(counted) or 0

    def counts(self) -> dict[QuestionState, int]:
        """How many are in each state."""
        query = select(questions.c.state, func.count()).group_by(questions.c.state)
        with self._database.read() as connection:
            found: dict[str, int] = dict(connection.execute(query).tuples().all())
        return {state: found.get(state.value, 0) for state in QuestionState}

    def _current(self, some: Iterable[Asked]) -> Mapping[str, Any]:
        """The labels of the items as they stand, as they are stored."""
        found: dict[str, Any] = {}
        with self._database.read() as connection:
            for keys in chunks(dict.fromkeys(one.question.item.key for one in some)):
                best = current_answers(keys).subquery()
                query = select(answers.c.item_key, answers.c.labels).join(best, best.c.id == answers.c.id)
                found.update({row.item_key: row.labels for row in connection.execute(query)})
        return found


def _is(*states: QuestionState) -> Any:
    return questions.c.state.in_([state.value for state in states])


def _row(question: Question) -> dict[str, Any]:
    return {
        "key": question.key,
        "item_key": question.item.key,
        "kind": question.kind.value,
        "state": QuestionState.OPEN.value,
        "labels": label_json.to_json(question.labels),
        "box": None if question.box is None else [float(side) for side in question.box],
        "region": None if question.region is None else list(question.region),
        "given": question.given,
        "proposed": question.proposed,
        "score": float(question.score),
        "round": question.round,
        "model": question.model,
        "reason": question.reason,
    }


def _to_asked(row: Row[Any]) -> Asked:
    found: dict[str, Any] = dict(zip((column.name for column in questions.c), row[len(ITEM_COLUMNS) :], strict=True))
    labels: Labels = label_json.from_json(found["labels"])
    box, region = found["box"], found["region"]
    question = Question(
        key=found["key"],
        item=to_item(row),
        kind=QuestionKind(found["kind"]),
        labels=labels,
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        given=found["given"],
        proposed=found["proposed"],
        score=found["score"],
        round=found["round"],
        model=found["model"],
        reason=found["reason"],
        region=None if region is None else Rle(*region),
    )
    state = QuestionState(found["state"])
    return Asked(question, state, found["external_id"], found["answer_id"], found["answered_by"], found["answered_at"])
