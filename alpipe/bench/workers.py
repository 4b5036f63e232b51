"""Trials in parallel processes, each with its share of the cores; and how long the rest will take."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpipe.bench import trial
from alpipe.bench.trial import Job
from alpipe.errors import AlpipeError
from alpipe.protocols import ProgressCallback
from alpipe.types import Progress

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Share(NamedTuple):
    """How many trials run at a time, and the threads of each."""

    workers: int
    threads: int


class Failure(NamedTuple):
    """A trial that could not be ended, and why."""

    title: str
    reason: str


@dataclass
class TimeLeft:
    """How long trainings took, by the images they learnt from, and so how long the rest will take."""

    pending: list[int]
    workers: int
    images: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, images: int, seconds: float) -> None:
        """Notes one that ended."""
        self.images.append(images)
        self.seconds.append(seconds)
        if images in self.pending:
            self.pending.remove(images)
        elif self.pending:
            self.pending.remove(min(self.pending, key=lambda other: abs(other - images)))

    def estimate(self) -> float | None:
        """Seconds left, by a straight line through what was measured (flat where it would fall); None before that."""
        if not self.seconds:
            return None
        slope, height = 0.0, float(np.mean(self.seconds))
        if len(set(self.images)) > 1:
            slope, height = map(float, np.polyfit(self.images, self.seconds, 1))
            if slope < 0:
                slope, height = 0.0, float(np.mean(self.seconds))
        left = sum(max(height + slope * images, min(self.seconds)) for images in self.pending)
        return left / max(1, min(self.workers, len(self.pending)))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(jobs: int) -> int:
    """Threads of each of so many processes: what OMP_NUM_THREADS says, else an equal share of the cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else max(1, cores() // jobs)


def run_all(
    jobs: Sequence[Job],
    share: Share,
    *,
    pool_size: int,
    tell: Callable[[str], None],
    progress: ProgressCallback,
) -> list[Failure]:
    """Runs the trials, those that others need first; with more than one worker each in a process of its own.

    A trial that fails does not stop the others; what needs it is not run. Ctrl-C, and any other end, stops all
    processes: the loop of each trial goes on later from where it was.
    """
    pending = [pool_size if images < 0 else images for job in jobs for images in job.trainings]
    board = _Board(len(jobs), TimeLeft(pending, share.workers), tell, progress)
    if share.workers == 1:
        with _threads(share.threads):
            return _run_here(jobs, board)
    with _processes(min(share.workers, len(jobs)), share.threads) as processes:
        return _run_there(jobs, processes, board)


@dataclass
class _Board:
    """What the user sees."""

    total: int
    left: TimeLeft
    tell: Callable[[str], None]
    show: ProgressCallback
    done: int = 0
    trained: int = 0

    def model(self, title: str, images: int, seconds: float) -> None:
        self.left.add(images, seconds)
        self.trained += 1
        self.note(title)

    def note(self, detail: str) -> None:
        whole = self.trained + len(self.left.pending)
        self.show(Progress("models", self.trained, whole, f"{_about(self.left.estimate())}{detail}"))

    def end(self, job: Job, failure: Failure | None) -> None:
        self.done += 1
        said = "done" if failure is None else f"FAILED: {failure.reason}"
        left = _about(self.left.estimate()) if self.done < self.total else ""
        self.tell(f"[{self.done}/{self.total}] {job.title}: {said}{'; ' + left.rstrip(', ') if left else ''}")


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {seconds:.0f} s left, "
    return f"about {seconds / 60:.0f} min left, " if seconds < 5400 else f"about {seconds / 3600:.1f} h left, "


def _run_here(jobs: Sequence[Job], board: _Board) -> list[Failure]:
    failures: dict[Path, Failure] = {}
    for job in jobs:
        if job.needs in failures:
            failure: Failure | None = _without_need(job, failures[job.needs])
        else:
            failure = _attempt(job, lambda _: None, partial(board.model, job.title))
        if failure is not None:
            failures[job.folder] = failure
        board.end(job, failure)
    return [*failures.values()]


def _attempt(job: Job, progress: ProgressCallback, trained: trial.Trained) -> Failure | None:
    try:
        trial.run(job, progress, trained)
    except AlpipeError as error:
        return Failure(job.title, str(error))
    except BrokenPipeError:  # the parent is gone
        raise
    except Exception as error:  # one trial's fault, whatever it is, does not end the others
        return Failure(job.title, f"{type(error).__name__}: {error}".splitlines()[0])
    return None


def _without_need(job: Job, cause: Failure) -> Failure:
    return Failure(job.title, f"needs {cause.title}, which failed")


def _run_there(jobs: Sequence[Job], processes: Mapping[Connection, BaseProcess], board: _Board) -> list[Failure]:
    waiting, ended, failures = [*jobs], set[Path](), dict[Path, Failure]()
    wanted = {job.folder for job in jobs}
    idle, busy = [*processes], dict[Connection, Job]()

    def finish(job: Job, failure: Failure | None) -> None:
        ended.add(job.folder)
        if failure is not None:
            failures[job.folder] = failure
        board.end(job, failure)

    while waiting or busy:
        for job in [job for job in waiting if job.needs in failures]:
            waiting.remove(job)
            finish(job, _without_need(job, failures[job.needs]))  # type: ignore[index]  # it is in there
        ready = [job for job in waiting if job.needs is None or job.needs in ended or job.needs not in wanted]
        while idle and ready:
            job = ready.pop(0)
            waiting.remove(job)
            busy[idle[-1]] = job
            idle.pop().send(job)
        for connection in wait([*busy]):
            assert isinstance(connection, Connection)  # noqa: S101  # for the type checker: only these were given
            job = busy[connection]
            try:
                message: tuple[str, Any] = connection.recv()
            except EOFError:
                processes[connection].join()
                code = processes[connection].exitcode
                del busy[connection]
                finish(job, Failure(job.title, f"its process died ({code}); short of memory? Try fewer --jobs"))
                if not busy and not idle:
                    for left in waiting:
                        finish(left, Failure(left.title, "not run, as no process is left"))
                    return [*failures.values()]
                continue
            match message:
                case ("model", (images, seconds)):
                    board.model(job.title, images, seconds)
                case ("end", failure):
                    del busy[connection]
                    idle.append(connection)
                    finish(job, failure)
    return [*failures.values()]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _processes(count: int, threads: int) -> Iterator[dict[Connection, BaseProcess]]:
    """So many workers, each at the other end of a connection; all are stopped at the end, however it comes."""
    context = multiprocessing.get_context("spawn")  # forked processes and threads of torch do not go together
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    started: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_serve, args=(theirs, threads), daemon=True)
            process.start()
            theirs.close()
            started[ours] = process
        yield started
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for process in started.values():
            process.terminate()
        for connection, process in started.items():
            process.join()
            connection.close()


def _serve(connection: Connection, threads: int) -> None:
    """A worker: does the jobs it is sent, until the other end is gone. Ctrl-C is its parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    parent = os.getppid()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job: Job = connection.recv()

            def alive(_: Progress) -> None:
                if os.getppid() != parent:  # it was killed: nobody waits for this any more
                    raise BrokenPipeError

            def trained(images: int, seconds: float) -> None:
                connection.send(("model", (images, seconds)))

            connection.send(("end", _attempt(job, alive, trained)))
