"""Keeps, beside several people's answers to an item, a row of what they come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from alpipe import labels as label_json
from alpipe.pool.agreement import Agreed, Open, Rule, merge
from alpipe.pool.database import chunks
from alpipe.pool.states import AGREEMENT, DISPUTED, IMPORT, OPEN
from alpipe.pool.tables import answers
from alpipe.types import Annotation, AnswerState, Edits


def agree(connection: Connection, keys: Iterable[str], rule: Rule) -> None:
    """Merges the answers that people gave to these items, and takes back what they came to before where it does not
    hold any more. One answer that is enough needs no row, nor does the newest of several where the newest counts.
    """
    for chunk in chunks(dict.fromkeys(keys)):
        said, before = _said(connection, chunk)
        merged = {}
        for key, given in said.items():
            if rule.minimum > 1 or (rule.policy != "latest" and len({answer.annotator for answer in given}) > 1):
                merged[key] = _row(key, given, rule)
        _write(connection, merged, before)


def _said(connection: Connection, keys: list[str]) -> tuple[dict[str, list[Annotation]], dict[str, Row[Any]]]:
    """The people's answers that stand, and the rows of what they came to before."""
    said, before = defaultdict(list), {}
    query = select(answers).where(
        answers.c.item_key.in_(keys), answers.c.kind != IMPORT, answers.c.state != AnswerState.DRAFT.value
    )
    for row in connection.execute(query):
        if row.kind == AGREEMENT:
            before[row.item_key] = row
        elif row.withdrawn_at is None:
            said[row.item_key].append(to_annotation(row))
    return said, before


def _row(key: str, given: list[Annotation], rule: Rule) -> dict[str, Any]:
    verdict = merge(given, rule)
    times = [answer.lead_time for answer in given if answer.lead_time is not None]
    newest = max(given, key=lambda answer: answer.at)
    stated: str
    said: str
    match verdict:
        case Agreed(state, labels):
            stated, said = state.value, rule.policy
        case Open(reason, disagree):
            stated, said, labels = DISPUTED if disagree else OPEN, reason, None
    return {
        "kind": AGREEMENT,
        "external_id": key,
        "item_key": key,
        "state": stated,
        "labels": None if labels is None else label_json.to_json(labels),
        "annotator": f"{AGREEMENT}:{said}",
        "lead_time": sum(times) if times else None,
        "round": newest.round,
        "model": newest.model,
        "blind": newest.blind,
        "at": newest.at,
        "withdrawn_at": None,
    }


def _write(connection: Connection, merged: dict[str, dict[str, Any]], before: dict[str, Row[Any]]) -> None:
    for key, row in merged.items():
        old = before.get(key)
        if old is None:
            connection.execute(insert(answers).values(row | {"revision": 1}))
        elif any(getattr(old, name) != value for name, value in row.items()):
            same = (old.state, old.labels, old.withdrawn_at) == (row["state"], row["labels"], None)
            change = row | {"revision": old.revision + (not same)}
            connection.execute(update(answers).where(answers.c.id == old.id).values(change))
    stale = [old.id for key, old in before.items() if key not in merged and old.withdrawn_at is None]
    if stale:
        connection.execute(update(answers).where(answers.c.id.in_(stale)).values(withdrawn_at=datetime.now(UTC)))


def to_annotation(row: Row[Any]) -> Annotation:
    """The answer in a row of the table."""
    return Annotation(
        item_key=row.item_key,
        state=AnswerState(row.state),
        labels=None if row.labels is None else label_json.from_json(row.labels),
        annotator=row.annotator,
        external_id=row.external_id,
        lead_time=row.lead_time,
        round=row.round,
        model=row.model,
        at=row.at,
        blind=row.blind,
        edits=to_edits(row.edits),
    )


def to_edits(stored: Mapping[str, Any] | None) -> dict[str, Edits] | None:
    """What a row holds of the edits of an answer."""
    return None if stored is None else {name: Edits(**counts) for name, counts in stored.items()}
