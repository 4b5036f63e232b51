"""The ledger of rounds, and the state machine that lets one run at a time do a step."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Update, delete, or_, select, update

from alpipe.errors import DataError
from alpipe.pool.database import Database, chunks, put
from alpipe.pool.lease import owner_is_dead
from alpipe.pool.tables import items, round_items, rounds
from alpipe.types import ItemState, Split

MERGED = frozenset({"counts", "metrics", "versions"})
REPLACED = frozenset(
    {"data_hash", "labelled", "model", "model_hash", "metric", "value", "holdout_count", "holdout_hash"}
)
"""The facts that a step may record: MERGED ones are mappings that keep what other steps put there."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the loop, as the ledger has it.

    ``step`` is the next thing to do (None: the round is finished), ``owner`` the process that does it until
    ``lease_until``. ``timings`` are seconds by step, ``counts`` what was pushed, answered, mined and so on.
    """

    number: int
    step: str | None
    owner: str | None
    lease_until: datetime | None
    seed: int
    config: Mapping[str, Any]
    data_hash: str | None
    labelled: int | None
    model: str | None
    model_hash: str | None
    metric: str | None
    value: float | None
    metrics: Mapping[str, Any]
    holdout_count: int | None
    holdout_hash: str | None
    counts: Mapping[str, int]
    timings: Mapping[str, float]
    versions: Mapping[str, str]
    started_at: datetime
    finished_at: datetime | None


class Chosen(NamedTuple):
    """An item of a round's batch: whether it was drawn at random as a control, and how wrong the round's model was on
    it, in [0, 1] (None: not measured yet).
    """

    key: str
    control: bool
    error: float | None


_COLUMNS = [rounds.c[field.name] for field in fields(Round)]


class Rounds:
    """The rounds. A step is claimed under a lease and finished by one conditional update, so none is done twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self) -> Round | None:
        """The round of the highest number, open or finished."""
        with self._database.read() as connection:
            row = connection.execute(select(*_COLUMNS).order_by(rounds.c.number.desc()).limit(1)).first()
        return Round(*row) if row else None

    def open(
        self, number: int, first_step: str, seed: int, config: Mapping[str, Any], versions: Mapping[str, str]
    ) -> None:
        """Opens a round; one that is there already stays as it is."""
        row = {"number": number, "step": first_step, "seed": seed, "config": _plain("config", config)}
        row |= {"metrics": {}, "counts": {}, "timings": {}, "versions": dict(versions), "started_at": datetime.now(UTC)}
        with self._database.write() as connection:
            put(connection, rounds, [row])

    def owner(self, number: int) -> str | None:
        """Who holds the round's step, or held it last without releasing it."""
        with self._database.read() as connection:
            return connection.scalar(select(rounds.c.owner).where(rounds.c.number == number))

    def claim(self, number: int, step: str, owner: str, lease_seconds: float) -> bool:
        """Takes the step for so many seconds, if it is the round's next and nobody else has it.

        A lease that ran out counts for nothing, nor does that of a process of this host that has died.
        """
        at_step = update(rounds).where(rounds.c.number == number, rounds.c.step == step)
        now = datetime.now(UTC)
        free = at_step.where(or_(rounds.c.owner.is_(None), rounds.c.lease_until < now, rounds.c.owner == owner))
        lease = {"owner": owner, "lease_until": now + timedelta(seconds=lease_seconds)}
        if self._changed(free.values(lease)):
            return True
        holder = self.owner(number)
        if holder is None or not owner_is_dead(holder):
            return False
        return self._changed(at_step.where(rounds.c.owner == holder).values(lease))

    def renew(self, number: int, owner: str, lease_seconds: float) -> bool:
        """Extends the lease from now on; False where another has taken over."""
        until = datetime.now(UTC) + timedelta(seconds=lease_seconds)
        held = update(rounds).where(rounds.c.number == number, rounds.c.owner == owner)
        return self._changed(held.values(lease_until=until))

    def release(self, number: int, owner: str) -> None:
        """Lets the step go, if it is the owner's."""
        held = update(rounds).where(rounds.c.number == number, rounds.c.owner == owner)
        self._changed(held.values(owner=None, lease_until=None))

    def finish(
        self, number: int, step: str, next_step: str | None, owner: str, *, seconds: float, **facts: Any
    ) -> bool:
        """Ends the step, records its facts and time, lets it go, and moves on; ``next_step`` None closes the round.

        False, and nothing is recorded, where the step is no longer the owner's. Facts are the columns of REPLACED and
        MERGED; raises DataError for one that is not plain JSON (NaN is not).
        """
        if unknown := set(facts) - MERGED - REPLACED:
            raise TypeError(f"no such facts of a round: {', '.join(sorted(unknown))}")
        mine = (rounds.c.number == number, rounds.c.step == step, rounds.c.owner == owner)
        with self._database.write() as connection:
            old = connection.execute(select(rounds).where(*mine).with_for_update()).first()
            if old is None:
                return False
            values = {name: _plain(name, value) for name, value in facts.items()}
            values |= {name: {**getattr(old, name), **values[name]} for name in MERGED & set(facts)}
            values["timings"] = {**old.timings, step: old.timings.get(step, 0.0) + seconds}
            values |= {"step": next_step, "owner": None, "lease_until": None}
            if next_step is None:
                values["finished_at"] = datetime.now(UTC)
            return connection.execute(update(rounds).where(*mine).values(values)).rowcount == 1

    def note(self, number: int, counts: Mapping[str, int]) -> None:
        """Adds counts to those of a round, in place of earlier ones of the same names, whatever step it stands at."""
        with self._database.write() as connection:
            one = select(rounds.c.counts).where(rounds.c.number == number).with_for_update()
            old = connection.scalar(one) or {}
            values = {"counts": {**old, **_plain("counts", dict(counts))}}
            connection.execute(update(rounds).where(rounds.c.number == number).values(values))

    def select_items(
        self, number: int, keys: Iterable[str], reason_by_key: Mapping[str, str], control: Iterable[str] = ()
    ) -> builtins.list[str]:
        """Puts the items that are still unlabelled into the round's batch, all or none; returns the keys taken. Those
        of ``control`` are marked as drawn at random.

        Those that are in the batch already stay in it, so that a selection can be repeated.
        """
        taken: builtins.list[str] = []
        controls = set(control)
        with self._database.write() as connection:
            for chunk in chunks(dict.fromkeys(keys)):
                unlabelled = (items.c.key.in_(chunk), items.c.state == ItemState.UNLABELLED.value)
                free = set(connection.scalars(select(items.c.key).where(*unlabelled)))
                chosen = [key for key in chunk if key in free]
                for key in chosen:
                    change = update(items).where(items.c.key == key, items.c.state == ItemState.UNLABELLED.value)
                    reason = reason_by_key.get(key)
                    connection.execute(change.values(state=ItemState.SELECTED.value, round=number, reason=reason))
                rows = [
                    {"round": number, "role": "selected", "item_key": key, "control": key in controls} for key in chosen
                ]
                put(connection, round_items, rows)
                taken += chosen
        return taken

    def selected(self, number: int) -> dict[str, str]:
        """The round's batch: key → why it was chosen."""
        query = (
            select(items.c.key, items.c.reason)
            .join(round_items, round_items.c.item_key == items.c.key)
            .where(round_items.c.round == number, round_items.c.role == "selected")
            .order_by(items.c.key)
        )
        with self._database.read() as connection:
            return {key: reason or "" for key, reason in connection.execute(query)}

    def chosen(self, number: int) -> builtins.list[Chosen]:
        """The pool's images in the round's batch, as an audit needs them, in the order of the keys."""
        query = (
            select(round_items.c.item_key, round_items.c.control, round_items.c.error)
            .join(items, items.c.key == round_items.c.item_key)
            .where(round_items.c.round == number, round_items.c.role == "selected", items.c.split == Split.POOL.value)
            .order_by(round_items.c.item_key)
        )
        with self._database.read() as connection:
            return [Chosen(*row) for row in connection.execute(query)]

    def errors(self, number: int, role: str) -> dict[str, float]:
        """Key → how wrong the round's model was on each item in that role, as far as that was measured."""
        query = select(round_items.c.item_key, round_items.c.error).where(
            round_items.c.round == number, round_items.c.role == role, round_items.c.error.is_not(None)
        )
        with self._database.read() as connection:
            return {row.item_key: row.error for row in connection.execute(query.order_by(round_items.c.item_key))}

    def record_errors(self, number: int, role: str, error_by_key: Mapping[str, float]) -> None:
        """Records how wrong the round's model was on items in a role, in place of earlier figures of these items."""
        rows = (
            {"round": number, "role": role, "item_key": key, "error": float(error)}
            for key, error in error_by_key.items()
        )
        with self._database.write() as connection:
            put(connection, round_items, rows, update=("error",))

    def record_items(self, number: int, role: str, pairs: Iterable[tuple[str, str | None]]) -> None:
        """Records the items of the round in a role (``train``), with the answers used, in place of earlier ones."""
        meant = delete(round_items).where(round_items.c.round == number, round_items.c.role == role)
        rows = [{"round": number, "role": role, "item_key": key, "annotation": answer} for key, answer in pairs]
        with self._database.write() as connection:
            connection.execute(meant)
            put(connection, round_items, rows)

    def items(self, number: int, role: str) -> builtins.list[tuple[str, str | None]]:
        """(item key, external id of the answer) in that role, in the order of the keys."""
        query = (
            select(round_items.c.item_key, round_items.c.annotation)
            .where(round_items.c.round == number, round_items.c.role == role)
            .order_by(round_items.c.item_key)
        )
        with self._database.read() as connection:
            return [(key, answer) for key, answer in connection.execute(query)]

    def list(self) -> builtins.list[Round]:
        """All rounds, the first one first."""
        with self._database.read() as connection:
            return [Round(*row) for row in connection.execute(select(*_COLUMNS).order_by(rounds.c.number))]

    def _changed(self, change: Update) -> bool:
        with self._database.write() as connection:
            return connection.execute(change).rowcount == 1


def _plain(name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} of the round cannot be recorded: {error}") from error
