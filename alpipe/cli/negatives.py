"""Hard negatives as a list: `alpipe pool hard-negatives`, and what `alpipe mine --data` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from alpipe.types import BankEntry, Item

LIMIT = typer.Option(50, min=0, help="At most so many in the table; 0 for all.")
SHEET = typer.Option(None, help="PNG file to draw them in, by round and class.")
CSV = typer.Option(None, "--csv", help="CSV file to list all of them in.")

SHOWN = ("key", "round", "class", "score", "now", "iou", "state", "file")


def hard_negatives(
    context: typer.Context,
    round_: int | None = typer.Option(None, "--round", min=0, help="Only those that this round found."),
    class_: str | None = typer.Option(None, "--class", help="Only those taken for this class."),
    state: str | None = typer.Option(
        None, help="Only this state: hard, easy, question, confirmed, object, stale. Default: all but easy and stale."
    ),
    limit: int = LIMIT,
    json: bool = typer.Option(False, "--json", help="Print JSON, for scripts."),
    sheet: Path | None = SHEET,
    csv: Path | None = CSV,
) -> None:
    """List the bank of hard negatives: what models took for objects on labelled images, the surest first.

    Example: alpipe pool hard-negatives --round 3 --sheet round3.png
    """
    from alpipe.cli.display import as_json
    from alpipe.errors import ConfigError
    from alpipe.project import Project
    from alpipe.steps import bank
    from alpipe.types import NegativeState

    if state is not None and state not in list(NegativeState):
        raise ConfigError(f"unknown state {state!r}; the states are {', '.join(NegativeState)}")
    gone = (NegativeState.EASY, NegativeState.STALE)
    states = [each for each in NegativeState if each not in gone] if state is None else [NegativeState(state)]
    with Project.open(context.obj) as project:
        classes = project.classes
        if class_ is not None and class_ not in classes:
            raise ConfigError(f"unknown class {class_!r}; the labels are {', '.join(classes)}")
        entries = project.store.negatives.entries(states=states, round_=round_, name=class_)
        items = bank.items_of(project, entries)
    entries.sort(key=lambda entry: (-entry.negative.score, entry.key))
    said = write(entries, items, classes, sheet, csv)
    rows = bank.rows(entries, items)
    if json:
        as_json(rows)
    else:
        show(rows, limit, said)


def check_files(sheet: Path | None, csv: Path | None) -> None:
    """Says before long work that a file to write its outcome to cannot be one. Raises ConfigError."""
    from alpipe.errors import ConfigError

    for option, path in (("--sheet", sheet), ("--csv", csv)):
        if path is not None and path.is_dir():
            raise ConfigError(f"{option} {path} is a folder: name a file")
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: there is no folder {path.parent}")


def write(
    entries: Sequence[BankEntry],
    items: Mapping[str, Item],
    classes: Sequence[str],
    sheet: Path | None,
    csv: Path | None,
) -> list[str]:
    """Writes the files that are asked for; what to say of them. Raises DataError for one that cannot be written."""
    from alpipe.steps import bank

    said = []
    if sheet is not None:
        drawn = bank.write_sheet(entries, items, classes, sheet)
        said.append(f"{drawn} of {len(entries)} regions drawn in {sheet}")
    if csv is not None:
        bank.write_csv(bank.rows(entries, items), csv)
        said.append(f"{len(entries)} regions listed in {csv}")
    return said


def show(rows: Sequence[Mapping[str, Any]], limit: int, said: Sequence[str]) -> None:
    """The first of the rows as a table, and the lines below it."""
    from alpipe.cli.display import say, table

    shown = rows[: limit or None]
    table([{name: row[name] for name in SHOWN} for row in shown])
    if len(shown) < len(rows):
        say(f"{len(shown)} of {len(rows)}; --limit 0 shows all")
    for line in said:
        say(line)
