"""Hard negatives become a bank: each has a name, a state, and the newest model's score."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Gives the negatives that are there their columns; those that were retired are stale."""
    with op.batch_alter_table("negatives") as table:
        table.add_column(sa.Column("key", sa.String(length=20), nullable=True))
        table.add_column(sa.Column("state", sa.String(length=16), nullable=True))
        table.add_column(sa.Column("last_score", sa.Float(), nullable=True))
        table.add_column(sa.Column("last_round", sa.Integer(), nullable=True))
        table.add_column(sa.Column("hard_round", sa.Integer(), nullable=True))
        table.add_column(sa.Column("left_round", sa.Integer(), nullable=True))
        table.add_column(sa.Column("reason", sa.Text(), nullable=True))
        table.add_column(sa.Column("settled_by", sa.Text(), nullable=True))
    old = sa.table(
        "negatives",
        *(
            sa.column(name)
            for name in ("id", "active", "score", "round", "key", "state", "last_score", "last_round", "hard_round")
        ),
    )
    op.execute(
        old.update().values(
            key=sa.literal("r1-") + sa.cast(old.c.id, sa.String(16)),
            state=sa.case((old.c.active.is_(sa.true()), "hard"), else_="stale"),
            last_score=old.c.score,
            last_round=old.c.round,
            hard_round=old.c.round,
        )
    )
    with op.batch_alter_table("negatives") as table:
        table.alter_column("key", existing_type=sa.String(length=20), nullable=False)
        table.alter_column("state", existing_type=sa.String(length=16), nullable=False)
        table.alter_column("last_score", existing_type=sa.Float(), nullable=False)
        table.alter_column("last_round", existing_type=sa.Integer(), nullable=False)
        table.alter_column("hard_round", existing_type=sa.Integer(), nullable=False)
        table.drop_column("active")
        table.create_unique_constraint(op.f("uq_negatives_key"), ["key"])
