"""The items of the pool and the files they come from."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, Select, func, select, update

from alpipe.pool.database import Database, chunks, put
from alpipe.pool.tables import files, items
from alpipe.types import Item, ItemState, Refusal, Split

ItemList: TypeAlias = list[Item]
States: TypeAlias = Iterable[ItemState] | ItemState

ITEM_COLUMNS = (
    items.c.key,
    items.c.uri,
    items.c.width,
    items.c.height,
    items.c.group_name,
    items.c.split,
    items.c.state,
)
"""What ``to_item`` needs of a row, and in this order."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """An image to enter the pool: what an Item holds, the facts of its file, and why it is refused, if it is.

    ``size`` in bytes and ``mtime_ns`` tell later whether the file is still the same; -1: look again each time.
    """

    key: str
    uri: str
    width: int
    height: int
    group: str | None = None
    split: Split = Split.POOL
    state: ItemState = ItemState.UNLABELLED
    size: int = -1
    mtime_ns: int = -1
    format: str = ""
    mode: str = ""
    orientation: int = 1
    frames: int = 1
    note: str = ""
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """What the store knows of an item beside the Item: its file's facts, when it came, when and why it was chosen.

    ``round`` and ``reason`` are those of the last selection, ``refusal`` why it is quarantined, ``paths`` all files
    with its bytes.
    """

    format: str
    mode: str
    orientation: int
    frames: int
    note: str
    added_at: datetime
    round: int | None
    reason: str | None
    refusal: str | None
    paths: tuple[str, ...]


def to_item(row: Row[Any] | Sequence[Any]) -> Item:
    """An Item from a row that starts with ITEM_COLUMNS."""
    key, uri, width, height, group, split, state = row[:7]
    return Item(key, uri, width, height, group, Split(split), ItemState(state))


def values_of(states: States) -> builtins.list[str]:
    """The states as the tables hold them; one state may stand for itself."""
    return [states.value] if isinstance(states, ItemState) else [state.value for state in states]


class Items:
    """The images of the pool, always listed in the order of their keys unless keys are given."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: Iterable[NewItem]) -> builtins.set[str]:
        """Enters images and remembers their files; returns the keys that were not there before.

        An item that is there stays as it is: a further file of the same bytes becomes one more of its paths.
        """
        now = datetime.now(UTC)
        added: set[str] = set()
        with self._database.write() as connection:
            for chunk in chunks(new):
                keys = {entry.key for entry in chunk}
                known = set(connection.scalars(select(items.c.key).where(items.c.key.in_(keys))))
                put(connection, items, [_item_row(entry, now) for entry in chunk])
                put(connection, files, map(file_row, chunk), update=("item_key", "size", "mtime_ns"))
                added |= keys - known
        return added

    def get(self, key: str) -> Item | None:
        with self._database.read() as connection:
            row = connection.execute(select(*ITEM_COLUMNS).where(items.c.key == key)).first()
        return to_item(row) if row else None

    def details(self, key: str) -> Details | None:
        """What else is known of the item; None for an unknown key."""
        with self._database.read() as connection:
            row = connection.execute(select(items).where(items.c.key == key)).first()
        if row is None:
            return None
        return Details(
            row.format,
            row.mode,
            row.orientation,
            row.frames,
            row.note,
            row.added_at,
            row.round,
            row.reason,
            row.refusal,
            tuple(self.paths(key)),
        )

    def iterate(self, *, states: States | None = None, split: Split | None = None, batch: int = 2000) -> Iterator[Item]:
        """All items that fit, read in batches with no transaction open between: the caller may change them."""
        last = ""
        while True:
            query = _filtered(states, split).where(items.c.key > last).order_by(items.c.key).limit(batch)
            with self._database.read() as connection:
                found = [to_item(row) for row in connection.execute(query)]
            if not found:
                return
            yield from found
            last = found[-1].key

    def counts(self, split: Split | None = None) -> dict[str, int]:
        """How many items are in each state; a state that none is in is left out."""
        query = select(items.c.state, func.count()).group_by(items.c.state)
        if split is not None:
            query = query.where(items.c.split == split.value)
        with self._database.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {state.value: found[state.value] for state in ItemState if state.value in found}

    def count_by_state(self) -> dict[str, int]:
        """``counts`` of both splits together."""
        return self.counts()

    def set_state(self, keys: Iterable[str], state: ItemState, *, where: States | None = None) -> int:
        """Moves items, those that are in one of the states ``where`` if given; returns how many were moved."""
        moved = 0
        with self._database.write() as connection:
            for chunk in chunks(dict.fromkeys(keys)):
                change = update(items).where(items.c.key.in_(chunk), items.c.state != state.value)
                if where is not None:
                    change = change.where(items.c.state.in_(values_of(where)))
                moved += connection.execute(change.values(state=state.value)).rowcount
        return moved

    def quarantine(self, refusals: Iterable[Refusal]) -> None:
        """Takes items out of the loop: ``source`` is the key, ``reason`` why. Adding the same file again, once it can
        be read, brings the item back.
        """
        with self._database.write() as connection:
            for key, reason in refusals:
                change = update(items).where(items.c.key == key)
                connection.execute(change.values(state=ItemState.QUARANTINED.value, refusal=reason))
                connection.execute(update(files).where(files.c.item_key == key).values(size=-1))

    def paths(self, key: str) -> builtins.list[str]:
        """All files with these bytes, the one that the item is read from first."""
        query = (
            select(files.c.path)
            .join(items, items.c.key == files.c.item_key)
            .where(files.c.item_key == key)
            .order_by(files.c.path != items.c.uri, files.c.path)
        )
        with self._database.read() as connection:
            return [*connection.scalars(query)]

    def quarantined(self) -> builtins.list[tuple[str, str]]:
        """(path, reason) of every file that cannot be used."""
        path = func.coalesce(files.c.path, items.c.uri)
        query = (
            select(path, items.c.refusal)
            .select_from(items)
            .outerjoin(files, files.c.item_key == items.c.key)
            .where(items.c.state == ItemState.QUARANTINED.value)
            .order_by(path)
        )
        with self._database.read() as connection:
            return [(where, reason or "no reason was recorded") for where, reason in connection.execute(query)]

    def list(
        self,
        *,
        states: States | None = None,
        split: Split | None = None,
        keys: Iterable[str] | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> ItemList:
        """The items that fit, in the order of their keys, or of ``keys`` where those are given."""
        query = _filtered(states, split)
        if keys is None:
            query = query.order_by(items.c.key).limit(limit)
            with self._database.read() as connection:
                return [to_item(row) for row in connection.execute(query.offset(offset))]
        wanted = [*dict.fromkeys(keys)]
        found = {}
        with self._database.read() as connection:
            for chunk in chunks(wanted):
                found.update({row.key: to_item(row) for row in connection.execute(query.where(items.c.key.in_(chunk)))})
        listed = [found[key] for key in wanted if key in found][offset or 0 :]
        return listed[:limit]


def _filtered(states: States | None, split: Split | None) -> Select[Any]:
    query = select(*ITEM_COLUMNS)
    if states is not None:
        query = query.where(items.c.state.in_(values_of(states)))
    if split is not None:
        query = query.where(items.c.split == split.value)
    return query


def _item_row(entry: NewItem, now: datetime) -> dict[str, Any]:
    return {
        "key": entry.key,
        "uri": entry.uri,
        "width": entry.width,
        "height": entry.height,
        "group_name": entry.group,
        "split": entry.split.value,
        "state": entry.state.value,
        "format": entry.format,
        "mode": entry.mode,
        "orientation": entry.orientation,
        "frames": entry.frames,
        "note": entry.note,
        "added_at": now,
        "refusal": entry.refusal,
    }


def file_row(entry: NewItem) -> dict[str, Any]:
    """The row of ``files`` for the file that the image was found in."""
    return {"path": entry.uri, "item_key": entry.key, "size": entry.size, "mtime_ns": entry.mtime_ns}
