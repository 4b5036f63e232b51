"""The story of a round: train → evaluate → mine → score → select → push → collect, and again.

The loop is a reconciler. It holds nothing in memory that matters: each call looks at the store, does what can be done
now, records it and ends, since people take days to answer. A step is claimed under a lease and finished by one
conditional update, so that two runs never do the same step, and a run that is killed is taken over.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from alpipe import __version__
from alpipe.errors import BusyError, DataError
from alpipe.pool.lease import keep_alive, owner_id
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps import acquire, auditing, exchange, mining, models
from alpipe.steps.outcome import Outcome, Waiting
from alpipe.steps.presence import set_aside_missing
from alpipe.types import Progress

STEPS: dict[str, Callable[[Project, Round, ProgressCallback], Outcome]] = {
    "train": models.train,
    "evaluate": auditing.evaluate,
    "mine": mining.mine,
    "score": acquire.score,
    "select": acquire.select,
    "push": exchange.push,
    "collect": exchange.collect,
}

LEASE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Advance:
    """What a run did, a line a step, and what the loop waits for (None: it did all that was asked)."""

    done: tuple[str, ...]
    waiting_for: str | None


def advance(
    project: Project,
    *,
    rounds: int = 1,
    progress: ProgressCallback = no_progress,
    tell: Callable[[str], None] = lambda _: None,
    run: Callable[..., Outcome] | None = None,
) -> Advance:
    """Advances the loop until somebody must act, or until ``rounds`` batches were pushed, answered and learnt from.

    A batch that was pushed earlier and is answered by now is learnt from first, and does not count.

    ``tell`` gets a line for each step that ended. ``run`` calls a step in another way than directly: the flows pass
    one that makes it a Prefect task.
    """
    perform_step = run or perform
    done: list[str] = []
    pushed = 0
    if not project.store.items.counts():
        raise DataError(f"the pool of {project.root} is empty: add images with `alpipe add FOLDER`")
    if gone := set_aside_missing(project):
        tell(f"{gone} images are gone and were set aside: `alpipe pool ls --state quarantined`")
    while True:
        current = current_round(project)
        if current.step == "score" and pushed >= rounds:
            return Advance(tuple(done), None)
        outcome = perform_step(project, current, progress)
        if isinstance(outcome, Waiting):
            if current.step == "select" and _late_answers(project, progress):
                continue
            return Advance(tuple(done), outcome.reason)
        if current.step == "push" and outcome.facts["counts"]["pushed"]:
            pushed += 1
        line = f"round {current.number} {current.step}: {outcome.message}"
        done.append(line)
        tell(line)


def _late_answers(project: Project, progress: ProgressCallback) -> int:
    """Where no image is left to send, earlier tasks may still have been answered or edited; how many were."""
    if project.store.meta.get("where") is None and not any(project.store.questions.counts().values()):
        return 0
    got = exchange.pull(project, project.annotator(), progress)
    return got.answers + got.withdrawn


def perform(project: Project, round_: Round, progress: ProgressCallback = no_progress) -> Outcome:
    """Does one step of a round under a lease. Raises BusyError where another run holds it."""
    rounds, owner, step = project.store.rounds, owner_id(), str(round_.step)
    if not rounds.claim(round_.number, step, owner, LEASE_SECONDS):
        raise BusyError(
            f"another run ({rounds.owner(round_.number)}) does step '{step}' of round {round_.number}:"
            " wait until it ends, or stop it; a run that died is taken over"
        )
    started = time.monotonic()
    try:
        with keep_alive(lambda: rounds.renew(round_.number, owner, LEASE_SECONDS), LEASE_SECONDS / 4) as lease:

            def watched(now: Progress) -> None:
                if lease.lost:
                    raise BusyError(f"step '{step}' of round {round_.number} was taken over by another run")
                progress(now)

            outcome = STEPS[step](project, round_, watched)
        if not isinstance(outcome, Waiting):
            seconds = time.monotonic() - started
            if not rounds.finish(round_.number, step, after(step), owner, seconds=seconds, **outcome.facts):
                raise BusyError(f"step '{step}' of round {round_.number} was taken over by another run")
    finally:
        rounds.release(round_.number, owner)
    return outcome


def single(project: Project, name: str, progress: ProgressCallback = no_progress, **options: Any) -> str:
    """Does one step by itself and says what came of it.

    ``train`` closes the open round with the answers there are; ``select`` only counts at its place in the round; the
    other steps may be repeated at any time, since each leaves the same result when nothing has changed. ``options`` are
    more ones of the annotator for a pull.
    Raises BusyError where the step has to wait for its turn.
    """
    if not project.store.items.counts():
        raise DataError(f"the pool of {project.root} is empty: add images with `alpipe add FOLDER`")
    if name == "pull":
        got = exchange.pull(project, project.annotator(**options), progress)
        gone = f", {got.gone} tasks deleted" if got.gone else ""
        return f"{got.answers} answers that are new or changed, {got.withdrawn} withdrawn, {got.refused} refused{gone}"
    current = current_round(project)
    if name == "train" and current.step == "collect":
        exchange.pull(project, project.annotator(), progress)
        _close_early(project, current)
        current = current_round(project)
    if current.step == name:
        outcome = perform(project, current, progress)
        return f"waits for {outcome.reason}" if isinstance(outcome, Waiting) else outcome.message
    if name in ("evaluate", "mine", "score", "push") and list(STEPS).index(name) < list(STEPS).index(str(current.step)):
        outcome = STEPS[name](project, current, progress)
        return f"waits for {outcome.reason}" if isinstance(outcome, Waiting) else outcome.message
    raise BusyError(
        f"round {current.number} stands at step '{current.step}', not at '{name}': `alpipe run` goes on from there"
    )


def _close_early(project: Project, round_: Round) -> None:
    rounds, owner = project.store.rounds, owner_id()
    claimed = rounds.claim(round_.number, "collect", owner, LEASE_SECONDS)
    counts = exchange.answer_counts(project, round_)
    if not claimed or not rounds.finish(round_.number, "collect", None, owner, seconds=0.0, counts=counts):
        raise BusyError(f"another run ({rounds.owner(round_.number)}) collects the answers of round {round_.number}")


def after(step: str) -> str | None:
    """The step that follows; None after the last of a round."""
    names = list(STEPS)
    return names[names.index(step) + 1] if step != names[-1] else None


def current_round(project: Project) -> Round:
    """The open round; a new one is opened where the last is closed."""
    rounds = project.store.rounds
    last = rounds.current()
    if last is not None and last.step is not None:
        return last
    rounds.open(
        0 if last is None else last.number + 1,
        next(iter(STEPS)),
        seed=project.config.seed,
        config=project.config.model_dump(mode="json", exclude={"store"}),
        versions={name: version(name) for name in ("torch", "numpy")}
        | {"alpipe": __version__, "python": platform.python_version()},
    )
    opened = rounds.current()
    if opened is None or opened.step is None:
        raise BusyError("another run closed the round that this one had just opened: run again")
    return opened
