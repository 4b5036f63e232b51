"""The command line: ``alpipe COMMAND``. Its modules import the library inside the commands, so that help is quick."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from alpipe import __version__
from alpipe.cli import advance, bench, data, demo, look, plugins, pool, questions, servers
from alpipe.errors import AlpipeError

EPILOG = """Examples: [bold]alpipe demo[/] shows the whole loop on built-in data ·
[bold]alpipe init cells --task detect --labels RBC,WBC[/] begins a project ·
[bold]alpipe -C cells run[/] advances it."""

STOPPED = "stopped; nothing is lost: the same command goes on from here"

app = typer.Typer(
    help="Active learning for images: train, find the hardest images, have them labelled, repeat.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=True,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"alpipe {__version__}")
        raise typer.Exit


@app.callback()
def choose_project(
    context: typer.Context,
    directory: Path = typer.Option(Path(), "-C", metavar="DIR", help="The project's folder; may stand anywhere."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Active learning for images: train, find the hardest images, have them labelled, repeat."""
    del version
    context.obj = directory


demo.register(app)
data.register(app)
advance.register(app)
app.command()(questions.check_labels)
look.register(app)
bench.register(app)
app.add_typer(plugins.app, name="plugins")
app.add_typer(pool.app, name="pool")
app.add_typer(servers.studio, name="labelstudio")


def main() -> None:
    """The console script: a stated failure is one line on standard error and exit status 1."""
    sys.argv[1:] = _project_first(sys.argv[1:])
    try:
        app()
    except AlpipeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail(STOPPED, status=130)
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}; nothing is lost, try again")
    except SystemExit as end:
        if end.code == 130:  # typer turned Ctrl-C into an exit
            _fail(STOPPED, status=130)
        raise


def _project_first(arguments: list[str]) -> list[str]:
    """``-C DIR`` before the command, wherever it was written."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "-C" in options[:-1]:
        at = options.index("-C")
        return ["-C", arguments[at + 1], *arguments[:at], *arguments[at + 2 :]]
    return arguments


def _fail(line: str, status: int = 1) -> None:
    print(f"alpipe: {line}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
