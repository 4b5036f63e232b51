"""The steps that deal with people: push a batch to the annotator, pull what came back."""

from __future__ import annotations

import math
from typing import NamedTuple

from alpipe import labels
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import Annotator, ProgressCallback
from alpipe.steps.acquire import scan_name, uncertainties
from alpipe.steps.importing import write_refusals
from alpipe.steps.models import counted
from alpipe.steps.outcome import Done, Outcome, Waiting
from alpipe.types import Item, ItemState, LabelRequest, Split, Suggestion

REFUSED = "pull-refused.csv"
ANSWERED = (ItemState.LABELLED, ItemState.EMPTY, ItemState.SKIPPED)


def push(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Sends the selected images with what the model makes of them; what arrived before is not sent again."""
    reasons = project.store.rounds.selected(round_.number)
    items = project.store.items.list(keys=list(reasons), states=[ItemState.SELECTED, ItemState.PUSHED])
    if not items:
        return Done("nothing to push", {"counts": {"pushed": 0}})
    suggestions = _suggestions(project, round_, items, progress)
    scores: dict[str, float] = {}
    if round_.model is not None:
        scores = uncertainties(project.store.scores.of(scan_name(project, round_)))
    requests = [
        LabelRequest(item, round_.number, reasons[item.key], scores.get(item.key), suggestions.get(item.key))
        for item in items
    ]
    annotator = project.annotator()
    receipts = annotator.push(requests, progress)
    project.store.meta.set("where", annotator.where())
    project.store.tasks.put(receipts, project.config.annotator.name, round_.number, round_.model)
    shown = sum(request.suggestion is not None for request in requests)
    counts = {"pushed": len(receipts), "preannotated": shown}
    return Done(f"{len(receipts)} tasks pushed, {shown} of them pre-annotated", {"counts": counts})


def collect(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Pulls; done once enough of this round's batch is answered."""
    annotator = project.annotator()
    got = pull(project, annotator, progress)
    selected = batch_of(project, round_.number)
    answered = [item for item in selected if item.state in ANSWERED]
    needed = math.ceil(project.config.wait_for * len(selected))
    if len(answered) < needed:
        more = f"; {got.refused} answers could not be used, see {project.folder / REFUSED}" if got.refused else ""
        return Waiting(
            f"answers to {len(selected) - len(answered)} of {len(selected)} tasks of round {round_.number}:"
            f" {annotator.where()}{more}"
        )
    return Done(f"{len(answered)} of {len(selected)} tasks answered", {"counts": answer_counts(project, round_)})


def batch_of(project: Project, number: int) -> list[Item]:
    """The items that were selected in a round; those whose file cannot be read any more do not count."""
    items = project.store.items.list(keys=list(project.store.rounds.selected(number)))
    return [item for item in items if item.state is not ItemState.QUARANTINED]


def answer_counts(project: Project, round_: Round) -> dict[str, int]:
    """What a round's batch was answered with so far, for the ledger."""
    answered = [item for item in batch_of(project, round_.number) if item.state in ANSWERED]
    states = [item.state for item in answered]
    return {
        "answered": len(answered),
        "empty": states.count(ItemState.EMPTY),
        "skipped": states.count(ItemState.SKIPPED),
        "holdout_answered": sum(item.split is Split.HOLDOUT for item in answered),
    }


class Got(NamedTuple):
    """What a pull brought: answers that are new or changed, answers withdrawn, and parts that could not be used."""

    answers: int
    withdrawn: int
    refused: int


def pull(project: Project, annotator: Annotator, progress: ProgressCallback) -> Got:
    """Brings every answer since the last pull into the store; the watermark moves with them or not at all."""
    mark = f"watermark:{project.config.annotator.name}"
    pulled = annotator.pull(project.store.meta.get(mark), progress)
    taken = project.store.annotations.upsert(pulled.annotations)
    withdrawn = project.store.annotations.withdraw(pulled.withdrawn)
    refused = [*pulled.refused, *taken.refused]
    if refused:
        write_refusals(project.folder / REFUSED, refused)
    project.store.meta.set(mark, pulled.watermark)
    return Got(taken.new + taken.changed, withdrawn, len(refused))


def _suggestions(
    project: Project, round_: Round, items: list[Item], progress: ProgressCallback
) -> dict[str, Suggestion]:
    if round_.model is None:
        return {}
    shown = [item for item in items if item.split is Split.POOL]
    found = {}
    for prediction in counted(project.model(round_.model).predict(shown), len(shown), "pre-annotating", progress):
        suggestion = labels.suggest(prediction, project.classes, project.config.suggest_above, round_.model)
        if suggestion is not None:
            found[prediction.item_key] = suggestion
    return found
