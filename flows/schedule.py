"""Scheduled rounds: serves the round flow on a cron schedule, one run at a time."""

from __future__ import annotations

from pathlib import Path

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule

from flows.round import round_flow


def serve(project_dir: Path, name: str, cron: str, rounds: int = 1) -> None:
    """Serves until stopped. A run that comes due while another is at work is cancelled, not queued."""
    round_flow.serve(
        name=name,
        cron=cron,
        parameters={"project_dir": str(project_dir), "rounds": rounds},
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        print_starting_message=False,
    )


def is_cron(text: str) -> bool:
    """Whether Prefect takes the text for a schedule."""
    try:
        CronSchedule(cron=text)
    except ValueError:
        return False
    return True
