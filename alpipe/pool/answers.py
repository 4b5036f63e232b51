"""What people said of the items, what was asked of them, and the truth kept aside for robots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, insert, select, update

from alpipe import labels as label_json
from alpipe.economics import Work
from alpipe.pool.agreement import Rule
from alpipe.pool.agreements import agree, to_annotation, to_edits
from alpipe.pool.database import Database, chunks, put
from alpipe.pool.items import ITEM_COLUMNS, ItemList, to_item
from alpipe.pool.states import AGREEMENT, DISPUTED, IMPORT, current_answers, kind_of, restate
from alpipe.pool.tables import answers, items, negatives, tasks, truth
from alpipe.types import Annotation, AnswerState, Example, ItemState, Labels, NegativeState, Receipt, Refusal, Split

Identity: TypeAlias = tuple[str, str]  # kind of annotator, external id


class Upserted(NamedTuple):
    """What became of answers: new ones, those whose content changed, the same as before, and those of no known item."""

    new: int
    changed: int
    same: int
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A question that was pushed: the annotator's id of it, in which round, and the model whose suggestion it shows."""

    item_key: str
    annotator: str
    external_id: str
    round: int
    model: str | None
    pushed_at: datetime


class Truth:
    """Labels kept aside, from which robots answer; nothing is trained on them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, key: str, labels: Labels) -> None:
        """Keeps the labels of an item, in place of earlier ones."""
        self.put_all({key: labels})

    def put_all(self, by_key: Mapping[str, Labels]) -> None:
        """Keeps the labels of many items in one transaction."""
        rows = [{"item_key": key, "labels": label_json.to_json(labels)} for key, labels in by_key.items()]
        with self._database.write() as connection:
            put(connection, truth, rows, update=("labels",))

    def get(self, key: str) -> Labels | None:
        with self._database.read() as connection:
            stored = connection.scalar(select(truth.c.labels).where(truth.c.item_key == key))
        return None if stored is None else label_json.from_json(stored)


class Annotations:
    """Every answer ever given. Which one counts is told by ``states.current_answers``, and where several people
    answered one item, by the rule.
    """

    def __init__(self, database: Database, rule: Rule) -> None:
        self._database = database
        self._rule = rule

    def upsert(self, given: Iterable[Annotation]) -> Upserted:
        """Takes answers in, known by annotator kind and external id: an edit replaces, a repetition changes nothing.

        The items' states follow in the same transaction, and hard negatives that were measured against labels which
        no longer stand are retired. An answer for an item that is not in the pool is refused.
        """
        latest = {(kind_of(answer.annotator), answer.external_id): answer for answer in given}
        counts: Counter[str] = Counter()
        refused: list[Refusal] = []
        with self._database.write() as connection:
            for chunk in chunks(latest.items()):
                stored = _stored(connection, dict(chunk))
                known = _known(connection, {answer.item_key for _, answer in chunk})
                refused += [_unknown_item(answer) for _, answer in chunk if answer.item_key not in known]
                taken = [(identity, answer) for identity, answer in chunk if answer.item_key in known]
                touched = {answer.item_key for _, answer in taken} | {row.item_key for row in stored.values()}
                before = _current(connection, touched)
                counts.update(_write(connection, taken, stored))
                agree(connection, touched, self._rule)
                _follow(connection, before)
        return Upserted(counts["new"], counts["changed"], counts["same"], tuple(refused))

    def withdraw(self, external_ids: Iterable[str], *, annotator: str | None = None) -> int:
        """Answers that people deleted stop counting; returns how many did. They stay in the history.

        ``annotator`` (its kind is enough) tells whose ids these are; None: anybody's.
        """
        withdrawn = 0
        with self._database.write() as connection:
            for chunk in chunks(dict.fromkeys(external_ids)):
                meant: list[ColumnElement[bool]] = [answers.c.external_id.in_(chunk), answers.c.withdrawn_at.is_(None)]
                if annotator is not None:
                    meant.append(answers.c.kind == kind_of(annotator))
                meant.append(answers.c.kind != AGREEMENT)
                before = _current(connection, set(connection.scalars(select(answers.c.item_key).where(*meant))))
                change = update(answers).where(*meant).values(withdrawn_at=datetime.now(UTC))
                withdrawn += connection.execute(change).rowcount
                agree(connection, before, self._rule)
                _follow(connection, before)
        return withdrawn

    def apply_rule(self) -> None:
        """Merges all answers anew, after the rule was changed."""
        with self._database.write() as connection:
            keys = connection.scalars(select(answers.c.item_key).where(answers.c.kind != IMPORT).distinct()).all()
            for chunk in chunks(keys):
                before = _current(connection, set(chunk))
                agree(connection, chunk, self._rule)
                _follow(connection, before)

    def disputed(self, keys: Iterable[str]) -> dict[str, str]:
        """Those of the items about which people disagree, and how."""
        found = {}
        with self._database.read() as connection:
            for chunk in chunks(dict.fromkeys(keys)):
                query = select(answers.c.item_key, answers.c.annotator).where(
                    answers.c.item_key.in_(chunk), answers.c.withdrawn_at.is_(None), answers.c.state == DISPUTED
                )
                found.update({key: text.partition(":")[2] for key, text in connection.execute(query)})
        return found

    def standing(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """The external ids of the answers that were not withdrawn, drafts included, by item key."""
        found: dict[str, list[str]] = {}
        with self._database.read() as connection:
            for chunk in chunks(dict.fromkeys(keys)):
                query = select(answers.c.item_key, answers.c.external_id).where(
                    answers.c.item_key.in_(chunk), answers.c.withdrawn_at.is_(None), answers.c.kind != AGREEMENT
                )
                for key, external_id in connection.execute(query):
                    found.setdefault(key, []).append(external_id)
        return found

    def latest(self, keys: Iterable[str] | None = None, split: Split | None = None) -> dict[str, Annotation]:
        """The current answer of each item that has one: drafts do not count, imports give way to people, and the
        newest wins.
        """
        found = {}
        with self._database.read() as connection:
            for chunk in [None] if keys is None else chunks(dict.fromkeys(keys)):
                best = current_answers(chunk).subquery()
                query = select(answers).join(best, best.c.id == answers.c.id).order_by(answers.c.item_key)
                if split is not None:
                    query = query.join(items, items.c.key == answers.c.item_key).where(items.c.split == split.value)
                found.update({row.item_key: to_annotation(row) for row in connection.execute(query)})
        return found

    def examples(self, split: Split) -> list[Example]:
        """The items of a split with labels to learn from, in the order of their keys: labelled, or reviewed and empty.

        Quarantined items are left out: their image cannot be read.
        """
        best = current_answers().subquery()
        query = (
            select(*ITEM_COLUMNS, answers.c.labels)
            .join(best, best.c.item_key == items.c.key)
            .join(answers, answers.c.id == best.c.id)
            .where(items.c.split == split.value, items.c.state.in_([ItemState.LABELLED.value, ItemState.EMPTY.value]))
            .order_by(items.c.key)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Example(to_item(row), label_json.from_json(row.labels)) for row in rows if row.labels is not None]

    def ids(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """(item key, external id) of the current answers of those items that have one, as a ledger keeps them."""
        wanted = [*dict.fromkeys(keys)]
        found: dict[str, str] = {}
        with self._database.read() as connection:
            for chunk in chunks(wanted):
                best = current_answers(chunk).subquery()
                query = select(answers.c.item_key, answers.c.external_id).join(best, best.c.id == answers.c.id)
                found.update({row.item_key: row.external_id for row in connection.execute(query)})
        return [(key, found[key]) for key in wanted if key in found]

    def work(self) -> list[Work]:
        """What each person's answer that stands took, skips among them, oldest first; never what several come to."""
        query = select(*(answers.c[name] for name in Work._fields)).order_by(answers.c.at, answers.c.id)
        query = query.where(answers.c.kind.not_in((AGREEMENT, IMPORT)), answers.c.state != AnswerState.DRAFT.value)
        with self._database.read() as connection:
            rows = connection.execute(query.where(answers.c.withdrawn_at.is_(None))).all()
        return [Work(**row._asdict() | {"state": AnswerState(row.state), "edits": to_edits(row.edits)}) for row in rows]

    def imported(self) -> int:
        """How many imported answers there are; nobody knows what they took."""
        query = select(func.count()).where(answers.c.kind == IMPORT, answers.c.withdrawn_at.is_(None))
        with self._database.read() as connection:
            return connection.scalar(query) or 0


