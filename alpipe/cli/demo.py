"""``alpipe demo``: the whole loop on data that it makes by itself, with real servers."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alpipe.errors import ConfigError

if TYPE_CHECKING:
    from alpipe.annotators.studio.server import Server as Studio
    from alpipe.project import Project
    from alpipe.protocols import ProgressCallback
    from alpipe.types import Task
    from flows.server import Server as Prefect

MARK = "made-by-alpipe-demo"
KEPT = ("labelstudio", "prefect")
"""Servers of an earlier demo in the same folder: starting them again is quicker than anew."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def demo(
    directory: Path = typer.Argument(Path("alpipe-demo"), metavar="[DIR]", help="Folder of the demo project."),
    task: str = typer.Option("detect", help="classify, detect or segment."),
    annotator: str = typer.Option(
        "robot", help="robot answers in Label Studio; human leaves it to you; oracle: no server."
    ),
    rounds: int = typer.Option(4, min=1, help="Batches to have labelled."),
    images: int = typer.Option(400, min=20, max=100_000, help="Images to make."),
    batch: int = typer.Option(20, min=1, help="Images labelled a round."),
    seed: int = typer.Option(0, min=0, help="The same seed makes the same images and the same choices."),
    stop: bool = typer.Option(False, "--stop", help="Only stop the servers of an earlier demo in DIR."),
) -> None:
    """Watch the whole loop work: real digits on real photographs, Label Studio, Prefect, no data needed.

    Example: alpipe demo   (then: alpipe demo --stop)
    """
    from alpipe.cli.display import progress, say
    from alpipe.types import Task

    if stop:
        _stop(directory)
        return
    if task not in list(Task):
        raise ConfigError(f"unknown task {task!r}; the tasks are {', '.join(Task)}")
    if annotator not in ("robot", "human", "oracle"):
        raise ConfigError(f"unknown annotator {annotator!r} for the demo; robot, human or oracle")
    started = time.monotonic()
    home = _clear(directory)
    say(f"1. servers and {images} images with digits in {directory}")
    with progress() as show, ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        studio_start = pool.submit(_studio_up, home, show) if annotator != "oracle" else None
        prefect_start = pool.submit(_prefect_up, home) if annotator != "oracle" else None
        project = stack.enter_context(_make_project(directory, Task(task), annotator, images, batch, seed, show))
        studio = studio_start.result() if studio_start else None
        prefect = prefect_start.result() if prefect_start else None
        say(f"2. {rounds if annotator != 'human' else 1} rounds: train, evaluate, mine, score, select, push, collect")
        waiting = _run(project, prefect, rounds if annotator != "human" else 1, show)
        _summarise(project, studio, prefect, waiting, time.monotonic() - started)


def _run(project: Project, prefect: Prefect | None, rounds: int, show: ProgressCallback) -> str | None:
    """A flow run a round on the Prefect server, or the loop by itself where there is none; what it waits for."""
    from alpipe.cli.display import say
    from alpipe.loop import advance

    if prefect is None:
        return advance(project, rounds=rounds, progress=show, tell=say).waiting_for
    from flows.round import observed_round

    waiting = None
    for _ in range(rounds):
        waiting = observed_round(project.root, progress=show, tell=say)
        if waiting is not None:
            break
    return waiting


def _summarise(
    project: Project, studio: Studio | None, prefect: Prefect | None, waiting: str | None, seconds: float
) -> None:
    from alpipe.cli.advance import COLUMNS
    from alpipe.cli.display import say, table
    from alpipe.steps.reporting import write_report
    from alpipe.steps.summary import round_rows

    say("")
    table([{name: row[name] for name in COLUMNS} for row in round_rows(project)])
    say("")
    say(f"done in {seconds:.0f} s" + (f"; waits for {waiting}" if waiting else ""))
    say(f"report:       {write_report(project, project.root / 'report.html')}")
    if studio is not None:
        say(f"Label Studio: {project.store.meta.get('where')}")
        say(f"              log in as {studio.username} with password {studio.password}")
    if prefect is not None:
        say(f"Prefect runs: {prefect.url}/runs")
        say(f"both servers stay up to be looked at; stop them with: alpipe demo {project.root} --stop")
    say(f"next:         alpipe -C {project.root} run" + ("   (after answering some tasks)" if waiting else ""))


def _make_project(
    directory: Path, task: Task, annotator: str, images: int, batch: int, seed: int, show: ProgressCallback
) -> Project:
    from alpipe import config as configuration
    from alpipe.datasets import digits
    from alpipe.pool import ingest
    from alpipe.project import Project

    values: dict[str, Any] = {
        "name": f"alpipe demo {task}",
        "task": str(task),
        "labels": list(digits.CLASSES[task]),
        "seed": seed,
        "batch": batch,
        "learner": {"name": configuration.DEFAULT_LEARNER[task], "flip": "none"},  # a mirrored digit is another one
        "annotator": {"human": "labelstudio"}.get(annotator, annotator),
        "holdout": {"labels": 0},
    }
    project = Project.create(directory, configuration.parse(values, "demo"))
    (project.folder / MARK).touch()
    made = digits.make(directory / "images", task=task, count=images, seed=seed, progress=show)
    by_side = {side: [image for image in made if image.holdout is side] for side in (False, True)}
    for side, some in by_side.items():
        items = ingest.lookup(project.store, [image.path for image in some], holdout=side, progress=show)
        for image in some:
            _keep_labels(project, items[image.path], digits.labels_for(image, task), side)
    project.store.meta.set("holdout", "by hand")
    return project


def _keep_labels(project: Project, item: Any, labels: Any, holdout: bool) -> None:
    """The hold-out is labelled from the start; the pool's labels are kept aside for the robot."""
    from alpipe.steps.importing import annotation_of

    if holdout:
        project.store.annotations.upsert([annotation_of(item, labels, "import:demo")])
    else:
        project.store.truth.put(item.key, labels)


def _clear(directory: Path) -> Path:
    """Makes room for a new demo: an earlier one in the folder is replaced, but for its servers' homes."""
    from alpipe.config import FILE
    from alpipe.project import PRIVATE

    private = directory.absolute() / PRIVATE
    if directory.exists() and any(directory.iterdir()):
        if not (private / MARK).exists():
            raise ConfigError(f"{directory} holds something that is no demo of alpipe: choose a new or empty folder")
        for path in private.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(directory / "images", ignore_errors=True)
        (directory / FILE).unlink(missing_ok=True)
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    (private / MARK).touch()
    return private


def _studio_up(private: Path, show: ProgressCallback) -> Studio:
    from alpipe.annotators.studio import server

    return server.up(private / KEPT[0], progress=show)


def _prefect_up(private: Path) -> Prefect:
    from flows.server import settings, up

    server = up(private / KEPT[1])
    os.environ.update(settings(private / KEPT[1], int(server.url.rpartition(":")[2])))
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"  # the log is in Prefect's pages; here are bars
    return server


def _stop(directory: Path) -> None:
    from alpipe.annotators.studio import server
    from alpipe.cli.display import say
    from alpipe.project import PRIVATE
    from flows.server import down

    private = directory.absolute() / PRIVATE
    for what, stopped in (("Label Studio", server.down(private / KEPT[0])), ("Prefect", down(private / KEPT[1]))):
        say(f"{what}: {'stopped' if stopped else 'was not running'}")
