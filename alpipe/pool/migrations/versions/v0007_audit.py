"""Of each image of a batch: whether it is a control, and how wrong the model was on it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Two columns more; what was selected before was no control, and was not measured."""
    op.add_column("round_items", sa.Column("control", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("round_items", sa.Column("error", sa.Float(), nullable=True))
