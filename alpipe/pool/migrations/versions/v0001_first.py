"""The first tables of the store."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes them all."""
    op.create_table(
        "items",
        sa.Column("key", sa.String(length=20), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.Column("split", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("format", sa.String(length=32), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("orientation", sa.Integer(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_items")),
    )
    op.create_index(op.f("ix_items_group_name"), "items", ["group_name"], unique=False)
    op.create_index(op.f("ix_items_state_split"), "items", ["state", "split"], unique=False)
    op.create_table(
        "meta",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meta")),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("learner", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("data_hash", sa.String(length=64), nullable=False),
        sa.Column("description", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", sa.String(length=32), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("data_hash", sa.String(length=64), nullable=True),
        sa.Column("labelled", sa.Integer(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("model_hash", sa.String(length=64), nullable=True),
        sa.Column("metric", sa.Text(), nullable=True),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("holdout_count", sa.Integer(), nullable=True),
        sa.Column("holdout_hash", sa.String(length=64), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("timings", sa.JSON(), nullable=False),
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_rounds")),
    )
    op.create_table(
        "annotations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("lead_time", sa.Float(), nullable=True),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_annotations_item_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotations")),
        sa.UniqueConstraint("kind", "external_id", name=op.f("uq_annotations_kind_external_id")),
    )
    op.create_index(op.f("ix_annotations_item_key"), "annotations", ["item_key"], unique=False)
    op.create_table(
        "files",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_files_item_key")),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_files")),
    )
    op.create_index(op.f("ix_files_item_key"), "files", ["item_key"], unique=False)
    op.create_table(
        "negatives",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("x1", sa.Float(), nullable=False),
        sa.Column("y1", sa.Float(), nullable=False),
        sa.Column("x2", sa.Float(), nullable=False),
        sa.Column("y2", sa.Float(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("iou", sa.Float(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_negatives_item_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_negatives")),
    )
    op.create_index(op.f("ix_negatives_item_key"), "negatives", ["item_key"], unique=False)
    op.create_index(op.f("ix_negatives_round"), "negatives", ["round"], unique=False)
    op.create_table(
        "round_items",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("annotation", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_round_items_item_key")),
        sa.ForeignKeyConstraint(["round"], ["rounds.number"], name=op.f("fk_round_items_round")),
        sa.PrimaryKeyConstraint("round", "role", "item_key", name=op.f("pk_round_items")),
    )
    op.create_table(
        "scores",
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_scores_item_key")),
        sa.PrimaryKeyConstraint("model", "item_key", name=op.f("pk_scores")),
    )
    op.create_index(op.f("ix_scores_model_value"), "scores", ["model", "value"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("annotator", sa.String(length=64), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("pushed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_tasks_item_key")),
        sa.PrimaryKeyConstraint("item_key", "annotator", name=op.f("pk_tasks")),
    )
    op.create_table(
        "truth",
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_truth_item_key")),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_truth")),
    )
