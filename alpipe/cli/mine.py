"""``alpipe mine``: hard negatives on the pool, into the bank; or on any other labelled set, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alpipe.cli.negatives import check_files, show, write
from alpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alpipe.steps.mining_outside import Outside

EPILOG = """Examples: [bold]alpipe mine --model r003-1f2e3d4c[/] (the same model and labels give the same bank) ·
[bold]alpipe mine --data ~/BCCD --format voc --subset test --sheet mistakes.png[/]. See docs/mining.md."""


def mine(
    context: typer.Context,
    model: str | None = typer.Option(
        None, help="Name of a model, as `alpipe status` shows it; default: the round's, with --data the newest."
    ),
    round_: int | None = typer.Option(
        None, "--round", min=0, help="Round under which it is filed, in place of what it mined; default: the model's."
    ),
    data: Path | None = typer.Option(
        None, help="Instead of the pool: a labelled set, as for `alpipe import`. Nothing of it goes into the bank."
    ),
    format_name: str | None = typer.Option(None, "--format", help="With --data: its format."),
    subset: str | None = typer.Option(
        None, help="With --data: one split of the set. VOC ImageSets, COCO file, YOLO folder."
    ),
    colours: Path | None = typer.Option(None, help="With --data: JSON of {label: '#RRGGBB'} for colour-coded masks."),
    ignore_unknown: bool = typer.Option(
        False, "--ignore-unknown", help="With --data: leave out labels the project does not have."
    ),
    limit: int | None = typer.Option(None, min=0, help="With --data: at most so many in the table, 0 for all; 50."),
    json: bool = typer.Option(False, "--json", help="With --data: print JSON, for scripts."),
    sheet: Path | None = typer.Option(None, help="With --data: PNG file to draw them in, by class."),
    csv: Path | None = typer.Option(None, "--csv", help="With --data: CSV file to list all of them in."),
) -> None:
    """Mine hard negatives on the labelled images of the pool, or on another labelled set.

    Without options it is one step of `alpipe run`. With --data what the model takes for objects there is listed as
    `alpipe pool hard-negatives` lists the bank; images that are in the hold-out are left out.
    """
    with_data: dict[str, object] = {"--format": format_name, "--subset": subset, "--colours": colours}
    with_data |= {"--ignore-unknown": ignore_unknown, "--limit": limit, "--json": json, "--sheet": sheet, "--csv": csv}
    if data is None:
        if given := [option for option, value in with_data.items() if value not in (None, False)]:
            raise ConfigError(f"{', '.join(given)}: only with --data, which names a labelled set outside the pool")
        _mine_pool(context.obj, model, round_)
        return
    if format_name is None:
        raise ConfigError("--data needs --format too: coco, voc, yolo, masks, folders or labelstudio")
    if round_ is not None:
        raise ConfigError("--round and --data exclude each other: nothing is filed under a round")
    check_files(sheet, csv)
    options = {"model": model, "subset": subset, "colours": _palette(colours), "ignore_unknown": ignore_unknown}
    found, classes, refusals = _mined(context.obj, format_name, data, options)
    said = write(found.entries, found.items, classes, sheet, csv)
    _list(found, data, refusals, said, as_json=json, limit=50 if limit is None else limit)


def _mined(
    directory: Path, format_name: str, data: Path, options: Mapping[str, Any]
) -> tuple[Outside, tuple[str, ...], Path]:
    """What the set holds, the project's classes, and the file for what was refused."""
    from alpipe.cli.display import progress, quiet_decoders
    from alpipe.project import Project
    from alpipe.steps.mining_outside import mine_outside

    with Project.open(directory) as project, quiet_decoders(), progress() as show_:
        found = mine_outside(project, format_name, data, progress=show_, **options)
        return found, project.classes, project.folder / f"mine-{format_name}-refused.csv"


def _list(found: Outside, data: Path, refusals: Path, said: Sequence[str], *, as_json: bool, limit: int) -> None:
    from alpipe.cli import display
    from alpipe.cli.data import _show_refused
    from alpipe.steps import bank
    from alpipe.steps.importing import write_refusals
    from alpipe.steps.mining_outside import describe

    rows = bank.rows(found.entries, found.items)
    if as_json:
        if found.refused:
            write_refusals(refusals, found.refused)
        where = str(refusals) if found.refused else None
        display.as_json({**found.counts(), "refused_in": where, "negatives": rows})
        return
    show(rows, limit, [*said, describe(found, data)])
    _show_refused(refusals, found.refused, "parts refused")


def _palette(colours: Path | None) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    if colours is None:
        return ()
    from alpipe.formats.masks import read_colours

    return read_colours(colours)


def _mine_pool(directory: Path, model: str | None, round_: int | None) -> None:
    from alpipe.cli.display import progress, say
    from alpipe.loop import single
    from alpipe.project import Project
    from alpipe.steps.mining import mine_again

    with Project.open(directory) as project, progress() as show:
        if model is None and round_ is None:
            say(single(project, "mine", show))
        else:
            say(mine_again(project, round_, model, show))
