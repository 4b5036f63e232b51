"""Mining on a labelled set outside the pool: to see what a model takes for objects there. Nothing is kept."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpipe import config as configuration
from alpipe.config import Config
from alpipe.errors import DataError
from alpipe.pool.bank import key_of
from alpipe.project import Project, mining_options
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps.importing import ImportReport, import_labels
from alpipe.steps.mining import find
from alpipe.types import BankEntry, Example, Item, NegativeState, Refusal, Split


@dataclass(frozen=True, slots=True)
class Outside:
    """What a model takes for objects in a set, the surest first: those that may be objects nobody marked in the state
    ``question``, the others ``hard``. ``items`` are the ``images`` looked at, by key. Left out were images that the
    project holds out, and images without labels; ``refused`` are parts that cannot be read or do not fit the project.
    """

    model: str
    entries: list[BankEntry]
    items: dict[str, Item]
    holdout: int
    unlabelled: int
    refused: tuple[Refusal, ...]

    def counts(self) -> dict[str, Any]:
        """The model, and how many of each."""
        questions = sum(entry.state is NegativeState.QUESTION for entry in self.entries)
        return {
            "model": self.model,
            "images": len(self.items),
            "hard": len(self.entries) - questions,
            "questions": questions,
            "holdout": self.holdout,
            "unlabelled": self.unlabelled,
            "refused": len(self.refused),
        }


def mine_outside(
    project: Project,
    format_name: str,
    path: Path,
    *,
    model: str | None = None,
    subset: str | None = None,
    colours: tuple[tuple[str, tuple[int, int, int]], ...] = (),
    ignore_unknown: bool = False,
    progress: ProgressCallback = no_progress,
) -> Outside:
    """Mines with a model of the project (None: the newest) and the project's options on the labelled images of a set,
    which is read as an import reads it. Neither the pool nor the bank is changed. Images of the hold-out, known by
    their content, are left out.

    Raises DataError for a model that is not there, and where no labelled image is left.
    """
    from alpipe.mining.options import MiningOptions

    known = {row.name: row for row in project.store.models.list()}
    newest = project.store.models.latest()
    if newest is None:
        raise DataError("no model in this project yet: label some images and let `alpipe run` train one")
    if model is not None and model not in known:
        raise DataError(f"no model {model!r} in this project; there are: {', '.join(known)}")
    row = newest if model is None else known[model]
    options: MiningOptions = mining_options(project.config) or MiningOptions()
    net = project.model(row.name)
    with tempfile.TemporaryDirectory(prefix="alpipe-") as folder:
        report, examples = _read(
            project.config,
            Path(folder),
            format_name,
            path,
            subset=subset,
            colours=colours,
            ignore_unknown=ignore_unknown,
            progress=progress,
        )
    keys = [example.item.key for example in examples]
    held_out = {item.key for item in project.store.items.list(keys=keys, split=Split.HOLDOUT)}
    truths = {example.item.key: example for example in examples if example.item.key not in held_out}
    if not truths:
        raise DataError(
            f"{path}: no labelled image to mine on: {len(held_out)} are in the hold-out, {report.unlabelled} without"
            f" labels, {len(report.refused)} parts refused"
            + (f"; the first: {report.refused[0].source}: {report.refused[0].reason}" if report.refused else "")
        )
    mined = find(project, net, truths, options, progress)
    entries = [
        BankEntry(
            key_of(row.round, negative),
            negative,
            row.round,
            row.name,
            NegativeState.QUESTION if negative in mined.doubts else NegativeState.HARD,
            negative.score,
            row.round,
            mined.doubts.get(negative),
        )
        for negative in sorted([*mined.new, *mined.doubts], key=lambda one: (-one.score, one.item_key, one.box))
    ]
    items = {key: example.item for key, example in truths.items()}
    return Outside(row.name, entries, items, len(held_out), report.unlabelled, report.refused)


def describe(found: Outside, path: Path) -> str:
    """What the mining of the set at a path came to, in one line."""
    counts = found.counts()
    text = f"{counts['hard']} hard negatives of model {found.model} in {counts['images']} labelled images of {path}"
    if counts["questions"]:
        text += f", {counts['questions']} more may be objects that nobody marked"
    left_out = [
        f"{counts[name]} {what}"
        for name, what in (("holdout", "images of the hold-out"), ("unlabelled", "images without labels"))
        if counts[name]
    ]
    left = f"; left out: {', '.join(left_out)}" if left_out else ""
    return f"{text}{left}; nothing was put into the bank, which holds regions of the pool alone"


def _read(
    config: Config, folder: Path, format_name: str, path: Path, progress: ProgressCallback, **options: Any
) -> tuple[ImportReport, list[Example]]:
    """The set, imported into a project of its own in an empty folder, which may go afterwards: the images are read from
    where they lie.
    """
    values = {"name": "outside", "task": str(config.task), "labels": list(config.labels), "annotator": "oracle"}
    own = configuration.parse(values | {"holdout": {"share": 0}}, "mine")
    with Project.create(folder / "set", own) as project:
        report = import_labels(project, format_name, path, progress=progress, **options)
        return report, project.store.annotations.examples(Split.POOL)
