"""The round as a Prefect flow: each step of the loop is a task run of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from alpipe.errors import AlpipeError, AnnotatorError
from alpipe.loop import Advance, advance, perform
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps.outcome import Outcome
from alpipe.steps.summary import round_rows

RETRIES = {"push": 3, "collect": 3}
"""Steps that talk to a server may find it busy; every step may be repeated safely."""

FLOW = "alpipe-round"


@flow(name=FLOW, persist_result=False)
def round_flow(project_dir: str, rounds: int = 1) -> str:
    """Advances the loop of the project in ``project_dir``; says what it waits for, or that it did all."""
    result = _advance(Path(project_dir), rounds, no_progress, lambda _: None)
    return f"waits for {result.waiting_for}" if result.waiting_for else "did all that was asked"


def observed_round(
    project_dir: Path, *, rounds: int = 1, progress: ProgressCallback, tell: Callable[[str], None]
) -> str | None:
    """The same flow run, watched from the process that starts it. What it waits for, or None.

    The callbacks stay out of the flow's parameters, which Prefect stores and shows.
    """
    waiting: list[str | None] = []

    @flow(name=FLOW, persist_result=False)
    def watched(project_dir: str, rounds: int) -> str:
        result = _advance(Path(project_dir), rounds, progress, tell)
        waiting.append(result.waiting_for)
        return f"waits for {result.waiting_for}" if result.waiting_for else "did all that was asked"

    watched(str(project_dir), rounds)
    return waiting[-1]


def _advance(project_dir: Path, rounds: int, progress: ProgressCallback, tell: Callable[[str], None]) -> Advance:
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info("%s", line)
        tell(line)

    try:
        with Project.open(project_dir) as project:
            result = advance(project, rounds=rounds, progress=progress, tell=say, run=_as_task)
            _publish(project)
    except AlpipeError as error:
        logger.error("%s", error)
        raise
    logger.info("waits for %s", result.waiting_for or "nothing")
    return result


def _as_task(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Runs one step of the loop as a Prefect task. Nothing but the round's number is handed to Prefect."""
    step = str(round_.step)

    def do(round_number: int) -> Outcome:
        del round_number  # shown in Prefect's pages
        return perform(project, round_, progress)

    run: Task[[int], Outcome] = task(
        name=step,
        task_run_name=f"{step} of round {round_.number}",
        retries=RETRIES.get(step, 0),
        retry_delay_seconds=[2, 10, 30],
        retry_condition_fn=_is_the_servers_fault,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(do)
    return run(round_.number)


async def _is_the_servers_fault(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    failure = await state.aresult(raise_on_failure=False)
    return isinstance(failure, AnnotatorError)


def _publish(project: Project) -> None:
    """The learning curve as a table in Prefect's pages, one version a run."""
    create_table_artifact(
        key=f"alpipe-{_slug(project.config.name)}",
        table=[{name: str(value) for name, value in row.items()} for row in round_rows(project)],
        description=f"{project.config.name}: the rounds so far",
    )


def _slug(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
