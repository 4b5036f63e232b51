"""The whole bench: the set, the trials, the table, the summary. One folder holds it, and goes on where it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from alpipe.bench import sets, trial, workers
from alpipe.bench.plan import Arm, Plan, start_folder
from alpipe.bench.sets import Alike, SetFacts
from alpipe.bench.trial import Job
from alpipe.comparison import draw, table
from alpipe.comparison.page import page
from alpipe.comparison.summary import summarise
from alpipe.errors import ConfigError, DataError, TrainingError
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps.folders import alone

RESULTS, SUMMARY, PAGE = "results.csv", "summary.json", "summary.html"
SETTLED, ORIGIN = "bench.json", "origin.json"


def run(
    source: Project,
    folder: Path,
    plan: Plan,
    arms: Sequence[Arm],
    *,
    jobs: int,
    test_share: float | None = None,
    alike: Alike | None = None,
    origin: Mapping[str, Any] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda _: None,
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Runs every arm with every seed, writes the table and the pictures, and returns the summary.

    What an earlier run of the folder did is kept: more seeds, rounds and arms may be asked for later, but not another
    start or batch, nor another ``origin``: what the set was made of, by the names of the options. Raises ConfigError
    for that, BusyError while another bench runs in the folder, DataError for a set too small, and TrainingError, after
    everything else was run and written, where trials failed.
    """
    with held(folder):
        return _run(source, folder, plan, arms, jobs, test_share, alike, origin, tell, progress)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be and held for one bench. Raises BusyError while another one has it, and ConfigError
    where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
    with alone(folder / "bench.lock", f"bench in {folder}"):
        yield


def _run(
    source: Project,
    folder: Path,
    plan: Plan,
    arms: Sequence[Arm],
    jobs: int,
    test_share: float | None,
    alike: Alike | None,
    origin: Mapping[str, Any],
    tell: Callable[[str], None],
    progress: ProgressCallback,
) -> dict[str, Any]:
    check_origin(folder, origin)
    facts = sets.make(source, folder / "set", arms[0].config(0), test_share=test_share, alike=alike)
    if not (folder / ORIGIN).is_file():
        _write(folder / ORIGIN, json.dumps(dict(origin)).encode())
    _check_room(plan, facts)
    threads = _settle(folder, plan, facts, workers.threads_each(jobs))
    tell(_of_set(facts))
    planned = plan_jobs(folder, plan, arms, facts)
    for job in planned:
        trial.check_begun(job)
    todo = [job for job in planned if not trial.is_done(job)]
    tell(f"{len(planned)} trials, {len(planned) - len(todo)} of them done before; {folder}")
    share = workers.Share(jobs, threads)
    known: dict[Path, list[trial.Row]] = {}

    def ended(line: str) -> None:
        _collect(folder, planned, threads, known)  # `--summary` shows what there is while it runs
        tell(line)

    try:
        failures = workers.run_all(todo, share, pool_size=facts.pool, tell=ended, progress=progress) if todo else []
    except KeyboardInterrupt:
        _collect(folder, planned, threads, known)
        raise
    if not _collect(folder, planned, threads, known):
        raise TrainingError(f"no trial came to a result; {failures[0].title}: {failures[0].reason}")
    try:
        summary = write_summary(folder)
    except DataError:
        if not failures:
            raise
    if failures:
        raise TrainingError(
            f"{len(failures)} of {len(planned)} trials failed, the others are in {folder / RESULTS};"
            f" {failures[0].title}: {failures[0].reason}; the same command tries again"
        )
    return summary


def write_summary(folder: Path, metric: str | None = None) -> dict[str, Any]:
    """The summary, its page and its pictures, from the table in the folder alone."""
    frame = table.read(folder / RESULTS)
    found = summarise(frame, metric)
    pictures = {axis: draw.picture(frame, found["metric"], axis) for axis in table.AXES}
    for axis, png in pictures.items():
        _write(folder / f"curves-{axis}.png", png)
    _write(folder / SUMMARY, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False).encode())
    _write(folder / PAGE, page(f"Label efficiency: {folder.resolve().name}", found, pictures).encode())
    return found


