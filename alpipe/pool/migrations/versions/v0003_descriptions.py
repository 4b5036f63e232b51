"""What strategies keep beside a score, and perceptual hashes of images."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """A column more, and a table."""
    op.add_column("scores", sa.Column("features", sa.LargeBinary(), nullable=True))
    op.create_table(
        "fingerprints",
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("hash", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["item_key"], ["items.key"], name=op.f("fk_fingerprints_item_key")),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_fingerprints")),
    )
