"""``alpipe bench``: does choosing save labels on this data?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alpipe.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from alpipe.project import Project
    from alpipe.protocols import ProgressCallback

EPILOG = """Examples: [bold]alpipe -C cells bench --strategies entropy,margin --seeds 5[/] ·
[bold]alpipe -C cells bench --arms arms.yaml --jobs 2[/] ·
[bold]alpipe bench --data ~/BCCD --format voc --task detect --labels RBC,WBC,Platelets --test-subset test[/] ·
[bold]alpipe bench --summary cells/bench[/]. Stopped or killed, the same command goes on. See docs/bench.md."""

OWN = "as configured"
"""The arm of a bench that names none: what the project's alpipe.yaml says."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EPILOG)(bench)


def bench(
    context: typer.Context,
    strategies: str | None = typer.Option(None, help="An arm for each, commas between; default: the project's own."),
    arms: Path | None = typer.Option(None, help="YAML file of arms: any settings of alpipe.yaml that differ."),
    seeds: int | None = typer.Option(None, help="Repetitions, paired over the arms; 5, and 10 for a claim."),
    start: int | None = typer.Option(None, help="Images labelled at the start, the same for all arms of a seed; 12."),
    batch: int | None = typer.Option(None, help="Images labelled each round; 12."),
    rounds: int | None = typer.Option(None, help="Rounds after the start; 6."),
    learner: str | None = typer.Option(None, help="Another learner than the project's, for all arms."),
    random: bool | None = typer.Option(None, "--random/--no-random", help="Add the random arms; by default they are."),
    full: bool | None = typer.Option(None, "--full/--no-full", help="Train on all labels too; by default it is done."),
    seconds: str | None = typer.Option(
        None, metavar="IMAGE,DRAWN,CHECKED", help="Seconds of a person an image, object drawn and object checked."
    ),
    test_share: float | None = typer.Option(
        None, help="Share of the labelled images to test on, whole groups at a time. Default: the project's hold-out."
    ),
    near_duplicates: int | None = typer.Option(
        None,
        min=-1,
        max=16,
        help="Bits of 64 up to which near-duplicates differ; -1: do not look for them. Default: 2.",
    ),
    out: Path | None = typer.Option(None, help="Folder of the results. Default: bench in the project."),
    jobs: int | None = typer.Option(None, min=1, help="Trials at a time, in a process each. Default: one a core."),
    data: Path | None = typer.Option(None, help="Instead of a project: a labelled set, as for `alpipe import`."),
    format_name: str | None = typer.Option(None, "--format", help="With --data: its format."),
    task: str | None = typer.Option(None, help="With --data: classify, detect or segment."),
    labels: str | None = typer.Option(None, help="With --data: names of the classes, with commas between."),
    test_subset: str | None = typer.Option(None, help="With --data: the subset to test on (else say --test-share)."),
    pool_subset: str | None = typer.Option(
        None, help="With --data: the subset to choose from. Default: the whole set."
    ),
    group_regex: str | None = typer.Option(None, help="With --data: what it finds in a path is the image's group."),
    groups: Path | None = typer.Option(None, help="With --data: CSV with the columns path,group."),
    summary: Path | None = typer.Option(
        None, metavar="DIR", help="Only compute the summary of DIR anew, from its CSV."
    ),
    metric: str | None = typer.Option(None, help="With --summary: another figure of the CSV than the task's own."),
    json: bool = typer.Option(False, "--json", help="Print the summary as JSON, for scripts."),
) -> None:
    """Does choosing save labels on your data? Replays the loop on labelled images, arm by arm and seed by seed."""
    from alpipe.bench import bench as whole
    from alpipe.bench.sets import ALIKE
    from alpipe.cli.display import as_json, progress, say

    if summary is not None:
        found, folder = whole.write_summary(summary, metric), summary
    else:
        if metric is not None:
            raise ConfigError("--metric goes with --summary: a bench is summarised by the task's own figure")
        given = {
            "seeds": seeds,
            "start": start,
            "batch": batch,
            "rounds": rounds,
            "random": random,
            "full": full,
            "seconds": _seconds(seconds),
        }
        plan = _plan(arms, strategies, learner, given)
        import_values = {"format": format_name, "task": task, "labels": labels}
        origin = {
            "--data": None if data is None else str(data.absolute()),
            "--format": format_name,
            "--test-subset": test_subset,
            "--pool-subset": pool_subset,
            "--group-regex": group_regex,
            "--groups": None if groups is None else str(groups.absolute()),
            "--test-share": test_share,
            "--near-duplicates": ALIKE if near_duplicates is None else near_duplicates,
        }
        tell: Callable[[str], None] = (lambda _: None) if json else say
        with progress() as show:
            if data is not None:
                folder = out or Path("bench")
                if absent := [f"--{name}" for name, value in import_values.items() if value is None]:
                    raise ConfigError(f"--data needs {', '.join(absent)} too")
                if not data.exists():
                    raise DataError(f"{data}: there is no such file or folder")
                subsets = (test_subset, pool_subset)
                with whole.held(folder):
                    whole.check_origin(folder, origin)
                    source = _imported(folder, data, import_values, subsets, _grouping(group_regex, groups), tell, show)
            else:
                source = _project(context.obj, [*import_values.values(), test_subset, pool_subset, group_regex, groups])
                folder = out or source.root / "bench"
                if source.root not in folder.absolute().parents:  # else they are moved together
                    origin["-C"] = str(source.root)
            with source:
                found = _run(source, folder, plan, jobs, origin, tell, show)
    if json:
        as_json(found)
    else:
        _show(found, folder)


