"""The pool store: everything that matters between two runs, in one SQL database."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from alpipe.pool.agreement import Rule
from alpipe.pool.answers import Annotations, TaskRow, Tasks, Truth, Upserted
from alpipe.pool.bank import Negatives
from alpipe.pool.database import Database
from alpipe.pool.items import Details, Items, NewItem
from alpipe.pool.knowledge import Embeddings, Fingerprints, Meta, ModelRow, Models, Scores
from alpipe.pool.questions import Asked, Questions
from alpipe.pool.rounds import Round, Rounds
from alpipe.pool.schema import bring_up_to_date
from alpipe.pool.states import AGREEMENT

__all__ = ["Asked", "Details", "ModelRow", "NewItem", "PoolStore", "Round", "TaskRow", "Upserted"]

LATEST = Rule()
"""Without another rule the newest answer counts."""


class PoolStore:
    """The store, by topic: ``items``, ``truth``, ``annotations``, ``tasks``, ``scores``, ``fingerprints``,
    ``embeddings``, ``negatives``, ``questions``, ``models``, ``rounds`` and ``meta``. Each call is one transaction;
    times are UTC; every failure of the database is a StoreError.

    Several processes and threads may use one store at a time.
    """

    def __init__(self, database: Database, rule: Rule) -> None:
        self._database = database
        self.items = Items(database)
        self.truth = Truth(database)
        self.annotations = Annotations(database, rule)
        self.tasks = Tasks(database)
        self.scores = Scores(database)
        self.fingerprints = Fingerprints(database)
        self.embeddings = Embeddings(database)
        self.negatives = Negatives(database)
        self.questions = Questions(database)
        self.models = Models(database)
        self.rounds = Rounds(database)
        self.meta = Meta(database)

    @classmethod
    def open(cls, url: str, rule: Rule = LATEST) -> PoolStore:
        """Opens a store (``sqlite:///pool.db``, ``postgresql+psycopg://…``), making or migrating it where needed.

        Where several people answered an item, ``rule`` tells what counts; a store that was kept by another rule is
        brought in line. Raises StoreError for a URL that cannot be opened and for a store made by a newer alpipe.
        """
        database = Database(url)
        try:
            bring_up_to_date(database)
            store = cls(database, rule)
            store._follow_rule(rule)
        except BaseException:
            database.close()
            raise
        return store

    def _follow_rule(self, rule: Rule) -> None:
        stated = f"{rule.policy} of at least {rule.minimum} at IoU {rule.iou}"
        before = self.meta.get(AGREEMENT)
        if before == stated or (before is None and rule == LATEST):
            return
        self.annotations.apply_rule()
        self.meta.set(AGREEMENT, stated)

    @property
    def database(self) -> Database:
        """The connection, for those in the room who need a transaction of their own."""
        return self._database

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
