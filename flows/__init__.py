"""Prefect flows: thin, over the steps of the library. What Prefect adds is retries, schedules and a history to see."""
