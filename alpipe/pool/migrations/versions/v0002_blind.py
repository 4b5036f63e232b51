"""Whether an answer was given without seeing a pre-annotation, on purpose."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Answers given before did not know of it."""
    op.add_column("annotations", sa.Column("blind", sa.Boolean(), nullable=False, server_default=sa.false()))
