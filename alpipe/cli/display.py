"""What the terminal shows: progress bars on standard error, tables on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from alpipe.protocols import ProgressCallback
from alpipe.types import Progress

out = Console(highlight=False, soft_wrap=True)
if not out.is_terminal:
    out.width = 200  # nothing is cut or folded for a file or a pipe
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """One line of result, as plain text: nothing in it is taken for markup."""
    out.print(escape(line))


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Bars on a terminal, one a stage at a time; nothing where standard error is no terminal."""
    columns = (
        TextColumn("{task.description}", style="cyan"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", style="dim"),
    )
    with Bars(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        shown: dict[str, TaskID] = {}

        turn = Lock()  # servers start in threads

        def show(now: Progress) -> None:
            with turn:
                if now.stage not in shown:
                    for stage in list(shown):
                        bars.remove_task(shown.pop(stage))
                    shown[now.stage] = bars.add_task(now.stage, detail="")
                bars.update(shown[now.stage], completed=now.done, total=now.total or None, detail=escape(now.detail))

        yield show


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keeps what C libraries (libtiff) print of odd files off the terminal: alpipe says itself what it refused.

    They write to the process's standard error, past Python, so that descriptor is turned away for the while and
    the bars get one of their own.
    """
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    shown, err.file = err.file, os.fdopen(os.dup(terminal), "w", encoding="utf-8")
    try:
        yield
    finally:
        err.file.close()
        err.file = shown
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
    """Rows of plain values; numbers to the right, floats to three digits, None as a dash."""
    if not rows:
        say("nothing to show")
        return
    grid = Table(title=title, title_justify="left", header_style="bold", show_edge=False, pad_edge=False)
    last = list(rows[0])[-1]
    for name in rows[0]:
        numeric = all(isinstance(row[name], (int, float, type(None))) for row in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=name != last)
    for row in rows:
        grid.add_row(*(escape(cell(value)) for value in row.values()))
    out.print(grid)


def cell(value: Any) -> str:
    """A value as people read it in a table."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def as_json(value: Any) -> None:
    """The value as JSON on standard output, for scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
