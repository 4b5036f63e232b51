"""Image files into the pool: found, hashed, verified, and put on one side of the frozen split."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from alpipe import images
from alpipe.errors import ConfigError, DataError
from alpipe.pool.arrivals import Arrival, SplitRule, Tally, enter, known_files, readable_keys
from alpipe.pool.database import chunks
from alpipe.pool.finding import Found, absolute, find_images
from alpipe.pool.items import ITEM_COLUMNS, to_item
from alpipe.pool.store import PoolStore
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.types import KEY_LENGTH, Item, ItemState, Progress, Refusal, Split

__all__ = ["AddReport", "Found", "add", "add_files", "content_key", "find_images", "group_by_regex", "lookup"]

BATCH = 200
"""Files that enter the store in one transaction: a run that is killed loses at most the work on these."""

GroupOf = Callable[[Path], str | None]


@dataclass(frozen=True, slots=True)
class AddReport:
    """What became of files; each is counted once in ``added``, ``duplicates``, ``already_known`` or ``quarantined``.

    ``added`` are new images, ``holdout_added`` those of them in the hold-out; ``duplicates`` further files with the
    bytes of a known image, ``already_known`` files that were added before; ``quarantined`` files that cannot be used,
    now or since earlier. ``ignored`` files are no images by their suffix. ``stayed_in_pool`` were to go to the
    hold-out, but they or their group are in the pool already; ``moved`` images are read from a new place from now on.
    """

    added: int = 0
    holdout_added: int = 0
    duplicates: int = 0
    already_known: int = 0
    quarantined: tuple[Refusal, ...] = ()
    ignored: int = 0
    stayed_in_pool: int = 0
    moved: int = 0


def add(
    store: PoolStore,
    paths: Iterable[str | os.PathLike[str]],
    *,
    holdout: bool = False,
    holdout_share: float = 0.0,
    salt: str = "",
    group_of: GroupOf | None = None,
    workers: int | None = None,
    progress: ProgressCallback = no_progress,
) -> AddReport:
    """Adds the images under files, folders and globs to the pool; what is there already is not read again.

    A new image goes to the hold-out if ``holdout``, or if the hash of ``salt`` and its group (its key, where it has
    none) falls into ``holdout_share``; the side of a known image or group never changes. Works in batches: killed and
    run again, it goes on. Raises DataError for a path that does not exist or holds nothing that may be an image.
    """
    found = find_images(paths)
    report = add_files(
        store,
        found.files,
        holdout=holdout,
        holdout_share=holdout_share,
        salt=salt,
        group_of=group_of,
        workers=workers,
        progress=progress,
    )
    return replace(report, quarantined=(*found.refused, *report.quarantined), ignored=found.ignored)


def add_files(
    store: PoolStore,
    files: Iterable[Path],
    *,
    holdout: bool = False,
    holdout_share: float = 0.0,
    salt: str = "",
    group_of: GroupOf | None = None,
    workers: int | None = None,
    progress: ProgressCallback = no_progress,
) -> AddReport:
    """``add`` for just these files, whatever their suffix; one that does not exist is refused, not an error."""
    if not 0.0 <= holdout_share <= 1.0:
        raise ConfigError(f"the share of the hold-out is {holdout_share}: it must lie in [0, 1]")
    wanted = [*dict.fromkeys(absolute(file) for file in files)]
    rule, tally = SplitRule(holdout, holdout_share, salt), Tally()
    changed = _changed(store, wanted, rule, tally)
    done = len(wanted) - len(changed)
    progress(Progress("adding images", done, len(wanted)))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="verify") as pool:
        for batch in chunks(changed, BATCH):
            arrivals = []
            for seen in _verified(store, batch, pool):
                if seen.recorded:
                    group = group_of(seen.path) if group_of else None
                    arrivals.append(seen.arrival(group))
                else:
                    tally.quarantined.append(Refusal(seen.stored, seen.refusal or "it cannot be read"))
                done += 1
                progress(Progress("adding images", done, len(wanted)))
            enter(store.database, arrivals, rule, tally)
    return AddReport(
        tally.added,
        tally.holdout_added,
        tally.duplicates,
        tally.already_known,
        tuple(tally.quarantined),
        stayed_in_pool=tally.stayed_in_pool,
        moved=tally.moved,
    )


def lookup(
    store: PoolStore,
    paths: Iterable[Path],
    *,
    holdout: bool = False,
    holdout_share: float = 0.0,
    salt: str = "",
    group_of: GroupOf | None = None,
    workers: int | None = None,
    progress: ProgressCallback = no_progress,
) -> dict[Path, Item | Refusal]:
    """``add_files``, and then for each path as it was given the item it is now, or why there is none."""
    given = [*dict.fromkeys(paths)]
    report = add_files(
        store,
        given,
        holdout=holdout,
        holdout_share=holdout_share,
        salt=salt,
        group_of=group_of,
        workers=workers,
        progress=progress,
    )
    refused = {refusal.source: refusal for refusal in report.quarantined}
    stored = {path: stored_path(absolute(path)) for path in given}
    rows = known_files(store.database, dict.fromkeys(stored.values()))
    found: dict[Path, Item | Refusal] = {}
    for path, name in stored.items():
        found[path] = refused[name] if name in refused else _item_of(rows[name])
    return found


def group_by_regex(pattern: str) -> GroupOf:
    """Groups files by what a regular expression finds in their absolute path: its first bracket, or all it matches.

    A file in which it finds nothing is a group of its own. Raises ConfigError for an expression that is none.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}") from error

    def group_of(path: Path) -> str | None:
        match = expression.search(path.as_posix())
        return (match[1] if expression.groups else match[0]) if match else None

    return group_of


