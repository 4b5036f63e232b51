"""Commands for the local Label Studio server: up, status, down."""

from __future__ import annotations

from pathlib import Path

import typer

studio = typer.Typer(
    help="A local Label Studio server for this project, in an environment of its own.", no_args_is_help=True
)

USERS = ("labelstudio", "robot")
"""The annotators that work with the server."""


def home_of(directory: Path) -> Path:
    """The server's folder: the one that the option ``home`` of the annotator names, else the project's own.

    Raises ConfigError where the folder holds no project.
    """
    from alpipe.annotators.studio.server import home_in
    from alpipe.config import FILE, read
    from alpipe.project import PRIVATE

    annotator = read(directory / FILE).annotator
    stated = annotator.options.get("home") if annotator.name in USERS else None
    return home_in(directory.absolute() / PRIVATE, Path(str(stated)) if stated else None)


@studio.command()
def up(
    context: typer.Context,
    port: int | None = typer.Option(None, min=1024, max=65535, help="Default: the last one, or a free one."),
) -> None:
    """Start the server on loopback (installs Label Studio where it is missing); keeps its data between starts.

    Example: alpipe labelstudio up --port 8080
    """
    from alpipe.annotators.studio import server
    from alpipe.cli.display import progress, say

    with progress() as show:
        running = server.up(home_of(context.obj), port=port, progress=show)
    say(f"Label Studio: {running.url}")
    say(f"log in as {running.username} with password {running.password}")


@studio.command()
def status(context: typer.Context, json: bool = typer.Option(False, "--json", help="Print JSON, for scripts.")) -> None:
    """Say whether the server runs, and where; exit status 1 where it does not.

    Example: alpipe labelstudio status
    """
    from alpipe.annotators.studio import server
    from alpipe.cli.display import as_json, say

    running = server.status(home_of(context.obj))
    if json:
        as_json({"running": running is not None, "url": running.url if running else None})
    else:
        say(f"running at {running.url}" if running else "not running; `alpipe labelstudio up` starts it")
    if running is None:
        raise typer.Exit(1)


@studio.command()
def down(context: typer.Context) -> None:
    """Stop the server; its data stay.

    Example: alpipe labelstudio down
    """
    from alpipe.annotators.studio import server
    from alpipe.cli.display import say

    say("stopped" if server.down(home_of(context.obj)) else "it was not running")
