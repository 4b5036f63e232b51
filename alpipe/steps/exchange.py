"""The steps that deal with people: push a batch to the annotator, pull what came back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple

from alpipe import labels
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import Annotator, ProgressCallback
from alpipe.steps import review
from alpipe.steps.acquire import scan_name, uncertainties
from alpipe.steps.importing import write_refusals
from alpipe.steps.models import counted
from alpipe.steps.outcome import Done, Outcome, Waiting
from alpipe.types import Item, ItemState, LabelRequest, Receipt, Split, Suggestion

REFUSED = "pull-refused.csv"
ANSWERED = (ItemState.LABELLED, ItemState.EMPTY, ItemState.SKIPPED)


def push(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Sends the selected images with what the model makes of them; what arrived before is not sent again. Questions of
    earlier rounds that are still open get what the new model makes of them.
    """
    reasons = project.store.rounds.selected(round_.number)
    items = project.store.items.list(keys=list(reasons), states=[ItemState.SELECTED, ItemState.PUSHED])
    asked = {item.key: Question(round_.number, reasons[item.key]) for item in items}
    old = _still_open(project, round_, asked)
    asked |= {item.key: question for item, question in old}
    items += [item for item, _ in old]
    annotator = project.annotator()
    questions = review.push(project, round_.number, annotator, progress)
    if not items:
        told = f"no image to push{review.told(questions)}" if questions else "nothing to push"
        return Done(told, {"counts": {"pushed": 0, "questions_asked": questions}})
    requests = _requests(project, round_, items, asked, progress)
    receipts = annotator.push(requests, progress)
    project.store.meta.set("where", annotator.where())
    note(project, requests, receipts)
    new = requests[: len(requests) - len(old)]
    counts = {
        "pushed": len(new),
        "preannotated": sum(request.suggestion is not None for request in new),
        "blind": sum(request.blind for request in new),
        "refreshed": len(old),
        "questions_asked": questions,
    }
    also = f", {counts['blind']} blind by lot" if counts["blind"] else ""
    also += f"; {len(old)} open ones of earlier rounds brought up to date" if old else ""
    also += review.told(questions)
    return Done(f"{len(new)} tasks pushed, {counts['preannotated']} of them pre-annotated{also}", {"counts": counts})


def collect(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Pulls; done once enough of this round's batch is answered."""
    annotator = project.annotator()
    got = pull(project, annotator, progress)
    selected = batch_of(project, round_.number)
    selected = [item for item in selected if item.state is not ItemState.UNLABELLED]  # people deleted the task
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
    """What a pull brought: answers that are new or changed, answers withdrawn, parts that could not be used, and
    questions that people deleted.
    """

    answers: int
    withdrawn: int
    refused: int
    gone: int = 0


def pull(project: Project, annotator: Annotator, progress: ProgressCallback) -> Got:
    """Brings every answer since the last pull into the store, and items about which people disagree back to them; the
    watermark moves with them or not at all.
    """
    name = project.config.annotator.name
    mark = f"watermark:{name}"
    pulled = annotator.pull(project.store.meta.get(mark), progress)
    taken = project.store.annotations.upsert(pulled.annotations)
    withdrawn = project.store.annotations.withdraw(pulled.withdrawn)
    gone = project.store.tasks.drop(pulled.gone, name)
    _ask_again(project, annotator, {answer.item_key for answer in pulled.annotations}, progress)
    reviewed = review.pull(project, annotator)
    refused = [*pulled.refused, *taken.refused, *reviewed.refused]
    if refused:
        write_refusals(project.folder / REFUSED, refused)
    else:
        (project.folder / REFUSED).unlink(missing_ok=True)
    project.store.meta.set(mark, pulled.watermark)
    return Got(taken.new + taken.changed + reviewed.replies, withdrawn, len(refused), gone)


def is_blind(key: str, share: float, seed: int) -> bool:
    """Whether this item is shown without pre-annotation, by lot; the same in each round, for about this share."""
    digest = hashlib.blake2b(f"blind:{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


class Question(NamedTuple):
    """In which round an item was chosen, and why."""

    round: int
    reason: str


def _still_open(project: Project, round_: Round, batch: Mapping[str, Question]) -> list[tuple[Item, Question]]:
    """The pool's items that were asked about in earlier rounds and have no answer, where there is a model to tell more
    about them. Those about which people disagree were asked again, and stay as they are.
    """
    if round_.model is None:
        return []
    name = project.config.annotator.name
    open_ = [item for item in project.store.tasks.open_items(name) if item.split is Split.POOL]
    open_ = [item for item in open_ if item.key not in batch]
    disputed = project.store.annotations.disputed([item.key for item in open_])
    rows = project.store.tasks.of([item.key for item in open_], name)
    rounds = {rows[item.key].round for item in open_}
    reasons = {number: project.store.rounds.selected(number) for number in rounds}
    return [
        (item, Question(number, reasons[number].get(item.key, "")))
        for item in open_
        if item.key not in disputed
        for number in [rows[item.key].round]
    ]


def _requests(
    project: Project,
    round_: Round,
    items: list[Item],
    asked: Mapping[str, Question],
    progress: ProgressCallback,
) -> list[LabelRequest]:
    config = project.config
    share = config.blind if round_.model is not None else 0.0
    blind = {item.key for item in items if item.split is Split.POOL and is_blind(item.key, share, config.seed)}
    suggestions = _suggestions(project, round_, [item for item in items if item.key not in blind], progress)
    scores: dict[str, float] = {}
    if round_.model is not None:
        scores = uncertainties(project.store.scores.of(scan_name(project, round_)))
    return [
        LabelRequest(
            item,
            asked[item.key].round,
            asked[item.key].reason,
            scores.get(item.key),
            suggestions.get(item.key),
            blind=item.key in blind,
        )
        for item in items
    ]


def note(project: Project, requests: list[LabelRequest], receipts: list[Receipt]) -> None:
    """Files the receipts, by round and by what is shown."""
    filed: dict[tuple[int, str | None], list[Receipt]] = {}
    for request, receipt in zip(requests, receipts, strict=True):
        shown = request.suggestion.model if request.suggestion else None
        filed.setdefault((request.round, shown), []).append(receipt)
    for (number, shown), some in filed.items():
        project.store.tasks.put(some, project.config.annotator.name, number, shown)


def _ask_again(project: Project, annotator: Annotator, keys: set[str], progress: ProgressCallback) -> None:
    """Puts those of the items about which people disagree in front of them once more."""
    name = project.config.annotator.name
    disputed = project.store.annotations.disputed(keys)
    rows = project.store.tasks.of(list(disputed), name)
    items = project.store.items.list(keys=list(rows))
    requests = [LabelRequest(item, rows[item.key].round, disputed[item.key], 1.0, again=True) for item in items]
    if requests:
        annotator.push(requests, progress)


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
