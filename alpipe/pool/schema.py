"""The store's version, and bringing an older store to the newest one.

Alembic is imported only when there is something to do, so that opening a current store stays quick.
"""

from __future__ import annotations

import logging
from importlib import resources

from sqlalchemy import Connection, inspect, text

from alpipe.errors import StoreError
from alpipe.pool.database import Database

VERSION_TABLE = "alpipe_version"
HEAD = "0008"
"""The newest revision in ``migrations/versions``; revisions are numbers in four digits."""

_LOCK = 0x616C7069  # "alpi": the advisory lock that holds off a second migration in PostgreSQL


def bring_up_to_date(database: Database) -> None:
    """Creates or migrates the tables. Raises StoreError for a store made by a newer alpipe or by something else."""
    with database.read() as connection:
        version = _version(connection)
    if version == HEAD:
        return
    with database.write() as connection:  # alone: another process may be doing the same
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        version = _version(connection)
        if version == HEAD:
            return
        if version is not None and version > HEAD:
            raise StoreError(
                f"the store {database.name} was made by a newer alpipe (its version is {version}, this alpipe knows"
                f" {HEAD}); upgrade alpipe"
            )
        if version is None and (tables := inspect(connection).get_table_names()) and "items" in tables:
            raise StoreError(f"{database.name} holds tables of something else ({', '.join(tables[:4])}); name another")
        _upgrade(connection)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return version


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("alpipe.pool") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    logging.getLogger("alembic").setLevel(logging.WARNING)
    command.upgrade(config, "head")
