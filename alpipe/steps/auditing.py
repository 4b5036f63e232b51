"""How wrong models were on what was labelled after they chose it, beside images drawn at random; and when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alpipe.errors import AlpipeError
from alpipe.evaluation.audit import Audited, Comparison, Interval, compare, verdict
from alpipe.evaluation.image_error import watched
from alpipe.evaluation.stopping import Measured, reasons_to_stop
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import ProgressCallback
from alpipe.steps import models
from alpipe.steps.models import counted
from alpipe.steps.outcome import Done, Outcome
from alpipe.types import Example, ItemState, Split


def evaluate(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """The metric on the hold-out; and how wrong earlier models were on what was labelled since they chose it."""
    audited, trouble = audit(project, round_.number, progress)
    outcome = models.evaluate(project, round_, progress)
    if not isinstance(outcome, Done) or not (audited or trouble):
        return outcome
    said = [outcome.message, *([f"{audited} images of earlier batches audited"] if audited else []), *trouble]
    counts = {**outcome.facts.get("counts", {}), "audited": audited}
    return Done("; ".join(said), {**outcome.facts, "counts": counts})


def audit(project: Project, before: int, progress: ProgressCallback) -> tuple[int, list[str]]:
    """Has each earlier round's model predict the images of its batch that were labelled since, once; returns how many,
    and why others could not be. Only rounds with control images are audited, since nothing is compared without them.

    The labels are those of this moment: edits after it do not count. What is labelled later is audited later.
    """
    done, trouble = 0, []
    examples: dict[str, Example] | None = None
    for round_ in project.store.rounds.list():
        batch = project.store.rounds.chosen(round_.number)
        if round_.number >= before or round_.model is None or not any(one.control for one in batch):
            continue
        if examples is None:
            examples = {example.item.key: example for example in project.store.annotations.examples(Split.POOL)}
        new = {one.key: examples[one.key] for one in batch if one.error is None and one.key in examples}
        if not new:
            continue
        try:
            errors = _errors(project, round_, new, progress)
        except AlpipeError as error:  # an old model that is gone must not stop the loop
            trouble.append(f"{len(new)} images of round {round_.number} cannot be audited: {error}")
            continue
        project.store.rounds.record_errors(round_.number, "selected", errors)
        done += len(errors)
    return done, trouble


def audit_facts(project: Project) -> dict[str, Any]:
    """What choosing has brought, as plain values: a row a round with control images (``unaudited`` counts what is not
    labelled, or was skipped), and over the rounds in which the
    project's present strategy chose a comparison (None before anything can be compared) and what it says.
    """
    strategy = project.config.strategy.name
    rounds = project.store.rounds.list()
    audited = _audited(project, rounds)
    mine = [one for round_, one in audited if _strategy(round_) == strategy and one is not None]
    found = compare(mine) if mine else None
    return {
        "strategy": strategy,
        "rounds": [_row(project, round_, one) for round_, one in audited],
        "compared": None if found is None else _plain(found),
        "says": verdict(found, strategy) if audited else None,
    }


def advice(project: Project) -> str | None:
    """Why it may be time to stop, in one line; None where nothing speaks for it. See ``stopping.reasons_to_stop``."""
    rounds = project.store.rounds.list()
    states = project.store.items.counts(Split.POOL)
    labelled = states.get(ItemState.LABELLED, 0) + states.get(ItemState.EMPTY, 0)
    strategy = project.config.strategy.name
    audited = [one for round_, one in _audited(project, rounds) if _strategy(round_) == strategy and one is not None]
    reasons = reasons_to_stop(labelled, project.config.budget, _measured(project, rounds), audited)
    return f"consider stopping: {'; and '.join(reasons)}" if reasons else None


def _errors(
    project: Project, round_: Round, examples: dict[str, Example], progress: ProgressCallback
) -> dict[str, float]:
    errors: dict[str, float] = {}
    items = [example.item for example in examples.values()]
    predictions = project.model(str(round_.model)).predict(items)
    threshold = float(round_.config.get("suggest_above", project.config.suggest_above))
    for _ in watched(
        counted(predictions, len(items), "auditing", progress), examples, project.classes, threshold, errors
    ):
        pass
    return errors


def _audited(project: Project, rounds: Sequence[Round]) -> list[tuple[Round, Audited | None]]:
    """The rounds with control images; with what was measured where both sides have something."""
    found: list[tuple[Round, Audited | None]] = []
    for round_ in rounds:
        batch = project.store.rounds.chosen(round_.number)
        if not any(one.control for one in batch):
            continue
        chosen, control = (
            np.array([one.error for one in batch if one.error is not None and one.control is side], np.float64)
            for side in (False, True)
        )
        both = len(chosen) and len(control)
        found.append((round_, Audited(round_.number, chosen, control) if both else None))
    return found


def _measured(project: Project, rounds: Sequence[Round]) -> list[Measured]:
    """The models that were measured as the last one was: by the same metric on the same hold-out; each once."""
    known = [round_ for round_ in rounds if round_.value is not None and round_.metric is not None]
    by_model = {
        round_.model: round_
        for round_ in reversed(known)
        if (round_.metric, round_.holdout_hash) == (known[-1].metric, known[-1].holdout_hash)
    }
    return [
        Measured(
            round_.number,
            str(round_.metric),
            float(round_.value or 0.0),
            project.store.rounds.errors(round_.number, "holdout"),
        )
        for round_ in sorted(by_model.values(), key=lambda round_: round_.number)
    ]


def _strategy(round_: Round) -> str:
    """The name of the strategy that chose in a round."""
    return str((round_.config.get("strategy") or {}).get("name"))


def _row(project: Project, round_: Round, one: Audited | None) -> dict[str, Any]:
    batch = project.store.rounds.chosen(round_.number)
    return {
        "round": round_.number,
        "strategy": _strategy(round_),
        "chosen": 0 if one is None else len(one.chosen),
        "control": 0 if one is None else len(one.control),
        "unaudited": sum(chosen.error is None for chosen in batch),
        "chosen_error": None if one is None else round(float(one.chosen.mean()), 4),
        "control_error": None if one is None else round(float(one.control.mean()), 4),
    }


def _plain(found: Comparison) -> dict[str, Any]:
    def of(interval: Interval) -> dict[str, float | None]:
        values = {"value": interval.value, "low": interval.low, "high": interval.high}
        return {name: round(value, 4) if math.isfinite(value) else None for name, value in values.items()}

    return {
        "ratio": of(found.ratio),
        "chosen_error": of(found.chosen),
        "pool_error": of(found.control),
        "rounds": found.rounds,
        "chosen": found.chosen_images,
        "control": found.control_images,
    }
