"""What people did with a pre-annotation is kept with their answers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """A column more; of answers that are there already it is not known."""
    op.add_column("annotations", sa.Column("edits", sa.JSON(), nullable=True))
