"""How Alembic runs the migrations: on the connection, and in the transaction, that the store hands over."""

from alembic import context

from alpipe.pool.schema import VERSION_TABLE
from alpipe.pool.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
