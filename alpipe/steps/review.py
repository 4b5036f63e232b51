"""Questions about labels that stand: which are asked, and what people's replies do to the labels and the bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alpipe import boxes, corrections
from alpipe import labels as label_json
from alpipe.pool.store import Asked
from alpipe.project import Project
from alpipe.protocols import Annotator, ProgressCallback, Reviewer
from alpipe.types import (
    Annotation,
    AnswerState,
    Boxes,
    Example,
    Negative,
    NegativeState,
    Question,
    QuestionKind,
    QuestionState,
    Refusal,
    RegionAnswer,
    Reply,
    is_empty,
)

ANSWERED = (QuestionState.RIGHT, QuestionState.WRONG, QuestionState.UNSURE)


class Reviewed(NamedTuple):
    """What a pull brought: replies that are new or changed, and what could not be used."""

    replies: int = 0
    refused: tuple[Refusal, ...] = ()


def file(project: Project, truths: Mapping[str, Example], doubted: Sequence[Question], spare: str | None = None) -> int:
    """Files what is contradicted: labels, and the regions of the bank that may be objects; returns how many questions
    are new. Open ones of before are taken back, but for those under the model ``spare``.
    """
    missed = [
        Question(
            key=asked.key,
            item=asked.item,
            kind=QuestionKind.MISSED,
            labels=truths[asked.item.key].labels,
            box=asked.box,
            given=None,
            proposed=asked.name,
            score=asked.score,
            round=asked.round,
            model=entry.model,
            reason=asked.reason,
        )
        for entry, asked in _of_bank(project)
        if asked.item.key in truths
    ]
    return project.store.questions.replace([*missed, *doubted], spare)


def room(project: Project, round_: int) -> int:
    """How many of a round's batch are questions in place of new images."""
    if not isinstance(project.annotator(), Reviewer):
        return 0
    project.store.questions.outdate()
    most = _budget(project)
    asked = project.store.questions.count(round_)
    return min(most, asked + len(project.store.questions.next(most - asked))) if most > asked else asked


def push(project: Project, round_: int, annotator: Annotator, progress: ProgressCallback) -> int:
    """Asks the likeliest errors, as many as the round has room for, and takes back what no longer needs asking; returns
    how many were asked in the round.
    """
    if isinstance(annotator, Reviewer):
        _ask(project, round_, annotator, _budget(project) - project.store.questions.count(round_), progress)
    return project.store.questions.count(round_)


def push_alone(project: Project, round_: int, progress: ProgressCallback) -> int:
    """Where no image is left to be labelled, questions have the whole batch for themselves, and as they are answered
    others follow; returns how many wait for people.
    """
    annotator, store = project.annotator(), project.store.questions
    if not isinstance(annotator, Reviewer) or not project.config.review.share:
        return 0
    _ask(project, round_, annotator, project.config.batch - store.counts()[QuestionState.ASKED], progress)
    return store.counts()[QuestionState.ASKED]


def _ask(project: Project, round_: int, annotator: Reviewer, most: int, progress: ProgressCallback) -> None:
    store = project.store.questions
    store.outdate()
    gone = [one.question.key for one in store.list([QuestionState.STALE]) if one.task is not None]
    waiting = [one.question for one in store.list([QuestionState.ASKED])]  # again, in case that somebody deleted one
    questions = [*waiting, *store.next(max(0, most))]
    if questions or gone:
        receipts = annotator.ask(questions, gone, progress)
        store.asked(receipts, round_)
        store.withdrawn({*gone} - {receipt.item_key for receipt in receipts})


def told(questions: int) -> str:
    """In words, for the end of a line."""
    return f"; {questions} questions about labels" if questions else ""


def pull(project: Project, annotator: Annotator) -> Reviewed:
    """Takes in the replies to questions. A reply that was taken in before changes nothing."""
    if not isinstance(annotator, Reviewer):
        return Reviewed()
    asked = {one.question.key: one for one in project.store.questions.list() if one.task is not None}
    if not asked:
        return Reviewed()
    new, refused = 0, []
    for reply in sorted(annotator.replies([one.question for one in asked.values()]), key=_when):
        if isinstance(reply, Refusal):
            refused.append(reply)
        elif (taken := _take(project, asked[reply.key], reply)) is not None:
            new += 1
            refused += taken
    return Reviewed(new, tuple(refused))


