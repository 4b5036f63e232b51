"""Commands that advance the loop: run, its single steps, serve."""

from __future__ import annotations

from pathlib import Path

import typer

from alpipe.cli.mine import EPILOG as MINE_EPILOG
from alpipe.cli.mine import mine

STEP_HELP = {
    "train": "Train on everything labelled so far, without waiting for open answers.",
    "evaluate": "Evaluate the latest model on the hold-out.",
    "score": "Score the unlabelled pool with the latest model.",
    "select": "Choose the next batch.",
    "push": "Send the chosen images to the annotators.",
}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(run)
    app.command()(pull)
    for name, text in STEP_HELP.items():
        app.command(name, help=f"{text} (One step of `alpipe run`.)")(_step_command(name))
    app.command(epilog=MINE_EPILOG)(mine)
    app.command()(serve)


def run(
    context: typer.Context,
    rounds: int = typer.Option(1, min=1, help="Batches to send; with a stand-in annotator they are answered at once."),
) -> None:
    """Advance the loop as far as it goes now; say what was done and what it waits for.

    Example: alpipe run   (again after people have answered: it goes on from there)
    """
    from alpipe.cli.display import progress, say, table
    from alpipe.loop import advance
    from alpipe.project import Project, check_plugins
    from alpipe.steps.auditing import advice
    from alpipe.steps.summary import round_rows

    with Project.open(context.obj) as project:
        check_plugins(project.config)
        with progress() as show:
            result = advance(project, rounds=rounds, progress=show, tell=say)
        if result.done:
            table([{name: row[name] for name in COLUMNS} for row in round_rows(project)])
        else:
            say("nothing new to do")
        if result.waiting_for:
            say(f"waits for {result.waiting_for}")
        else:
            say("all done that was asked; `alpipe run` sends the next batch")
        if advised := advice(project):
            say(advised)


COLUMNS = ("round", "labelled", "metric", "value", "pushed", "answered", "mined", "seconds")


def _step_command(name: str):  # type: ignore[no-untyped-def]  # typer reads the inner signature
    def command(context: typer.Context) -> None:
        from alpipe.cli.display import progress, say
        from alpipe.loop import single
        from alpipe.project import Project

        with Project.open(context.obj) as project, progress() as show:
            say(single(project, name, show))

    return command


def pull(
    context: typer.Context,
    accept_deletions: bool = typer.Option(
        False, "--accept-deletions", help="Go on where most of the tasks in Label Studio were deleted, on purpose."
    ),
) -> None:
    """Bring in what people answered since the last pull. (One step of `alpipe run`.)

    Example: alpipe pull --accept-deletions   (answers of tasks that were deleted stop counting)
    """
    from alpipe.cli.display import progress, say
    from alpipe.loop import single
    from alpipe.project import Project

    with Project.open(context.obj) as project, progress() as show:
        say(single(project, "pull", show, **({"accept_deletions": True} if accept_deletions else {})))


def serve(
    context: typer.Context,
    cron: str = typer.Option(..., help="When to run, in five fields: minute, hour, day, month, weekday."),
    rounds: int = typer.Option(1, min=1, help="Batches a run may send."),
) -> None:
    """Run the loop on a schedule by Prefect, until stopped with Ctrl-C.

    With PREFECT_API_URL set the runs appear on that server, else a private one is started on loopback.

    Example: alpipe serve --cron "0 * * * *"
    """
    import os

    from alpipe.cli.display import say
    from alpipe.errors import ConfigError
    from alpipe.project import Project, check_plugins
    from flows.server import down

    with Project.open(context.obj) as project:
        config, root, home = project.config, project.root, project.folder / "prefect"
        check_plugins(config)
    fault = ConfigError(f"--cron {cron!r} is not a schedule: give five fields, as in '0 * * * *' for every hour")
    if len(cron.split()) != 5:
        raise fault
    server = None
    if "PREFECT_API_URL" not in os.environ:
        server = _own_server(home)
        say(f"Prefect: {server}")
    try:
        from flows import schedule  # Prefect reads its settings when it is imported: the server's come first

        if not schedule.is_cron(cron):
            raise fault
        say(f"serving rounds of {config.name!r} at '{cron}'; Ctrl-C stops")
        schedule.serve(Path(root), config.name, cron, rounds)
    finally:
        if server is not None:
            down(home)


def _own_server(home: Path) -> str:
    """Starts a private server and points this process at it; its address."""
    import os

    from flows.server import settings, up

    server = up(home)
    os.environ.update(settings(home, int(server.url.rpartition(":")[2])))
    return server.url
