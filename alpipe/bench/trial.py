"""One arm with one seed: a small project of its own, through which the real loop runs with the oracle."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from alpipe import config as configuration
from alpipe.bench.plan import Arm
from alpipe.config import Config
from alpipe.effort import TimeModel, effort, regions
from alpipe.errors import ConfigError, DataError
from alpipe.loop import advance, current_round, perform
from alpipe.pool.store import Round
from alpipe.project import PRIVATE, Project
from alpipe.protocols import ProgressCallback
from alpipe.steps.outcome import Outcome
from alpipe.types import Annotation, AnswerState, Split, is_empty

Row: TypeAlias = dict[str, Any]

SHARED = ("models", "encoders", "autoencoders")
"""What is made once for all arms of a seed: linked into their projects, never written again."""


@dataclass(frozen=True, slots=True)
class Job:
    """A trial to run. ``kind`` is ``start`` (the first model, shared by arms), ``arm`` or ``full``; ``source`` is the
    folder that the project is begun from, ``images`` how many labels it starts with (0: those of the source; −1: all).
    """

    kind: str
    arm: Arm
    seed: int
    folder: Path
    source: Path
    images: int
    rounds: int
    test_hash: str
    needs: Path | None = None

    @property
    def title(self) -> str:
        what = "first model" if self.kind == "start" else self.arm.name
        return f"{what}, {self.arm.learner}, seed {self.seed}" if self.kind == "start" else f"{what}, seed {self.seed}"

    @property
    def trainings(self) -> list[int]:
        """The number of images of each model that is to be trained; −1: all."""
        if self.kind != "arm":
            return [self.images]
        return [self.images + self.arm.values["batch"] * (round_ + 1) for round_ in range(self.rounds)]


Trained: TypeAlias = Callable[[int, float], None]
"""Is told of each model evaluated: the images that it learnt from, and the seconds it took with what came before."""


def run(job: Job, progress: ProgressCallback, trained: Trained) -> None:
    """Brings the trial to its end, from wherever an earlier run left it; does nothing where it is done."""
    if not (job.folder / configuration.FILE).is_file():
        _begin(job, job.arm.config(job.seed))
    check_begun(job)
    with Project.open(job.folder) as project:
        clock = _Clock(trained)
        if job.kind == "arm":
            _run_arm(job, project, progress, clock)
        else:
            while (current := current_round(project)).number == 0 and current.step in _FIRST[job.kind]:
                clock(project, current, progress)
        _check_test(project, job)


def check_begun(job: Job) -> None:
    """Raises ConfigError where the trial was begun with other settings than it is asked for with now. What a first
    model depends on is in its folder's name.
    """
    file = job.folder / configuration.FILE
    if job.kind != "start" and file.is_file() and configuration.read(file) != job.arm.config(job.seed):
        raise ConfigError(
            f"{job.folder} was begun with other settings of arm {job.arm.name!r}: give the arm another name, or"
            " the bench another --out"
        )


_FIRST = {"start": ("train", "evaluate", "mine"), "full": ("train", "evaluate")}


def is_done(job: Job) -> bool:
    """Whether the trial has come to its end."""
    if not (job.folder / configuration.FILE).is_file():
        return False
    with Project.open(job.folder) as project:
        rounds = project.store.rounds.list()
        if job.kind != "arm":
            return bool(rounds) and rounds[0].step not in _FIRST[job.kind]
        return len(rounds) > job.rounds and rounds[job.rounds].step not in _FIRST["start"]


def rows(job: Job) -> list[Row]:
    """A row a figure of each model evaluated so far, the task's own metric first."""
    if not (job.folder / configuration.FILE).is_file():
        return []
    found: list[Row] = []
    with Project.open(job.folder) as project:
        answers = project.store.annotations.latest(split=Split.POOL)
        objects: dict[str, int] = {}  # counting the regions of masks takes long, and rounds share most images
        for round_ in project.store.rounds.list()[: job.rounds + 1]:
            if round_.value is None or round_.metric is None:
                continue
            learnt = [answers[key] for key, _ in project.store.rounds.items(round_.number, "train")]
            for answer in learnt:
                if answer.labels is not None and answer.item_key not in objects:
                    objects[answer.item_key] = regions(answer.labels)
            row = {
                "arm": job.arm.name,
                "role": job.arm.role,
                "learner": job.arm.learner,
                "seed": job.seed,
                "round": round_.number,
                "images": len(learnt),
                "boxes": sum(objects.get(answer.item_key, 0) for answer in learnt),
                "seconds": round(sum(answer.lead_time or 0.0 for answer in learnt), 3),
                "train_s": round(round_.timings.get("train", 0.0), 2),
                "score_s": round(round_.timings.get("score", 0.0), 2),
                "test": round_.holdout_hash,
                "versions": ", ".join(f"{name} {number}" for name, number in sorted(round_.versions.items())),
            }
            figures = {round_.metric: round_.value} | dict(round_.metrics)
            found += [row | {"metric": name, "value": value} for name, value in figures.items()]
    return found


