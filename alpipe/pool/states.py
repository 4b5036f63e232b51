"""Which answer of an item counts, and what state the item is in because of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Select, case, func, select, update

from alpipe.pool.database import chunks
from alpipe.pool.tables import answers, items, tasks
from alpipe.types import AnswerState, ItemState

IMPORT = "import"
"""The kind of annotator that reads files; its answers give way to those of people, robots included."""


AGREEMENT = "agreement"
"""The kind of the rows that hold what several people's answers come to; where there is one, it is what counts."""

OPEN, DISPUTED = "open", "disputed"
"""States of such a row where nothing counts yet: answers are missing, or people disagree."""


def kind_of(annotator: str) -> str:
    """``labelstudio`` of ``labelstudio:3``: external ids are unique within it."""
    return annotator.partition(":")[0]


def current_answers(keys: Sequence[str] | None = None) -> Select[Any]:
    """(id, item_key, state) of each item's current answer: drafts do not count, imports give way to people, and the
    newest wins; what several people's come to stands over each, and may be that nothing counts yet. ``keys`` (at most a
    chunk) narrows it to those items.
    """
    rank = case((answers.c.kind == IMPORT, 0), (answers.c.kind == AGREEMENT, 2), else_=1)
    place = func.row_number().over(
        partition_by=answers.c.item_key, order_by=(rank.desc(), answers.c.at.desc(), answers.c.id.desc())
    )
    valid = select(answers.c.id, answers.c.item_key, answers.c.state, place.label("place")).where(
        answers.c.withdrawn_at.is_(None), answers.c.state != AnswerState.DRAFT.value
    )
    if keys is not None:
        valid = valid.where(answers.c.item_key.in_(keys))
    best = valid.subquery()
    return select(best.c.id, best.c.item_key, best.c.state).where(
        best.c.place == 1, best.c.state.not_in((OPEN, DISPUTED))
    )


def restate(connection: Connection, keys: Iterable[str]) -> None:
    """Sets items' states by what the store knows of them: answered, else pushed, else selected or unlabelled.

    An item that is quarantined stays so.
    """
    for chunk in chunks(dict.fromkeys(keys)):
        best = current_answers(chunk).subquery()
        pushed = select(tasks.c.item_key).where(tasks.c.item_key.in_(chunk)).distinct().subquery()
        rows = connection.execute(
            select(items.c.key, items.c.state, best.c.state.label("answer"), pushed.c.item_key.label("pushed"))
            .select_from(items)
            .outerjoin(best, best.c.item_key == items.c.key)
            .outerjoin(pushed, pushed.c.item_key == items.c.key)
            .where(items.c.key.in_(chunk), items.c.state != ItemState.QUARANTINED.value)
        )
        moves: dict[str, list[str]] = {}
        for row in rows:
            waiting = ItemState.SELECTED if row.state == ItemState.SELECTED else ItemState.UNLABELLED
            state = row.answer or (ItemState.PUSHED if row.pushed else waiting).value
            if state != row.state:
                moves.setdefault(state, []).append(row.key)
        for state, moved in moves.items():
            connection.execute(update(items).where(items.c.key.in_(moved)).values(state=state))
