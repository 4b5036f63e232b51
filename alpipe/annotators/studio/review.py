"""Questions about labels that stand, in a project of their own beside the main one.

A task of theirs is one question. It shows the labels as they are and a frame around what is in question; a person says
who is right, the labels or the model, and may correct the labels in the same picture. For classes of whole images the
label that stands is chosen already, and another can be. Who is not sure skips.

They are no tasks of the main project: that has one task an item, whose answers are the item's; its labelling interface
may belong to somebody else; and a frame and two buttons in it would stand in the way of those who label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import quoteattr

from alpipe.annotators.studio import config, duplicates, regions
from alpipe.annotators.studio.client import ANSWERS, Filter, Row, Studio
from alpipe.annotators.studio.config import Drawing
from alpipe.annotators.studio.duplicates import KEY
from alpipe.annotators.studio.failures import UncertainError
from alpipe.annotators.studio.project import OpenProject
from alpipe.annotators.studio.push import ImageUrls, look_up
from alpipe.errors import AlpipeError, AnnotatorError, DataError
from alpipe.protocols import ProgressCallback
from alpipe.types import Item, Progress, Question, QuestionKind, Receipt, Refusal, Reply, Task

VIEW = "To review"
UNANSWERED = (
    Filter("total_annotations", "equal", "Number", 0),
    Filter("cancelled_annotations", "equal", "Number", 0),
)
ANSWER, FRAME = "answer", "question"
LABELS, MODEL = "the labels are right", "the model is right"
COLOUR = "#E0218A"
LABELLED = "labels"
"""What the labels that stand are called among Label Studio's model versions."""

DAMAGED = (AlpipeError, KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError)
"""What reading a row raises that is not as the server writes it."""


def title(main: str) -> str:
    """The title of the project with the questions, for the main one's."""
    return f"{main[:40]} – review"


def write(task: Task, classes: Sequence[str], drawing: Drawing) -> str:
    """The XML: the question, who is right, the labels, and the image with a frame that cannot be drawn anew."""
    plain = config.write(task, classes, drawing).replace('value="$reason" size="6"', 'value="$reason" size="5"')
    if task is Task.CLASSIFY:
        return plain
    choices = "".join(
        f"<Choice value={quoteattr(value)} hotkey={quoteattr(key)}/>" for value, key in ((LABELS, "l"), (MODEL, "m"))
    )
    asked = (
        f'  <Choices name="{ANSWER}" toName="image" choice="single" showInline="true" required="true"'
        f' requiredMessage="say who is right, or skip">{choices}</Choices>\n'
    )
    frame = (
        f'  <View style="display: none"><Rectangle name="{FRAME}" toName="image" strokeWidth="5" opacity="0"'
        f' fillOpacity="0" strokeColor="{COLOUR}"/></View>\n'
    )
    head, line, rest = plain.partition("\n  <Header")
    header, end, body = rest.partition("\n")
    return f"{head}{line}{header}{end}{asked}{frame}{body}"


def ask(
    studio: Studio,
    project: OpenProject,
    questions: Sequence[Question],
    gone: Sequence[str],
    image_urls: ImageUrls,
    progress: ProgressCallback,
) -> list[Receipt]:
    """One receipt a question; those that are there already are kept as they are. Of those of ``gone`` that somebody has
    answered or begun there is a receipt too. Raises AnnotatorError before anything is sent where a question is faulty,
    and where the server breaks off; run again, it goes on where it stopped.
    """
    payload = {question.key: _task(question, project) for question in questions}
    stay = _take_back(studio, project, gone) if gone else []
    keys = list(payload)
    there = look_up(studio, project, keys) if project.tasks else {}
    new = [question for question in questions if question.key not in there]
    if new:
        for question, url in zip(new, image_urls([question.item for question in new]), strict=True):
            payload[question.key]["data"][project.control.data_key] = url
        progress(Progress("ask", 0, len(new), "questions about labels"))
        try:
            studio.import_tasks(project.id, [payload[question.key] for question in new])
        except UncertainError:
            there = look_up(studio, project, keys)
            if any(question.key not in there for question in new):
                raise
        there = look_up(studio, project, keys)  # another push may have asked the same at the same moment
        if lost := [key for key in keys if key not in there]:
            raise AnnotatorError(f"{len(lost)} questions have not arrived at {project.url}; run it again")
    return [Receipt(key, f"{project.id}/{there[key]['id']}") for key in keys] + stay


def replies(
    studio: Studio, project: OpenProject, questions: Sequence[Question], classes: Sequence[str]
) -> list[Reply | Refusal]:
    """The newest reply to each question that has one."""
    by_key = {question.key: question for question in questions}
    found: list[Reply | Refusal] = []
    for key, tasks in duplicates.of_items(studio, project, list(by_key), ANSWERS).items():
        given = [answer for task in tasks for answer in duplicates.parts(task, "annotations")]
        if not given:
            continue
        newest = max(given, key=lambda answer: str(answer.get("updated_at")))
        try:
            found.append(_reply(newest, by_key[key], project, classes))
        except DAMAGED as error:
            reason = str(error) if isinstance(error, AlpipeError) else f"damaged: {type(error).__name__} {error}"[:300]
            found.append(Refusal(f"{project.url}?task={tasks[0]['id']}", reason))
    return found


