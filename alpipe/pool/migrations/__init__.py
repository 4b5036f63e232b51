"""The store's history, run by Alembic when a store is opened that is older than this alpipe."""
