"""Commands that bring images and labels in and out: init, add, import, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from alpipe.errors import ConfigError

if TYPE_CHECKING:
    from alpipe.types import Refusal

GROUP_HELP = (
    "Regular expression over the path; what its first group (or the whole match) finds stays on one side of the split."
)
GROUPS_HELP = (
    "CSV with the columns path,group (paths from its own folder): images of one group stay on one side of the split."
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(init)
    app.command()(add)
    app.command("import")(import_)
    app.command()(export)


def init(
    directory: Path = typer.Argument(..., metavar="DIR", help="Folder of the new project; made where missing."),
    task: str = typer.Option(..., help="classify, detect or segment."),
    labels: str = typer.Option(..., help="Names of the classes, with commas between."),
    learner: str | None = typer.Option(None, help="A learner; see `alpipe plugins`. Default: one that fits the task."),
    strategy: str | None = typer.Option(None, help="How to choose images; see `alpipe plugins`."),
    annotator: str = typer.Option("labelstudio", help="labelstudio (people), robot or oracle (stand-ins)."),
    batch: int = typer.Option(20, help="Images sent to be labelled each round."),
    holdout_share: float = typer.Option(0.1, help="Share of the images kept aside to judge models; 0 for none."),
    seed: int = typer.Option(0, help="The same seed gives the same split and the same selection."),
    name: str | None = typer.Option(None, help="Title, also in Label Studio. Default: the folder's name."),
) -> None:
    """Begin a project in DIR: writes alpipe.yaml and an empty pool.

    Example: alpipe init cells --task detect --labels RBC,WBC,Platelets
    """
    from alpipe import config as configuration
    from alpipe.cli.display import say
    from alpipe.project import Project

    values = {
        "name": name or _title(directory),
        "task": task,
        "labels": [label.strip() for label in labels.split(",")],
        "seed": seed,
        "batch": batch,
        "holdout": {"share": holdout_share},
        "learner": learner,
        "annotator": annotator,
        "strategy": strategy,
    }
    config = configuration.parse({name: value for name, value in values.items() if value is not None}, "init")
    with Project.create(directory, config):
        pass
    where = f"-C {directory} " if directory.resolve() != Path.cwd() else ""
    say(f"project {config.name!r} in {directory}: settings in {directory / configuration.FILE}")
    say(f"next: alpipe {where}add FOLDER_OF_IMAGES, then alpipe {where}labelstudio up, then alpipe {where}run")


def add(
    context: typer.Context,
    paths: list[Path] = typer.Argument(..., metavar="PATH…", help="Image files, folders (with all below) or globs."),
    holdout: bool = typer.Option(False, "--holdout", help="Keep all of these aside to judge models on."),
    group_regex: str | None = typer.Option(None, help=GROUP_HELP),
    groups: Path | None = typer.Option(None, help=GROUPS_HELP),
) -> None:
    """Add images to the pool. Each is decoded whole; what cannot be read is recorded with the reason.

    Example: alpipe add ~/photos --group-regex 'patient(\\d+)'
    """
    from alpipe.cli.display import progress, quiet_decoders, say
    from alpipe.errors import DataError
    from alpipe.pool import ingest
    from alpipe.project import Project
    from alpipe.steps.importing import ingest_share
    from alpipe.types import Split

    grouping = _grouping(group_regex, groups)
    with Project.open(context.obj) as project, quiet_decoders(), progress() as show:
        report = ingest.add(
            project.store,
            paths,
            holdout=holdout,
            holdout_share=ingest_share(project),
            salt=str(project.config.seed),
            group_of=grouping,
            progress=show,
        )
        if holdout and project.store.items.counts(Split.HOLDOUT):
            project.store.meta.set("holdout", "by hand")
        say(
            f"{report.added} images added"
            + (f", {report.holdout_added} of them to the hold-out" if report.holdout_added else "")
            + f"; {report.already_known} known before, {report.duplicates} exact duplicates,"
            + f" {report.ignored} other files"
        )
        if report.stayed_in_pool:
            say(f"{report.stayed_in_pool} of them were in the pool already and stay there: they may be trained on")
        _show_refused(project.folder / "add-refused.csv", report.quarantined, "unreadable files")
        if grouping is not None:
            grouping.check()
        if report.quarantined and not report.added + report.already_known + report.duplicates:
            raise DataError(f"none of the files can be read as an image; the first: {report.quarantined[0].reason}")


def import_(
    context: typer.Context,
    format_name: str = typer.Argument(..., metavar="FORMAT", help="coco, voc, yolo, masks, folders or labelstudio."),
    path: Path = typer.Argument(..., help="The set: a folder, or the file that describes it."),
    holdout: bool = typer.Option(False, "--holdout", help="The images are for judging models only."),
    subset: str | None = typer.Option(None, help="One split of the set: VOC ImageSets, COCO file, YOLO folder."),
    as_truth: bool = typer.Option(
        False, "--as-truth", help="Images enter unlabelled; the robot and oracle annotators answer from the labels."
    ),
    colours: Path | None = typer.Option(None, help="JSON of {label: '#RRGGBB'} for colour-coded masks."),
    ignore_unknown: bool = typer.Option(False, "--ignore-unknown", help="Leave out labels the project does not have."),
    group_regex: str | None = typer.Option(None, help=GROUP_HELP),
    groups: Path | None = typer.Option(None, help=GROUPS_HELP),
) -> None:
    """Import labelled data. What has faults is refused with a reason each; the rest is taken.

    Example: alpipe import voc ~/BCCD --subset test --holdout
    """
    from alpipe.cli.display import progress, quiet_decoders, say
    from alpipe.errors import DataError
    from alpipe.project import Project
    from alpipe.steps.importing import import_labels

    palette: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    if colours is not None:
        from alpipe.formats.masks import read_colours

        palette = read_colours(colours)
    grouping = _grouping(group_regex, groups)
    with Project.open(context.obj) as project, quiet_decoders(), progress() as show:
        report = import_labels(
            project,
            format_name,
            path,
            holdout=holdout,
            as_truth=as_truth,
            subset=subset,
            colours=palette,
            ignore_unknown=ignore_unknown,
            group_of=grouping,
            progress=show,
        )
        if grouping is not None:
            grouping.check()
        kept_as = "kept aside as the truth" if as_truth else "labelled"
        say(
            f"{report.images} images, {report.added} of them new to the pool: {report.labelled} {kept_as},"
            f" {report.empty} reviewed and empty, {report.unlabelled} without labels"
            + (f"; {report.clipped} boxes cut at the image's edge" if report.clipped else "")
        )
        refusals = project.folder / f"import-{format_name}-refused.csv"
        _show_refused(refusals, report.refused, "parts refused")
        if report.refused and not report.labelled + report.empty:
            raise DataError(
                f"{path}: no label could be taken; first reason: {report.refused[0].reason}; all: {refusals}"
            )


def export(
    context: typer.Context,
    format_name: str = typer.Argument(..., metavar="FORMAT", help="coco, voc, yolo, masks, folders or labelstudio."),
    path: Path = typer.Argument(..., help="A new or empty folder."),
) -> None:
    """Export what people labelled so far, images included.

    Example: alpipe export coco ~/cells-labelled
    """
    from alpipe.cli.display import say
    from alpipe.project import Project
    from alpipe.steps.importing import export_labels

    with Project.open(context.obj) as project:
        written = export_labels(project, format_name, path)
        turned = f"; {written.turned} rotated boxes as the upright boxes around them" if written.turned else ""
        say(f"{written.images} labelled images written to {path} as {format_name}{turned}")


def _show_refused(
    path: Path, refused: tuple[Refusal, ...], what: str, tell: Callable[[str], None] | None = None
) -> None:
    from alpipe.cli.display import say
    from alpipe.steps.importing import write_refusals

    if not refused:
        return
    write_refusals(path, refused)
    tell = tell or say
    tell(f"{len(refused)} {what}, listed with their reasons in {path}; the first:")
    for refusal in refused[:3]:
        tell(f"  {refusal.source}: {refusal.reason}")


class _Grouping:
    """Gives an image its group, and notes how many got none."""

    def __init__(self, find: Callable[[Path], str | None], source: str) -> None:
        self._find, self._source = find, source
        self._with = self._without = 0

    def __call__(self, path: Path) -> str | None:
        group = self._find(path)
        self._with += group is not None
        self._without += group is None
        return group

    def check(self) -> None:
        """Says how many new images have no group, which may then stand on both sides of the split."""
        from alpipe.cli.display import say

        if self._without:
            found = f"{self._without} of {self._with + self._without} new images"
            say(f"note: {self._source} gives no group to {found}; they are split one by one")


def _grouping(pattern: str | None, table: Path | None) -> _Grouping | None:
    """What gives an image its group, from a regular expression or a CSV. Raises ConfigError for a bad one."""
    if pattern is not None and table is not None:
        raise ConfigError("--group-regex and --groups exclude each other: give one")
    if pattern is not None:
        from alpipe.pool.ingest import group_by_regex

        return _Grouping(group_by_regex(pattern), "--group-regex")
    if table is not None:
        groups = _groups_of_table(table)
        return _Grouping(lambda path: groups.get(path.resolve()), f"--groups {table}")
    return None


def _groups_of_table(table: Path) -> dict[Path, str]:
    """Resolved path → group; paths in the table are relative to its own folder."""
    import csv

    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--groups {table}: cannot be read: {error}") from error
    if rows and not {"path", "group"} <= set(rows[0]):
        raise ConfigError(f"--groups {table}: needs the columns path and group, has {', '.join(map(str, rows[0]))}")
    for number, row in enumerate(rows, 2):
        if not row["path"] or not row["group"]:
            raise ConfigError(f"--groups {table}: line {number} lacks a path or a group")
    return {(table.parent / row["path"]).resolve(): row["group"] for row in rows}


def _title(directory: Path) -> str:
    name = directory.resolve().name[:50]
    return name if len(name) >= 3 else f"alpipe {name}".strip()