def words(question: Question) -> str:
    """The question as it stands above the image."""
    given, seen = f"“{question.given}”", f"“{question.proposed}”"
    match question.kind:
        case QuestionKind.MISSED:
            return f"Is the framed region a {seen} that nobody marked? The model says so ({question.score:.2f})."
        case QuestionKind.UNFOUNDED:
            return f"Is the framed region a {given}, as it is labelled? The model sees nothing there."
        case QuestionKind.SWAPPED if question.box is None:
            return f"Is this a {given}, as it is labelled? The model sees {seen}: keep the label or choose another."
        case _:
            return f"Is the framed region a {given}, as it is labelled? The model sees {seen}."


def _task(question: Question, project: OpenProject) -> Row:
    asked = _named(question)
    result = regions.encode(question.labels, asked, project.control, LABELLED)
    faults = regions.check(result, project.control)
    if faults:
        raise AnnotatorError(f"the labels of {question.item.uri} cannot be shown: {faults[0][:300]}")
    if question.box is not None:
        result.append(_frame(question.box, asked, project))
    return {
        "data": {
            project.control.data_key: "",
            KEY: question.key,
            "reason": words(question),
            "uncertainty": question.score,
            "round": question.round,
            "model": LABELLED,
            "kind": question.kind.value,
            "item": question.item.key,
        },
        "predictions": [{"model_version": LABELLED, "score": 1 - question.score, "result": result}],
    }


def _named(question: Question) -> Item:
    """The item under the question's key, so that regions of two questions about one image are told apart."""
    item = question.item
    return Item(question.key, item.uri, item.width, item.height)


def _frame(box: tuple[float, float, float, float], item: Item, project: OpenProject) -> Row:
    """A frame around the box, a little wider, so that it does not hide a label's own outline, but off the image's edge,
    where it would be cut.
    """
    x1, y1, x2, y2 = box
    margin = 0.01 * math.hypot(item.width, item.height)
    edge = margin / 3
    left, top = max(x1 - margin, edge), max(y1 - margin, edge)
    right, bottom = min(x2 + margin, item.width - edge), min(y2 + margin, item.height - edge)
    return {
        "id": regions.region_id(FRAME, item.key, 0),
        "type": "rectangle",
        "from_name": FRAME,
        "to_name": project.control.to_name,
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "readonly": True,
        "value": {
            "x": 100 * left / item.width,
            "y": 100 * top / item.height,
            "width": 100 * (right - left) / item.width,
            "height": 100 * (bottom - top) / item.height,
            "rotation": 0,
        },
    }


def _take_back(studio: Studio, project: OpenProject, keys: Sequence[str]) -> list[Receipt]:
    """Deletes the tasks that nobody has answered or begun; receipts of the others."""
    found = duplicates.of_items(studio, project, keys)
    numbers = [int(task["id"]) for tasks in found.values() for task in tasks]
    # with the keys, since a server on SQLite may give the number of a deleted task again
    studio.delete_untouched(project.id, numbers, [Filter(f"data.{KEY}", "in_list", "String", list(found))])
    left = duplicates.of_items(studio, project, keys)
    return [Receipt(key, f"{project.id}/{tasks[0]['id']}") for key, tasks in left.items() if tasks]


def _reply(answer: Row, question: Question, project: OpenProject, classes: Sequence[str]) -> Reply:
    number = answer["id"]
    if not isinstance(number, int):
        raise DataError("an answer has no number")
    who = answer.get("completed_by")
    at = datetime.fromisoformat(str(answer["updated_at"]))
    lead_time = answer.get("lead_time")
    facts: Mapping[str, Any] = {
        "annotator": f"labelstudio:{who.get('id') if isinstance(who, dict) else who}",
        "external_id": f"{project.id}/{question.key}/a{number}",
        "at": at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC),
        "lead_time": float(lead_time) if isinstance(lead_time, int | float) and math.isfinite(lead_time) else None,
    }
    if answer.get("was_cancelled"):
        return Reply(question.key, None, None, **facts)
    result: list[Row] = answer["result"]
    drawn = [region for region in result if region.get("from_name") not in (ANSWER, FRAME)]
    labels = regions.decode(drawn, question.item, project.control, classes)
    if project.control.task is Task.CLASSIFY:
        return Reply(question.key, False, labels, **facts)
    chosen = [choice for region in result if region.get("from_name") == ANSWER for choice in region["value"]["choices"]]
    if chosen not in ([LABELS], [MODEL]):
        raise DataError(f"it does not say who is right: {LABELS!r} or {MODEL!r}")
    return Reply(question.key, chosen == [MODEL], labels, **facts)
