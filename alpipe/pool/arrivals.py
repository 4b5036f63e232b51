"""What the store makes of files that were looked at: new items, further paths, changes, and the side of the split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.exc import IntegrityError

from alpipe.images import ImageFacts
from alpipe.pool.database import Database, chunks, put
from alpipe.pool.states import restate
from alpipe.pool.tables import files, items
from alpipe.types import ItemState, Refusal, Split


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that was hashed, and verified where its content was not known: its facts, or why it is refused.

    Both are None for a file of a known, readable item.
    """

    path: str
    key: str
    size: int
    mtime_ns: int
    group: str | None = None
    facts: ImageFacts | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class SplitRule:
    """Which side new items go to: all to the hold-out, or a share of them by a hash that no order of adding changes."""

    holdout: bool
    share: float
    salt: str

    def side(self, unit: str) -> Split:
        """The side of a group, or of an item that has none."""
        if self.holdout:
            return Split.HOLDOUT
        digest = blake2b((self.salt + unit).encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return Split.HOLDOUT if int.from_bytes(digest, "big") / 2**64 < self.share else Split.POOL


@dataclass(slots=True)
class Tally:
    """What became of files so far."""

    added: int = 0
    holdout_added: int = 0
    duplicates: int = 0
    already_known: int = 0
    stayed_in_pool: int = 0
    moved: int = 0
    quarantined: list[Refusal] = field(default_factory=list)


def known_files(database: Database, paths: Iterable[str]) -> dict[str, Row[Any]]:
    """What the store has of these files: path, size and mtime_ns, and all columns of the item."""
    found = {}
    with database.read() as connection:
        for chunk in chunks(paths):
            found.update(_rows_by_path(connection, chunk))
    return found


def readable_keys(database: Database, keys: Sequence[str]) -> set[str]:
    """Those of the keys whose item is in the pool and not quarantined."""
    query = select(items.c.key).where(items.c.state != ItemState.QUARANTINED.value)
    with database.read() as connection:
        return {key for chunk in chunks(keys) for key in connection.scalars(query.where(items.c.key.in_(chunk)))}


def enter(database: Database, arrivals: Sequence[Arrival], rule: SplitRule, tally: Tally) -> None:
    """Takes a batch of files into the store in one transaction."""
    now = datetime.now(UTC)
    with database.write() as connection:
        before = {path: row.key for path, row in _rows_by_path(connection, [a.path for a in arrivals]).items()}
        sides = _sides_of_groups(connection, {a.group for a in arrivals if a.group is not None})
        for arrival in arrivals:
            item = connection.execute(select(items).where(items.c.key == arrival.key)).first()
            if item is None:
                _enter_new(connection, arrival, rule, sides, now, tally)
            else:
                _meet_again(connection, arrival, item, before.get(arrival.path) == arrival.key, rule, tally)
            file = {"path": arrival.path, "item_key": arrival.key, "size": arrival.size, "mtime_ns": arrival.mtime_ns}
            put(connection, files, [file], update=("item_key", "size", "mtime_ns"))
            if before.get(arrival.path, arrival.key) != arrival.key:
                _lose_path(connection, before[arrival.path], arrival.path)


def _enter_new(
    connection: Connection, arrival: Arrival, rule: SplitRule, sides: dict[str, Split], now: datetime, tally: Tally
) -> None:
    side = sides.get(arrival.group) if arrival.group is not None else None
    if side is None:
        side = rule.side(arrival.group or arrival.key)
        if arrival.group is not None:
            sides[arrival.group] = side
    row = {"key": arrival.key, "uri": arrival.path, "group_name": arrival.group, "split": side.value, "added_at": now}
    state = ItemState.UNLABELLED if arrival.refusal is None else ItemState.QUARANTINED
    row |= {"state": state.value, "refusal": arrival.refusal, **_facts(arrival)}
    put(connection, items, [row])
    if arrival.refusal is not None:
        tally.quarantined.append(Refusal(arrival.path, arrival.refusal))
        return
    tally.added += 1
    tally.holdout_added += side is Split.HOLDOUT
    tally.stayed_in_pool += rule.holdout and side is Split.POOL


def _meet_again(
    connection: Connection, arrival: Arrival, item: Row[Any], same_path: bool, rule: SplitRule, tally: Tally
) -> None:
    if item.state == ItemState.QUARANTINED and arrival.facts is None:
        tally.quarantined.append(Refusal(arrival.path, arrival.refusal or item.refusal or "quarantined"))
        return
    if item.state == ItemState.QUARANTINED:  # its file is back, or can be read now
        repaired = {"state": ItemState.UNLABELLED.value, "refusal": None, "uri": arrival.path, **_facts(arrival)}
        connection.execute(update(items).where(items.c.key == item.key).values(repaired))
        restate(connection, [item.key])
    elif not Path(item.uri).exists():
        connection.execute(update(items).where(items.c.key == item.key).values(uri=arrival.path))
        connection.execute(delete(files).where(files.c.path == item.uri))
        tally.moved += 1
    if same_path:
        tally.already_known += 1
    else:
        tally.duplicates += 1
    tally.stayed_in_pool += rule.holdout and item.split == Split.POOL


def _lose_path(connection: Connection, key: str, path: str) -> None:
    """The file at ``path`` no longer holds this item: it goes on with another file of the same bytes, if there is one.

    Otherwise it is quarantined, with all that was said of it, until its bytes are added again; an item that was
    nothing but a damaged file is forgotten.
    """
    other = connection.scalar(select(files.c.path).where(files.c.item_key == key).order_by(files.c.path).limit(1))
    item = items.c.key == key
    if other is not None:
        connection.execute(update(items).where(item, items.c.uri == path).values(uri=other))
        return
    try:
        with connection.begin_nested():
            if connection.execute(delete(items).where(item, items.c.width == 0)).rowcount:
                return
    except IntegrityError:
        pass  # something was said of it
    refusal = f"the content of {path} was replaced"
    connection.execute(update(items).where(item).values(state=ItemState.QUARANTINED.value, refusal=refusal))


def _facts(arrival: Arrival) -> dict[str, Any]:
    facts = arrival.facts or ImageFacts(0, 0, "", "", 1, 1, "")
    return {name: getattr(facts, name) for name in ImageFacts.__slots__}


def _sides_of_groups(connection: Connection, groups: set[str]) -> dict[str, Split]:
    query = select(items.c.group_name, items.c.split).where(items.c.group_name.in_(groups)).distinct()
    return {group: Split(split) for group, split in connection.execute(query)}


def _rows_by_path(connection: Connection, paths: Sequence[str]) -> dict[str, Row[Any]]:
    query = select(files.c.path, files.c.size, files.c.mtime_ns, items).join_from(files, items)
    return {row.path: row for row in connection.execute(query.where(files.c.path.in_(paths)))}