class Tasks:
    """The questions that were pushed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, receipts: Iterable[Receipt], annotator: str, round_: int, model: str | None) -> None:
        """Records that requests arrived; their items become pushed, unless they are answered already."""
        now = datetime.now(UTC)
        rows = [
            {
                "item_key": key,
                "annotator": annotator,
                "external_id": external_id,
                "round": round_,
                "model": model,
                "pushed_at": now,
            }
            for key, external_id in receipts
        ]
        with self._database.write() as connection:
            put(connection, tasks, rows, update=("external_id", "round", "model"))
            restate(connection, [str(row["item_key"]) for row in rows])

    def drop(self, keys: Iterable[str], annotator: str) -> int:
        """Forgets questions that are no longer there, so that they can be asked again; returns how many.

        An item without any answer left returns to the unlabelled ones.
        """
        dropped = 0
        with self._database.write() as connection:
            for chunk in chunks(dict.fromkeys(keys)):
                meant = delete(tasks).where(tasks.c.item_key.in_(chunk), tasks.c.annotator == annotator)
                dropped += connection.execute(meant).rowcount
                restate(connection, chunk)
        return dropped

    def asked(self, annotator: str) -> dict[str, str]:
        """The annotator's id of each question that was pushed to it, by item key."""
        query = select(tasks.c.item_key, tasks.c.external_id).where(tasks.c.annotator == annotator)
        with self._database.read() as connection:
            return {row.item_key: row.external_id for row in connection.execute(query)}

    def of(self, keys: Iterable[str], annotator: str) -> dict[str, TaskRow]:
        """The questions about these items that were pushed to the annotator."""
        found = {}
        with self._database.read() as connection:
            for chunk in chunks(dict.fromkeys(keys)):
                query = select(tasks).where(tasks.c.item_key.in_(chunk), tasks.c.annotator == annotator)
                found.update({row.item_key: TaskRow(*row) for row in connection.execute(query)})
        return found

    def get(self, key: str) -> TaskRow | None:
        """The newest question about the item."""
        query = select(tasks).where(tasks.c.item_key == key).order_by(tasks.c.pushed_at.desc())
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return TaskRow(*row) if row else None

    def open_items(self, annotator: str) -> ItemList:
        """Items that were pushed to the annotator and have no answer yet."""
        query = (
            select(*ITEM_COLUMNS)
            .join(tasks, tasks.c.item_key == items.c.key)
            .where(tasks.c.annotator == annotator, items.c.state == ItemState.PUSHED.value)
            .order_by(items.c.key)
        )
        with self._database.read() as connection:
            return [to_item(row) for row in connection.execute(query)]