def rows(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """A row a question, as plain values."""
    return [
        {
            "key": one.question.key,
            "round": one.question.round,
            "kind": one.question.kind.value,
            "score": round(one.question.score, 4),
            "given": one.question.given,
            "proposed": one.question.proposed,
            "state": one.state.value,
            "reason": one.question.reason,
            "box": None if one.question.box is None else [round(side, 1) for side in one.question.box],
            "answered_by": one.by,
            "item": one.question.item.key,
            "file": one.question.item.uri,
        }
        for one in asked
    ]


def _of_bank(project: Project) -> list[tuple[Any, Any]]:
    store = project.store.negatives
    entries = {entry.key: entry for entry in store.entries(states=[NegativeState.QUESTION])}
    return [(entries[question.key], question) for question in store.questions() if question.key in entries]


def _budget(project: Project) -> int:
    return int(project.config.review.share * project.config.batch + 1e-9)


def _when(reply: Reply | Refusal) -> tuple[float, str]:
    return (0.0, reply.source) if isinstance(reply, Refusal) else (reply.at.timestamp(), reply.key)


def _take(project: Project, asked: Asked, reply: Reply) -> list[Refusal] | None:
    """What a reply makes of the labels goes into the store as an answer of its own, unless they were changed elsewhere
    meanwhile; None where the reply was taken in before.
    """
    question, store = asked.question, project.store
    if asked.state in ANSWERED and (asked.answer, asked.at) == (reply.external_id, reply.at):
        return None
    current = store.annotations.latest(keys=[question.item.key]).get(question.item.key)
    own = current is not None and current.external_id == reply.external_id
    stands = current is not None and current.labels is not None and _same(current.labels, question)
    verdict = corrections.judge(question, reply)
    refused: list[Refusal] = []
    where = f"question {question.key} about {question.item.uri}"
    if question.kind is QuestionKind.MISSED and verdict.state is not QuestionState.UNSURE:
        is_object = verdict.state is QuestionState.WRONG
        settled = store.negatives.settle([RegionAnswer(question.key, is_object, reply.annotator)])
        if settled.unknown and question.box is not None:  # it was found out of sample: mining is to know it too
            store.negatives.add_settled(_region(question, question.box), question, is_object, reply.annotator)
    elif question.kind is QuestionKind.MISSED:
        store.negatives.unsettle(question.key)
    if verdict.labels is None:
        if own:
            store.annotations.withdraw([reply.external_id])
    elif own or stands:
        store.annotations.upsert([_annotation(question, reply, verdict.labels)])
        now = store.annotations.latest(keys=[question.item.key]).get(question.item.key)
        if now is None:
            refused.append(Refusal(where, "with the correction people disagree: the image is asked about again"))
        elif current is not None and now.external_id == current.external_id and not own:
            refused.append(Refusal(where, "another answer counts than the correction: a newer one, or that of most"))
    else:
        refused.append(Refusal(where, "the image's labels were changed while it was answered; they stay"))
    store.questions.settle(question.key, verdict.state, reply.external_id, reply.annotator, reply.at)
    return refused


def _region(question: Question, box: tuple[float, float, float, float]) -> Negative:
    labels = question.labels
    iou = float(boxes.best(np.array([box], np.float32), labels.xyxy).iou[0]) if isinstance(labels, Boxes) else 0.0
    return Negative(question.item.key, box, question.proposed or "", question.score, iou)


def _same(labels: Any, question: Question) -> bool:
    return label_json.to_json(labels) == label_json.to_json(question.labels)


def _annotation(question: Question, reply: Reply, labels: Any) -> Annotation:
    return Annotation(
        item_key=question.item.key,
        state=AnswerState.EMPTY if is_empty(labels) else AnswerState.LABELLED,
        labels=labels,
        annotator=reply.annotator,
        external_id=reply.external_id,
        lead_time=reply.lead_time,
        round=question.round,
        at=reply.at,
    )
