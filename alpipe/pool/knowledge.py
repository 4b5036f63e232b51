"""What models made of the pool: scores, embeddings, and the models themselves; and named values such as watermarks."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import and_, select

from alpipe.errors import StoreError
from alpipe.pool.database import Database, chunks, put
from alpipe.pool.items import ITEM_COLUMNS, ItemList, States, to_item, values_of
from alpipe.pool.tables import embeddings, fingerprints, items, meta, models, scores
from alpipe.types import FloatArray, ItemState, Score, Split


class Scores:
    """How much each item is worth labelling, by the name under which a scan files its scores."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, model: str, values: Sequence[Score], features: Sequence[FloatArray] | None = None) -> None:
        """Keeps scores, and the (F,) float32 description of each item beside them, in place of earlier ones of the same
        model and item.
        """
        described = [None] * len(values) if features is None else [one.astype("<f4").tobytes() for one in features]
        with self._database.write() as connection:
            rows = (
                {"model": model, "item_key": key, "value": value, "features": one}
                for (key, value), one in zip(values, described, strict=True)
            )
            put(connection, scores, rows, update=("value", "features"))

    def of(self, model: str, keys: Iterable[str] | None = None) -> list[Score]:
        """The scores of a model, in the order of the items' keys, or of ``keys``; items without one are left out."""
        query = select(scores.c.item_key, scores.c.value).where(scores.c.model == model)
        with self._database.read() as connection:
            if keys is None:
                return [Score(*row) for row in connection.execute(query.order_by(scores.c.item_key))]
            wanted, found = [*dict.fromkeys(keys)], {}
            for chunk in chunks(wanted):
                rows = connection.execute(query.where(scores.c.item_key.in_(chunk)))
                found.update({row.item_key: row.value for row in rows})
        return [Score(key, found[key]) for key in wanted if key in found]

    def features(self, model: str, keys: Sequence[str]) -> FloatArray:
        """(N, F) float32: the descriptions of these items, in their order. Raises StoreError where one has none, or
        they differ in length.
        """
        query = select(scores.c.item_key, scores.c.features).where(scores.c.model == model)
        found: dict[str, bytes] = {}
        with self._database.read() as connection:
            for chunk in chunks(keys):
                for row in connection.execute(query.where(scores.c.item_key.in_(chunk))):
                    found[row.item_key] = row.features
        lengths = {len(found.get(key) or b"") for key in keys}
        if keys and (len(lengths) > 1 or 0 in lengths):
            raise StoreError(
                f"scores of {model!r} lack descriptions, or these differ in length: train again, or change an option of"
                " the strategy, so that the pool is scored anew"
            )
        return np.frombuffer(b"".join(found[key] for key in keys), "<f4").reshape(len(keys), -1).astype(np.float32)

    def missing(
        self, model: str, states: States = ItemState.UNLABELLED, *, split: Split | None = Split.POOL
    ) -> ItemList:
        """The items in these states that the model has not scored, in the order of their keys."""
        query = (
            select(*ITEM_COLUMNS)
            .outerjoin(scores, and_(scores.c.item_key == items.c.key, scores.c.model == model))
            .where(scores.c.item_key.is_(None), items.c.state.in_(values_of(states)))
            .order_by(items.c.key)
        )
        if split is not None:
            query = query.where(items.c.split == split.value)
        with self._database.read() as connection:
            return [to_item(row) for row in connection.execute(query)]

    def top(self, model: str, n: int, states: States = ItemState.UNLABELLED) -> list[Score]:
        """The n highest scores among items in these states, best first; equal ones in the order of their keys."""
        query = (
            select(scores.c.item_key, scores.c.value)
            .join(items, items.c.key == scores.c.item_key)
            .where(scores.c.model == model, items.c.state.in_(values_of(states)))
            .order_by(scores.c.value.desc(), scores.c.item_key)
            .limit(n)
        )
        with self._database.read() as connection:
            return [Score(*row) for row in connection.execute(query)]