def plan_jobs(folder: Path, plan: Plan, arms: Sequence[Arm], facts: SetFacts) -> list[Job]:
    """Every trial, those first that others need; then seed by seed, so that a bench that is stopped has whole pairs."""
    jobs: dict[Path, Job] = {}
    source = folder / "set"
    for seed in range(plan.seeds):
        for arm in arms:
            if arm.role != "ceiling":
                place = folder / "start" / start_folder(arm) / f"seed-{seed}"
                job = Job("start", arm, seed, place, source, plan.start, 0, facts.test_hash)
                jobs.setdefault(place, job)
    for seed in range(plan.seeds):
        for arm in arms:
            first = folder / "start" / start_folder(arm) / f"seed-{seed}"
            place = folder / "arms" / arm.folder / f"seed-{seed}"
            job = Job("arm", arm, seed, place, first, plan.start, plan.rounds, facts.test_hash, first)
            if arm.role == "ceiling":
                needs = first if arm.values["pretrain"] else None
                job = replace(job, kind="full", source=source, images=-1, rounds=0, needs=needs)
            jobs[place] = job
    return [*jobs.values()]


def _collect(folder: Path, planned: Sequence[Job], threads: int, known: dict[Path, list[trial.Row]]) -> bool:
    """Writes the table of every model evaluated so far; False where there is none. ``known`` keeps the rows of trials
    that are done, so that each is read once.
    """
    rows = []
    for job in planned:
        if job.kind == "start":
            continue
        if job.folder not in known:
            done = trial.is_done(job)  # before its rows are read: it may end meanwhile
            some = trial.rows(job)
            if done:
                known[job.folder] = some
        else:
            some = known[job.folder]
        rows += some
    if rows:
        frame = pd.DataFrame(rows)
        frame["versions"] = frame["versions"] + f", threads {threads}"
        table.write(frame, folder / RESULTS)
    return bool(rows)


def _check_room(plan: Plan, facts: SetFacts) -> None:
    if plan.budget > facts.pool:
        most = math.floor((facts.pool - plan.start) / plan.batch)
        advice = f"at most {most} rounds fit" if most > 0 else "fewer images a batch, or a smaller test set"
        raise DataError(
            f"{plan.start} + {plan.rounds} × {plan.batch} = {plan.budget} images are to be labelled, but the pool has"
            f" {facts.pool}: {advice}"
        )


def check_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Raises ConfigError where the folder's set was made of something else than is asked for now."""
    path = folder / ORIGIN
    if path.is_file():
        _differs(folder, _read(path), origin)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: damaged ({error}); choose another --out") from error


def _differs(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{name} {before[name]} (now {value})" for name, value in now.items() if before.get(name, value) != value
    ]
    if changed:
        raise ConfigError(f"{folder} was begun with {', '.join(changed)}: say the same, or choose another --out")


def _settle(folder: Path, plan: Plan, facts: SetFacts, threads: int) -> int:
    """What cannot change from run to run of a folder; returns the threads of a trial, which the first run decides:
    sums are rounded otherwise with another number.
    """
    now = {"start": plan.start, "batch": plan.batch, "test_hash": facts.test_hash, "seconds": plan.seconds.model_dump()}
    path = folder / SETTLED
    if not path.is_file():
        _write(path, json.dumps(now | {"threads": threads}).encode())
        return threads
    before = _read(path)
    _differs(folder, before, now)
    if now.keys() - before.keys():  # begun before that was settled
        _write(path, json.dumps(now | before).encode())
    try:
        return int(before["threads"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged ({error}); choose another --out") from error


def _of_set(facts: SetFacts) -> str:
    left_out = [
        f"{count} {what}"
        for count, what in (
            (facts.unlabelled, "without labels"),
            (facts.unreadable, "unreadable"),
            (facts.beside_test, "of a group with test images, or nearly the same"),
        )
        if count
    ]
    said = f"test set {facts.test_hash}: {facts.test} images, frozen; {facts.pool} to choose from"
    said += f"; left out: {', '.join(left_out)}" if left_out else ""
    return (
        said if facts.alike_searched else f"{said}; near-duplicates were not searched for, groups alone are kept apart"
    )


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)