class _Clock:
    """Does steps, and tells of each model evaluated how long it took since the last one."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self._since = time.monotonic()

    def __call__(self, project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
        outcome = perform(project, round_, progress)
        if round_.step == "evaluate":
            now = time.monotonic()
            self._trained(round_.labelled or 0, now - self._since)
            self._since = now
        return outcome


def _run_arm(job: Job, project: Project, progress: ProgressCallback, clock: _Clock) -> None:
    pushed = sum(round_.counts.get("pushed", 0) > 0 for round_ in project.store.rounds.list())
    result = advance(project, rounds=max(0, job.rounds - pushed), progress=progress, run=clock)
    if result.waiting_for is not None:
        raise DataError(f"{job.title}: stopped early; waits for {result.waiting_for}")
    models = [round_.model for round_ in project.store.rounds.list() if round_.model is not None]
    for model in set(models[:-1]) - {models[-1]}:  # only the last is needed where more rounds are asked for later
        shutil.rmtree(project.models / model, ignore_errors=True)


def _check_test(project: Project, job: Job) -> None:
    for round_ in project.store.rounds.list():
        if round_.holdout_hash is not None and round_.holdout_hash != job.test_hash:
            raise DataError(f"{job.title}: round {round_.number} was judged on another test set; choose another --out")


def _begin(job: Job, config: Config) -> None:
    """The trial's project: a copy of the source's store, with the arm's settings. It appears whole or not at all."""
    for left in job.folder.parent.glob(f".{job.folder.name}.*"):  # by a run that was killed: one bench runs at a time
        shutil.rmtree(left, ignore_errors=True)
    temporary = job.folder.with_name(f".{job.folder.name}.{os.getpid()}")
    (temporary / PRIVATE).mkdir(mode=0o700, parents=True)
    _copy_store(job.source / PRIVATE / "pool.db", temporary / PRIVATE / "pool.db")
    for name in SHARED:
        for folder in {job.source, job.needs or job.source}:
            if (made := folder / PRIVATE / name).is_dir():
                shutil.copytree(made, temporary / PRIVATE / name, copy_function=_link, dirs_exist_ok=True)
    (temporary / configuration.FILE).write_text(configuration.text(config), encoding="utf-8")
    if job.images and job.kind != "arm":
        with Project.open(temporary) as project:
            _label(project, job)
    if job.folder.is_dir():
        shutil.rmtree(temporary)
    else:
        temporary.replace(job.folder)


def _label(project: Project, job: Job) -> None:
    """Answers the start set (or all) as the oracle would, with nothing proposed.

    Which images they are depends on the set and the seed alone.
    """
    keys = sorted(item.key for item in project.store.items.list(split=Split.POOL))
    if job.images >= 0:
        rng = np.random.default_rng([job.seed, 0x57A27])
        keys = [keys[at] for at in rng.permutation(len(keys))[: job.images]]
    seconds = TimeModel(**job.arm.values["annotator"]["seconds"])
    answers = []
    for key in keys:
        truth = project.store.truth.get(key)
        if truth is None:
            raise DataError(f"item {key} has no known labels; the bench's set is damaged: choose another --out")
        state = AnswerState.EMPTY if is_empty(truth) else AnswerState.LABELLED
        took = seconds.seconds(effort(truth, None))
        answers.append(Annotation(key, state, truth, "oracle", key, lead_time=took))
    project.store.annotations.upsert(answers)


def _copy_store(source: Path, target: Path) -> None:
    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as read, sqlite3.connect(target) as write:
        read.backup(write)
    read.close()
    write.close()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
