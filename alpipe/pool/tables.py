"""The tables of the pool store, as the newest migration leaves them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.types import TypeDecorator

from alpipe.types import KEY_LENGTH


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC; SQLite keeps no time zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _item_key(**more: Any) -> Column[str]:
    return Column("item_key", String(KEY_LENGTH), ForeignKey("items.key"), nullable=False, **more)


items = Table(
    "items",
    metadata,
    Column("key", String(KEY_LENGTH), primary_key=True),
    Column("uri", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("group_name", Text, index=True),
    Column("split", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("format", String(32), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("orientation", Integer, nullable=False),
    Column("frames", Integer, nullable=False),
    Column("note", Text, nullable=False),
    Column("added_at", UtcDateTime, nullable=False),
    Column("round", Integer),  # in which it was last selected
    Column("reason", Text),  # why it was selected
    Column("refusal", Text),  # why it is quarantined
    Index(None, "state", "split"),
)

files = Table(
    "files",
    metadata,
    Column("path", Text, primary_key=True),
    _item_key(index=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
)

truth = Table("truth", metadata, _item_key(primary_key=True), Column("labels", JSON, nullable=False))

answers = Table(
    "annotations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(64), nullable=False),  # the annotator without its person: labelstudio, import
    Column("external_id", Text, nullable=False),
    _item_key(index=True),
    Column("state", String(16), nullable=False),
    Column("labels", JSON(none_as_null=True)),
    Column("annotator", Text, nullable=False),
    Column("lead_time", Float),
    Column("round", Integer),
    Column("model", Text),
    Column("blind", Boolean, nullable=False, server_default=false()),
    Column("edits", JSON(none_as_null=True)),  # by class, what was done to the pre-annotation; none: not known
    Column("at", UtcDateTime, nullable=False),
    Column("revision", Integer, nullable=False),  # 1, and one more with each edit
    Column("withdrawn_at", UtcDateTime),
    UniqueConstraint("kind", "external_id"),
)

tasks = Table(
    "tasks",
    metadata,
    _item_key(primary_key=True),
    Column("annotator", String(64), primary_key=True),
    Column("external_id", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("model", Text),
    Column("pushed_at", UtcDateTime, nullable=False),
)

scores = Table(
    "scores",
    metadata,
    Column("model", String(128), primary_key=True),
    _item_key(primary_key=True),
    Column("value", Float, nullable=False),
    Column("features", LargeBinary),  # what the strategy keeps beside the score: little-endian float32
    Index(None, "model", "value"),
)

fingerprints = Table(
    "fingerprints",
    metadata,
    _item_key(primary_key=True),
    Column("hash", BigInteger, nullable=False),  # 64 bits, as a signed number
)

embeddings = Table(
    "embeddings",
    metadata,
    _item_key(primary_key=True),
    Column("embedder", String(128), nullable=False),  # one at a time: a new model's take the place of the last one's
    Column("vector", LargeBinary, nullable=False),  # little-endian float32
)

negatives = Table(
    "negatives",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("round", Integer, nullable=False, index=True),
    Column("model", Text, nullable=False),
    _item_key(index=True),
    Column("x1", Float, nullable=False),
    Column("y1", Float, nullable=False),
    Column("x2", Float, nullable=False),
    Column("y2", Float, nullable=False),
    Column("name", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("iou", Float, nullable=False),
    Column("key", String(KEY_LENGTH), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("last_score", Float, nullable=False),  # by the model of last_round
    Column("last_round", Integer, nullable=False),
    Column("hard_round", Integer, nullable=False),  # the last one whose model fell for it
    Column("left_round", Integer),  # in which it became easy
    Column("reason", Text),  # why it is a question
    Column("settled_by", Text),
)

questions = Table(
    "questions",
    metadata,
    Column("key", String(KEY_LENGTH), primary_key=True),
    _item_key(index=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("labels", JSON, nullable=False),  # all labels of the image, of which it is asked
    Column("box", JSON(none_as_null=True)),  # xyxy in pixels
    Column("region", JSON(none_as_null=True)),  # run lengths
    Column("given", Text),
    Column("proposed", Text),
    Column("score", Float, nullable=False),
    Column("round", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_round", Integer),
    Column("external_id", Text),
    Column("answer_id", Text),
    Column("answered_by", Text),
    Column("answered_at", UtcDateTime),
)

models = Table(
    "models",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("round", Integer, nullable=False),
    Column("folder", Text, nullable=False),
    Column("learner", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("data_hash", String(64), nullable=False),
    Column("description", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("step", String(32)),  # none: the round is finished
    Column("owner", Text),
    Column("lease_until", UtcDateTime),
    Column("seed", BigInteger, nullable=False),
    Column("config", JSON, nullable=False),
    Column("data_hash", String(64)),
    Column("labelled", Integer),  # examples trained on
    Column("model", Text),
    Column("model_hash", String(64)),
    Column("metric", Text),
    Column("value", Float),
    Column("metrics", JSON, nullable=False),
    Column("holdout_count", Integer),
    Column("holdout_hash", String(64)),
    Column("counts", JSON, nullable=False),
    Column("timings", JSON, nullable=False),
    Column("versions", JSON, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
)

round_items = Table(
    "round_items",
    metadata,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("role", String(16), primary_key=True),
    _item_key(primary_key=True),
    Column("annotation", Text),  # external id of the answer trained on
    Column("control", Boolean, nullable=False, server_default=false()),  # selected at random, to judge the choice by
    Column("error", Float),  # how wrong the round's model was on it
)

meta = Table("meta", metadata, Column("name", String(128), primary_key=True), Column("value", Text, nullable=False))