def content_key(path: Path) -> str:
    """The key of an item: the BLAKE2b hash of the file's bytes, KEY_LENGTH hexadecimal digits."""
    digest = blake2b(digest_size=KEY_LENGTH // 2)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stored_path(path: Path) -> str:
    """The path as the store keeps it; bytes that are no UTF-8 are written out, since a database takes only text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file that was looked at. ``recorded`` is False where the store should not remember it."""

    path: Path
    stored: str
    key: str = ""
    size: int = -1
    mtime_ns: int = -1
    facts: images.ImageFacts | None = None
    refusal: str | None = None
    recorded: bool = True

    def arrival(self, group: str | None) -> Arrival:
        return Arrival(self.stored, self.key, self.size, self.mtime_ns, group, self.facts, self.refusal)


def _changed(store: PoolStore, files: list[Path], rule: SplitRule, tally: Tally) -> list[Path]:
    """The files that the store does not know as they are now; the others go to the tally."""
    changed = []
    for chunk in chunks(files):
        names = [stored_path(file) for file in chunk]
        known = known_files(store.database, names)
        for file, name in zip(chunk, names, strict=True):
            row = known.get(name)
            if row is None or not _is_unchanged(file, row):
                changed.append(file)
            elif row.state == ItemState.QUARANTINED:
                tally.quarantined.append(Refusal(name, row.refusal or "quarantined"))
            else:
                tally.already_known += 1
                tally.stayed_in_pool += rule.holdout and row.split == Split.POOL
    return changed


def _is_unchanged(file: Path, row: Row[Any]) -> bool:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return False
    return bool(status.st_size == row.size and status.st_mtime_ns == row.mtime_ns)


def _verified(store: PoolStore, batch: list[Path], pool: ThreadPoolExecutor) -> Iterator[_Seen]:
    """The files of a batch, hashed; content that is not in the pool is decoded, once for all files that have it."""
    hashed = [*pool.map(_hashed, batch)]
    known = readable_keys(store.database, [seen.key for seen in hashed])
    first: set[str] = set()
    decode = []
    for seen in hashed:
        decode.append(seen.refusal is None and seen.key not in known | first)
        first.add(seen.key)
    yield from pool.map(_inspected, hashed, decode)


def _hashed(path: Path) -> _Seen:
    stored = stored_path(path)
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            return _Seen(path, stored, refusal="it is not a file", recorded=False)
        os.fsencode(path).decode("utf-8")
        key = content_key(path)
    except UnicodeDecodeError:
        return _unreadable(path, stored, "its name is not UTF-8: rename it")
    except (FileNotFoundError, NotADirectoryError):
        return _Seen(path, stored, refusal="there is no such file", recorded=False)
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        return _unreadable(path, stored, f"it cannot be read: {reason}")
    return _Seen(path, stored, key, before.st_size, before.st_mtime_ns)


def _unreadable(path: Path, stored: str, reason: str) -> _Seen:
    """A file whose bytes are out of reach is remembered by its path, and looked at again each time."""
    key = blake2b(b"unreadable\0" + stored.encode(), digest_size=KEY_LENGTH // 2).hexdigest()
    return _Seen(path, stored, key, refusal=reason)


def _inspected(seen: _Seen, decode: bool) -> _Seen:
    if not decode:
        return seen
    try:
        seen = replace(seen, facts=images.inspect(seen.path))
    except DataError as error:
        seen = replace(seen, refusal=str(error).removeprefix(f"{seen.path}: "))
    try:
        status = seen.path.stat()
        same = (status.st_size, status.st_mtime_ns) == (seen.size, seen.mtime_ns)
    except OSError:
        same = False
    return seen if same else replace(seen, refusal="it changed while it was read: add it again", recorded=False)


def _item_of(row: Row[Any]) -> Item | Refusal:
    if row.state == ItemState.QUARANTINED:
        return Refusal(row.path, row.refusal or "quarantined")
    return to_item([getattr(row, column.name) for column in ITEM_COLUMNS])
