"""The round as a Prefect flow: each step of the loop is a task run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from alpipe.errors import AlpipeError, AnnotatorError
from alpipe.loop import advance, perform
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps.outcome import Outcome
from alpipe.steps.summary import round_rows

RETRIES = {"push": 3, "collect": 3}
"""Steps that talk to a server may find it busy; all steps may be repeated safely."""


def _as_task(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Runs one step of the loop as a Prefect task. Nothing but the step's name and round is handed to Prefect."""

    def step(round_number: int) -> Outcome:
        del round_number  # shown in Prefect's pages
        return perform(project, round_, progress)

    def worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
        failure = state.result(raise_on_failure=False)
        return isinstance(failure, AnnotatorError)

    run = task(
        name=str(round_.step),
        task_run_name=f"{round_.step} of round {round_.number}",
        retries=RETRIES.get(str(round_.step), 0),
        retry_delay_seconds=[2, 10, 30],
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(step)
    outcome: Outcome = run(round_.number)
    return outcome


@flow(name="alpipe-round", flow_run_name="{project_dir}", persist_result=False, validate_parameters=True)
def round_flow(project_dir: str, rounds: int = 1) -> str:
    """Advances the loop of the project in ``project_dir`` and says what it waits for, or that it did all."""
    return run_round(Path(project_dir), rounds)


def run_round(project_dir: Path, rounds: int = 1, progress: ProgressCallback = no_progress) -> str:
    """What the flow does; by itself, so that the demo can pass a progress display, which is no flow parameter."""
    logger = get_run_logger()
    try:
        with Project.open(project_dir) as project:
            result = advance(project, rounds=rounds, progress=progress, tell=logger.info, run=_as_task)
            _publish(project)
    except AlpipeError as error:
        logger.error("%s", error)
        raise
    last = f"waits for {result.waiting_for}" if result.waiting_for else "did all that was asked"
    logger.info("%s", last)
    return last


def _publish(project: Project) -> None:
    """The learning curve as a table in Prefect's pages, one version a run."""
    create_table_artifact(
        key=f"alpipe-{_slug(project.config.name)}",
        table=[{name: str(value) for name, value in row.items()} for row in round_rows(project)],
        description=f"{project.config.name}: the rounds so far",
    )


def _slug(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
