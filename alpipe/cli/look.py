"""Commands that look: status, report, doctor."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(status)
    app.command()(report)
    app.command()(doctor)


def status(context: typer.Context, json: bool = typer.Option(False, "--json", help="Print JSON, for scripts.")) -> None:
    """Say where the loop stands, who waits for whom, and the metric by round.

    Example: alpipe status --json
    """
    from alpipe.cli.advance import COLUMNS
    from alpipe.cli.display import as_json, say, table
    from alpipe.project import Project
    from alpipe.steps import summary

    with Project.open(context.obj) as project:
        now = summary.status(project)
    if json:
        as_json(now)
        return
    items = ", ".join(f"{count} {state}" for state, count in now["items"].items() if count and state != "total")
    say(f"{now['name']}: {now['task']} {', '.join(now['labels'])}")
    say(f"{now['items']['total']} images: {items or 'none yet'}")
    say(f"hold-out: {now['holdout']['labelled']} labelled of {now['holdout']['total']}")
    if now["rounds"]:
        table([{name: row[name] for name in COLUMNS} for row in now["rounds"]])
    if now["audit"]["says"]:
        say(now["audit"]["says"])
    say(f"waits for {now['waiting_for']}" if now["waiting_for"] else "`alpipe run` has work to do")
    if now["advice"]:
        say(now["advice"])


def report(
    context: typer.Context,
    output: Path | None = typer.Option(None, "-o", "--output", help="Default: report.html in the project."),
) -> None:
    """Write one HTML file: learning curve, ledger, galleries, costs.

    Example: alpipe report -o cells.html
    """
    from alpipe.cli.display import say
    from alpipe.project import Project
    from alpipe.steps.reporting import write_report

    with Project.open(context.obj) as project:
        say(f"report written to {write_report(project, output or project.root / 'report.html')}")


def doctor(context: typer.Context, json: bool = typer.Option(False, "--json", help="Print JSON, for scripts.")) -> None:
    """Check what is installed, reachable and configured; exit status 1 where something is broken.

    Example: alpipe -C cells doctor
    """
    from alpipe.cli.display import as_json, table

    rows = [*_packages(), *_machine(), *_project(context.obj)]
    (as_json if json else table)(rows)
    if any(row["state"] == "broken" for row in rows):
        raise typer.Exit(1)


def _row(what: str, state: str, detail: str) -> dict[str, Any]:
    return {"what": what, "state": state, "detail": detail}


def _packages() -> list[dict[str, Any]]:
    rows = [_row("python", "ok", sys.version.split()[0])]
    limits = {"fastapi": (0, 155), "sqlalchemy": (2, 1)}
    for name in ("alpipe", "torch", "prefect", "fastapi", "sqlalchemy", "label-studio-sdk"):
        try:
            found = version(name)
        except PackageNotFoundError:
            rows.append(_row(name, "broken", "not installed"))
            continue
        limit = limits.get(name)
        parts = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
        if limit is not None and parts >= limit:
            below = ".".join(map(str, limit))
            rows.append(_row(name, "broken", f"{found}: Prefect 3.8 does not work with it; install one below {below}"))
        else:
            rows.append(_row(name, "ok", found))
    return rows


def _machine() -> list[dict[str, Any]]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else f"none; {os.cpu_count()} cores"
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        _row("GPU", "ok", gpu),
        _row("disk", "ok" if free > 2 else "broken", f"{free:.0f} GiB free here"),
    ]


def _project(root: Path) -> list[dict[str, Any]]:
    from alpipe.annotators.studio.client import Studio
    from alpipe.annotators.studio.server import connect
    from alpipe.cli.servers import USERS, home_of
    from alpipe.config import FILE
    from alpipe.errors import AlpipeError
    from alpipe.project import Project, check_plugins

    if not (root / FILE).exists():
        return [_row("project", "–", f"no {FILE} in {root.resolve()}")]
    try:
        with Project.open(root) as project:
            check_plugins(project.config)
            counts = project.store.items.counts()
            rows = [_row("project", "ok", f"{project.config.name}: {sum(counts.values())} images")]
            if project.config.annotator.name in USERS:
                try:
                    connection = connect(home_of(root))
                    with Studio(connection) as studio:
                        studio.projects_titled(project.config.name)  # needs a server that answers and a good token
                    rows.append(_row("label studio", "ok", connection.url))
                except AlpipeError as error:
                    rows.append(_row("label studio", "broken", str(error)))
            return rows
    except AlpipeError as error:
        return [_row("project", "broken", str(error))]