def _run(
    source: Project,
    folder: Path,
    plan: Any,
    jobs: int | None,
    origin: dict[str, Any],
    tell: Any,
    show: ProgressCallback,
) -> dict[str, Any]:
    from alpipe.bench import bench as whole
    from alpipe.bench.plan import arms_of
    from alpipe.bench.sets import near_duplicates
    from alpipe.bench.workers import cores

    test_share, bits = origin["--test-share"], origin["--near-duplicates"]
    if test_share is not None and not 0 < test_share < 1:
        raise ConfigError(f"--test-share {test_share} is no share: say a number between 0 and 1, as in 0.3")
    arms = arms_of(plan, source.config)
    alike = near_duplicates(source, bits, show) if bits >= 0 else None
    return whole.run(
        source,
        folder,
        plan,
        arms,
        jobs=jobs or cores(),
        test_share=test_share,
        alike=alike,
        origin=origin,
        tell=tell,
        progress=show,
    )


def _plan(arms: Path | None, strategies: str | None, learner: str | None, given: Mapping[str, Any]) -> Any:
    """The file's plan, with what the options say in its place."""
    from alpipe.bench import plan

    values: dict[str, Any] = {} if arms is None else plan.read(arms)
    values |= {name: value for name, value in given.items() if value is not None}
    if strategies is not None:
        named = {name.strip(): {"strategy": name.strip()} for name in strategies.split(",") if name.strip()}
        values["arms"] = {**(values.get("arms") or {}), **named}
    elif arms is None:
        values["arms"] = {OWN: {}}
    if learner is not None:
        values["settings"] = {**(values.get("settings") or {}), "learner": learner}
    return plan.parse(values, str(arms) if arms is not None else "bench")


def _seconds(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        image, drawn, checked = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"--seconds {text!r}: say three numbers, as in 1.5,7,1.6") from error
    return {"image": image, "drawn": drawn, "checked": checked}


def _project(directory: Path, only_with_data: list[Any]) -> Project:
    from alpipe.project import Project

    if any(value is not None for value in only_with_data):
        raise ConfigError("--format, --task, --labels, subsets and groups go with --data: name the labelled set")
    return Project.open(directory)


def _grouping(pattern: str | None, table: Path | None) -> Any:
    from alpipe.cli.data import _grouping as grouping

    return grouping(pattern, table)


def _imported(
    folder: Path,
    data: Path,
    values: Mapping[str, str | None],
    subsets: tuple[str | None, str | None],
    grouping: Any,
    tell: Callable[[str], None],
    show: ProgressCallback,
) -> Project:
    """A project made of a labelled set in the bench's folder; one that is there is used again."""
    import json

    from alpipe import config as configuration
    from alpipe.bench.sets import TEST_IMAGES
    from alpipe.cli.data import _show_refused
    from alpipe.project import Project
    from alpipe.steps.importing import import_labels
    from alpipe.types import Split

    root = folder / "imported"
    names = [label.strip() for label in str(values["labels"]).split(",")]
    parsed = {"name": "imported", "task": values["task"], "labels": names, "annotator": "oracle"}
    config = configuration.parse(parsed | {"holdout": {"share": 0}}, "bench")
    project = Project.open(root) if (root / configuration.FILE).is_file() else Project.create(root, config)
    if project.config != config:
        project.close()
        raise ConfigError(f"{folder} holds a bench of another set: choose another --out")
    test, pool = subsets
    wanted = [(test, True)] if test is not None else []
    for subset, holdout in [*wanted, (pool, False)]:
        report = import_labels(
            project,
            str(values["format"]),
            data,
            holdout=holdout,
            as_truth=not holdout,
            subset=subset,
            group_of=grouping,
            progress=show,
        )
        if holdout and project.store.meta.get(TEST_IMAGES) is None:
            keys = [item.key for item in project.store.items.list(split=Split.HOLDOUT)]
            project.store.meta.set(TEST_IMAGES, json.dumps(keys))
        if report.added:
            tell(f"{report.added} images from {data}" + (f", subset {subset}" if subset else ""))
        refusals = project.folder / f"import-{'test' if holdout else 'pool'}-refused.csv"
        _show_refused(refusals, report.refused, "parts refused", tell)
    return project


def _show(found: Mapping[str, Any], folder: Path) -> None:
    from alpipe.bench.bench import PAGE, RESULTS
    from alpipe.cli.display import say, table
    from alpipe.comparison.page import saving_text

    for group in found["groups"]:
        by_images = group["axes"]["images"]
        areas = {row["arm"]: row for row in by_images["aubc"]}
        saved = {(row["arm"], row["share"]): saving_text(row) for row in by_images["saved"]}
        shares = sorted({share for _, share in saved})
        full = "" if group["full"]["mean"] is None else f", all labels: {group['full']['mean']:.3f}"
        rows = [
            {
                "arm": arm["arm"],
                "seeds": arm["seeds"],
                "start": arm["first"],
                "end": arm["last"],
                "AUBC": areas[arm["arm"]]["mean"],
                "p (Holm)": areas[arm["arm"]]["p_holm"],
                **{f"saved at {share:.0%}": saved.get((arm["arm"], share)) for share in shares},
            }
            for arm in group["arms"]
        ]
        table(rows, title=f"{group['learner']}: {found['metric']}{full}; saved: images, against random choice")
    for note in found["notes"]:
        say(f"note: {note}")
    say(f"figures: {folder / RESULTS}; how to read them, on all axes: {folder / PAGE}")
