"""The bank of hard negatives as people see it: rows, galleries of the report, a contact sheet."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from alpipe import images
from alpipe.errors import AlpipeError, DataError
from alpipe.project import Project
from alpipe.report import draw
from alpipe.report.page import Gallery, Picture
from alpipe.report.sheet import MOST, Crop, Group, cropped, sheet
from alpipe.types import BankEntry, ByteArray, Item, NegativeState

FEWEST_OF_ROUND = 6
"""Crops of a round in the report at least; with more rounds than fit, some are left out."""

MOST_PICTURES = 24
"""Crops in the report."""

SHOWN = (NegativeState.HARD, NegativeState.CONFIRMED)

BEFORE, SIDES = ("key", "round", "class", "score", "now", "iou", "state"), ("x1", "y1", "x2", "y2")
AFTER = ("model", "reason", "settled_by", "item", "file")
"""Columns of the CSV: those before the box, its sides, and those after it."""


def rows(entries: Sequence[BankEntry], items: Mapping[str, Item]) -> list[dict[str, Any]]:
    """A row an entry, as plain values."""
    return [
        {
            "key": entry.key,
            "round": entry.round,
            "class": entry.negative.name,
            "score": round(entry.negative.score, 4),
            "now": round(entry.score, 4),
            "iou": round(entry.negative.iou, 4),
            "state": entry.state.value,
            "box": [round(side, 1) for side in entry.negative.box],
            "model": entry.model,
            "reason": entry.reason,
            "settled_by": entry.settled_by,
            "item": entry.negative.item_key,
            "file": items[entry.negative.item_key].uri if entry.negative.item_key in items else None,
        }
        for entry in entries
    ]


def items_of(project: Project, entries: Sequence[BankEntry]) -> dict[str, Item]:
    """The items of the entries by key."""
    keys = sorted({entry.negative.item_key for entry in entries})
    return {item.key: item for item in project.store.items.list(keys=keys)}


def write_sheet(entries: Sequence[BankEntry], items: Mapping[str, Item], classes: Sequence[str], path: Path) -> int:
    """Draws the entries by round and class, the surest of each first, as one PNG; returns how many. Images that cannot
    be read, or are not among the ``items`` by key, leave a grey square. Raises DataError where the file cannot be
    written.
    """
    shown = sorted(entries, key=_by_score)[:MOST]
    crops: dict[str, Crop] = {}
    by_item: dict[str, list[BankEntry]] = {}
    for entry in shown:
        by_item.setdefault(entry.negative.item_key, []).append(entry)
    for key, some in by_item.items():  # an image at a time: all of them would not fit into memory
        image = _read(items[key]) if key in items else None
        for entry in some:
            state = "" if entry.state in SHOWN else f" {entry.state.value}"
            caption, colour = f"{entry.negative.score:.2f}{state}", draw.colour_of(entry.negative.name, classes)
            crops[entry.key] = cropped(image, entry.negative.box, caption, colour)
    groups: dict[tuple[int, str], list[Crop]] = {}
    for entry in shown:
        groups.setdefault((entry.round, entry.negative.name), []).append(crops[entry.key])
    counts = Counter((entry.round, entry.negative.name) for entry in entries)
    made = [
        Group(f"round {round_} · {name} · {counts[round_, name]}", tuple(some))
        for (round_, name), some in sorted(groups.items())
    ]
    with _stated(path, "--sheet"):
        path.write_bytes(sheet(made))
    return sum(len(group.crops) for group in made)


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What ``rows`` gives as a table, the box as x1, y1, x2, y2. Replaces the file. Raises DataError where it cannot be
    written.
    """
    with _stated(path, "--csv"), path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow((*BEFORE, *SIDES, *AFTER))
        for row in rows:
            writer.writerow([*(row[name] for name in BEFORE), *row["box"], *(row[name] for name in AFTER)])


def negative_galleries(project: Project) -> tuple[Gallery, ...]:
    """For the report: what people are asked, then the surest mistakes of each round that still hold, the newest round
    first. Where there are too many rounds for the report's share of pictures, the newest and the first are shown.
    """
    store = project.store.negatives
    asked = sorted(store.entries(states=[NegativeState.QUESTION]), key=_by_score)
    by_round: dict[int, list[BankEntry]] = {}
    for entry in sorted(store.entries(states=SHOWN), key=_by_score):
        by_round.setdefault(entry.round, []).append(entry)
    rounds, most = sorted(by_round, reverse=True), MOST_PICTURES // FEWEST_OF_ROUND - bool(asked)
    if len(rounds) > most:
        rounds = [*rounds[: most - 1], rounds[-1]]
    wanted = [("Questions: objects that nobody marked?", asked)] if asked else []
    wanted += [(f"Round {number}", by_round[number]) for number in rounds]
    galleries: list[Gallery] = []
    for title, found in wanted:
        shown = found[: MOST_PICTURES // len(wanted)]
        items = items_of(project, shown)
        read: dict[str, ByteArray | AlpipeError] = {}
        pictures = tuple(
            _picture(project, items[entry.negative.item_key], entry, read)
            for entry in shown
            if entry.negative.item_key in items
        )
        galleries.append(Gallery(title, pictures, total=len(found)))
    return tuple(galleries)


def _picture(project: Project, item: Item, entry: BankEntry, read: dict[str, ByteArray | AlpipeError]) -> Picture:
    """``read`` keeps the images of a gallery: several crops may come from one."""
    if item.key not in read:
        try:
            read[item.key] = images.read(item.path)
        except AlpipeError as error:
            read[item.key] = error
    image, negative = read[item.key], entry.negative
    picture = Picture(
        title="",
        key=item.key[:8],
        chips=(draw.Chip(negative.name, draw.colour_of(negative.name, project.classes), f"{negative.score:.2f}"),),
        lines=(entry.reason or f"IoU {negative.iou:.2f} · {item.path.name}",),
        suggested=True,
    )
    if isinstance(image, AlpipeError):
        return replace(picture, problem=f"cannot be shown: {str(image).removeprefix(f'{item.uri}: ')}")
    return replace(picture, thumbnail=draw.crop(image, negative.box, negative.name, negative.score, project.classes))


@contextmanager
def _stated(path: Path, option: str) -> Iterator[None]:
    """A file that cannot be written is a stated failure."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path} cannot be written: {reason}; choose another file with {option}") from error


def _read(item: Item) -> ByteArray | None:
    try:
        return images.read(item.path)
    except AlpipeError:
        return None


def _by_score(entry: BankEntry) -> tuple[float, str]:
    return -entry.negative.score, entry.key
