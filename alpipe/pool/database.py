"""The connection: transactions, SQLite's settings, and statements that both databases understand."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from alpipe.errors import StoreError

CHUNK = 2000
"""Values in one IN list or rows in one statement: well under SQLite's limit of 32,766 variables."""

BUSY_SECONDS = 30
"""How long a write waits for another process's write before it fails."""

T = TypeVar("T")


def chunks(values: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The values in lists of at most ``size``."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk


class Database:
    """An engine with two kinds of transaction: ``read`` sees one snapshot, ``write`` is alone.

    A SQLite transaction that starts by reading cannot always become a writing one, however long it waits; so ``write``
    takes the write lock at its start. Every failure of the database is a StoreError.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)
        self.name = self.url.render_as_string(hide_password=True)
        try:
            self._engine = create_engine(self.url, pool_pre_ping=self.url.get_backend_name() != "sqlite")
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(f"the store {self.name} cannot be opened: {error}") from error
        if self.is_sqlite:
            _prepare_sqlite(self._engine)
        self._writing = self._engine.execution_options(alpipe_begin="BEGIN IMMEDIATE")

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._stated(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._stated(), self._writing.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _stated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreError(f"the store {self.name}: {error.orig}") from error


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        shown = re.sub(r"(?<=://)[^/]*@", "…@", url)  # it may hold a password
        fault = "unknown kind of database" if isinstance(error, NoSuchModuleError) else "not of the form KIND://PLACE"
        raise StoreError(f"{shown!r} is no URL of a store, such as sqlite:///pool.db: {fault}") from None
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"a store lives in SQLite or PostgreSQL, not in {backend}")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError("a store in memory would forget everything; name a file: sqlite:///pool.db")
    return parsed


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        _use_wal(connection)

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("alpipe_begin", "BEGIN"))


def _use_wal(connection: sqlite3.Connection) -> None:
    """Changing the journal mode ignores busy_timeout while others open the same new file, so it is tried again."""
    patience = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > patience:
                raise
            time.sleep(0.01)
        else:
            return


def put(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]], *, update: Sequence[str] = ()) -> None:
    """Inserts rows; where the primary key is there already, sets the columns ``update`` (none: leaves the row)."""
    keys = [column.name for column in table.primary_key.columns]
    insert = sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
    if update:
        statement = insert.on_conflict_do_update(
            index_elements=keys, set_={name: insert.excluded[name] for name in update}
        )
    else:
        statement = insert.on_conflict_do_nothing(index_elements=keys)
    for chunk in chunks(rows):
        connection.execute(statement, [dict(row) for row in chunk])
