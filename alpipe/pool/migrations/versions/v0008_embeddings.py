"""Embeddings of images, so that each is computed once for a model."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Makes the table of embeddings."""
    op.create_table(
        "embeddings",
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("embedder", sa.String(length=128), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_embeddings_item_key")),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_embeddings")),
    )