class Fingerprints:
    """Perceptual hashes of images, 64 bits each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, by_key: Mapping[str, int]) -> None:
        """Keeps hashes; that of an item never changes."""
        with self._database.write() as connection:
            rows = ({"item_key": key, "hash": _signed(value)} for key, value in by_key.items())
            put(connection, fingerprints, rows)

    def get(self, keys: Iterable[str]) -> dict[str, int]:
        """Those of the items that have one."""
        query = select(fingerprints.c.item_key, fingerprints.c.hash)
        found: dict[str, int] = {}
        with self._database.read() as connection:
            for chunk in chunks(keys):
                rows = connection.execute(query.where(fingerprints.c.item_key.in_(chunk)))
                found.update({row.item_key: row.hash % 2**64 for row in rows})
        return found


class Embeddings:
    """Vectors that images were turned into, by the name of what embedded them; of an image those of the last one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, embedder: str, keys: Sequence[str], vectors: FloatArray) -> None:
        """Keeps the (N, D) float32 vectors of these items, in place of those of another embedder."""
        with self._database.write() as connection:
            rows = (
                {"item_key": key, "embedder": embedder, "vector": vector.astype("<f4").tobytes()}
                for key, vector in zip(keys, vectors, strict=True)
            )
            put(connection, embeddings, rows, update=("embedder", "vector"))

    def missing(self, embedder: str, keys: Sequence[str]) -> builtins.list[str]:
        """Those of the items that this embedder has not embedded, or another has since; in their order."""
        query = select(embeddings.c.item_key).where(embeddings.c.embedder == embedder)
        there: set[str] = set()
        with self._database.read() as connection:
            for chunk in chunks(keys):
                there.update(connection.scalars(query.where(embeddings.c.item_key.in_(chunk))))
        return [key for key in keys if key not in there]

    def of(self, embedder: str, keys: Sequence[str]) -> FloatArray:
        """(N, D) float32: the vectors of these items, in their order. Raises StoreError where one has none, or they
        differ in length.
        """
        query = select(embeddings.c.item_key, embeddings.c.vector).where(embeddings.c.embedder == embedder)
        parts: builtins.list[FloatArray] = []
        lengths: set[int] = set()
        with self._database.read() as connection:
            for chunk in chunks(keys):
                found = {
                    row.item_key: row.vector
                    for row in connection.execute(query.where(embeddings.c.item_key.in_(chunk)))
                }
                lengths |= {len(found.get(key, b"")) for key in chunk}
                if len(lengths) > 1 or 0 in lengths:
                    raise StoreError(
                        f"embeddings by {embedder!r} are not there, or differ in length: run the step again"
                    )
                parts.append(np.frombuffer(b"".join(found[key] for key in chunk), "<f4").reshape(len(chunk), -1))
        return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.zeros((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model that was trained: where its files lie, the hash of them, and the hash of the data it learnt from."""

    name: str
    round: int
    folder: str
    learner: str
    sha256: str
    data_hash: str
    description: Mapping[str, Any]
    created_at: datetime


class Models:
    """The models that were trained, by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        *,
        name: str,
        round: int,  # noqa: A002  # the word of the field
        folder: str,
        learner: str,
        sha256: str,
        data_hash: str,
        description: Mapping[str, Any],
    ) -> ModelRow:
        """Files a model, in place of an earlier one of that name."""
        row = ModelRow(name, round, folder, learner, sha256, data_hash, dict(description), datetime.now(UTC))
        values = {field: getattr(row, field) for field in ModelRow.__slots__}
        with self._database.write() as connection:
            put(connection, models, [values], update=[*values][1:])
        return row

    def get(self, name: str) -> ModelRow | None:
        with self._database.read() as connection:
            row = connection.execute(select(models).where(models.c.name == name)).first()
        return ModelRow(*row) if row else None

    def latest(self) -> ModelRow | None:
        """The model of the highest round."""
        query = select(models).order_by(models.c.round.desc(), models.c.created_at.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return ModelRow(*row) if row else None

    def list(self) -> builtins.list[ModelRow]:
        """All models, the oldest round first."""
        query = select(models).order_by(models.c.round, models.c.created_at)
        with self._database.read() as connection:
            return [ModelRow(*row) for row in connection.execute(query)]


class Meta:
    """Named values: watermarks and the like."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        with self._database.read() as connection:
            return connection.scalar(select(meta.c.value).where(meta.c.name == name))

    def set(self, name: str, value: str) -> None:
        """Keeps the value, in place of an earlier one."""
        with self._database.write() as connection:
            put(connection, meta, [{"name": name, "value": value}], update=("value",))


def _signed(value: int) -> int:
    """The same 64 bits as the database holds them."""
    return int(np.uint64(value).astype(np.int64))