def _known(connection: Connection, keys: set[str]) -> set[str]:
    return set(connection.scalars(select(items.c.key).where(items.c.key.in_(keys))))


def _stored(connection: Connection, identities: Mapping[Identity, Annotation]) -> dict[Identity, Row[Any]]:
    ids = {external_id for _, external_id in identities}
    rows = connection.execute(select(answers).where(answers.c.external_id.in_(ids)))
    return {(row.kind, row.external_id): row for row in rows if (row.kind, row.external_id) in identities}


def _content(row: Row[Any]) -> tuple[Any, ...]:
    return row.item_key, row.state, row.labels, row.withdrawn_at is not None


def _row(kind: str, answer: Annotation) -> dict[str, Any]:
    return {
        "kind": kind,
        "external_id": answer.external_id,
        "item_key": answer.item_key,
        "state": answer.state.value,
        "labels": None if answer.labels is None else label_json.to_json(answer.labels),
        "annotator": answer.annotator,
        "lead_time": answer.lead_time,
        "round": answer.round,
        "model": answer.model,
        "blind": answer.blind,
        "edits": None if answer.edits is None else {name: asdict(done) for name, done in answer.edits.items()},
        "at": answer.at,
        "revision": 1,
        "withdrawn_at": None,
    }


def _write(
    connection: Connection, taken: list[tuple[Identity, Annotation]], stored: Mapping[Identity, Row[Any]]
) -> Counter[str]:
    """Inserts and updates; counts answers that are new, changed and the same."""
    counts: Counter[str] = Counter()
    inserts, updates = [], []
    for identity, answer in taken:
        row, old = _row(identity[0], answer), stored.get(identity)
        if old is None:
            counts["new"] += 1
            inserts.append(row)
        elif _content(old) != (row["item_key"], row["state"], row["labels"], False):
            counts["changed"] += 1
            updates.append(row | {"id_": old.id, "revision": old.revision + 1})
        else:
            counts["same"] += 1
            if identity[0] != IMPORT:  # an import is as old as its first reading; a person's answer was saved again
                updates.append(row | {"id_": old.id, "revision": old.revision})
    if inserts:
        connection.execute(insert(answers), inserts)
    if updates:
        connection.execute(update(answers).where(answers.c.id == bindparam("id_")), updates)
    return counts


def _current(connection: Connection, keys: set[str]) -> dict[str, tuple[int, int] | None]:
    """Which answer of each item is the current one, and in which revision; None where it has none."""
    found: dict[str, tuple[int, int] | None] = dict.fromkeys(keys)
    for chunk in chunks(keys):
        best = current_answers(chunk).subquery()
        query = select(answers.c.item_key, answers.c.id, answers.c.revision).join(best, best.c.id == answers.c.id)
        found.update({key: (number, revision) for key, number, revision in connection.execute(query)})
    return found


def _follow(connection: Connection, before: Mapping[str, tuple[int, int] | None]) -> None:
    """Moves the items' states after their answers, and retires hard negatives of labels that no longer stand."""
    restate(connection, before)
    after = _current(connection, set(before))
    for chunk in chunks(key for key in before if before[key] != after[key]):
        measured = negatives.c.state.in_([NegativeState.HARD.value, NegativeState.QUESTION.value])
        change = update(negatives).where(negatives.c.item_key.in_(chunk), measured)
        connection.execute(change.values(state=NegativeState.STALE.value))


def _unknown_item(answer: Annotation) -> Refusal:
    return Refusal(f"{answer.annotator} {answer.external_id}", f"answers item {answer.item_key}, not in the pool")
