"""Answers of people to annotations: what is new or changed since a watermark, what was deleted, what is refused.

The store knows which answers stand and which questions were asked, so a pull can be lost, repeated, or made from
another machine. What is deleted shows in no list of changes: of an answer, its task shows that it changed; of a task,
the project's counts do not add up any more, and only then are its tasks listed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from alpipe.annotators.studio import duplicates, regions, suggestions
from alpipe.annotators.studio.client import ANSWERS, Filter, Row, Studio
from alpipe.annotators.studio.duplicates import KEY, key_of
from alpipe.annotators.studio.project import OpenProject
from alpipe.annotators.studio.suggestions import Named, Shown
from alpipe.errors import AlpipeError, AnnotatorError, DataError
from alpipe.protocols import AnnotatorContext, ProgressCallback
from alpipe.shapes.parts import to_labels
from alpipe.types import Annotation, AnswerState, Item, Labels, Progress, Pulled, Refusal, is_empty

OVERLAP = timedelta(seconds=60)
"""Changes that were under way at the last pull may bear an earlier time: look back this far."""

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"

TOLD = 5
"""Controls that are told by name."""

FEW = 20
"""Questions that may be gone at once without asking whether that is meant, whatever share of all they are."""

NO_LABEL = "no label: left out, the labels beside it were taken"

DAMAGED = (AlpipeError, KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError)
"""What reading a row raises that is not as the server writes it."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Files of the project's own: what the project held at the last pull, with the answers that are refused still, and
    answers that could not be understood, raw. Without the first, a pull lists the tasks once more.
    """

    seen: Path
    refused: Path

    def known(self) -> Row:
        try:
            value = json.loads(self.seen.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def note(self, known: Row) -> None:
        self.seen.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.seen.with_suffix(".new")
        temporary.write_text(json.dumps(known), "utf-8")
        temporary.replace(self.seen)

    def keep(self, answers: Sequence[tuple[str, Any, str]]) -> None:
        """Keeps refused answers (id, as it came, why) as they came, once a version of each."""
        if not answers:
            return
        self.refused.parent.mkdir(parents=True, exist_ok=True)
        before = set(self.refused.read_text("utf-8").splitlines()) if self.refused.exists() else set()
        with self.refused.open("a", encoding="utf-8") as file:
            for number, answer, reason in answers:
                entry = {"id": number, "reason": reason, "answer": answer}
                line = json.dumps(entry, default=str, sort_keys=True)
                if line not in before:
                    file.write(line + "\n")


class Answer(NamedTuple):
    """One submitted answer or draft as it came; ``ref`` is its external id."""

    ref: str
    task: Row
    raw: Any


@dataclass(slots=True)
class Read:
    """What was read so far."""

    annotations: list[Annotation] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    of_items: dict[str, list[Refusal]] = field(default_factory=dict)
    raw: list[tuple[str, Any, str]] = field(default_factory=list)
    beside: list[tuple[str, Any, str]] = field(default_factory=list)

    def left_out(self, project: OpenProject) -> list[Refusal]:
        """What other controls of the project say beside the labels, counted in one line."""
        if not self.beside:
            return []
        names = sorted({str(one.get("from_name") or one["type"])[:40] for _, one, _ in self.beside})
        reason = (
            f"{len(self.beside)} results of other controls ({', '.join(names[:TOLD])}{', …' if names[TOLD:] else ''})"
            f" in {len({ref for ref, _, _ in self.beside})} answers are no labels and were left out;"
            " the labels beside them were taken"
        )
        return [Refusal(project.name, reason)]


def pull(
    studio: Studio,
    project: OpenProject,
    context: AnnotatorContext,
    ledger: Ledger,
    since: str | None,
    progress: ProgressCallback,
    *,
    accept_deletions: bool = False,
) -> Pulled:
    """The answers since a watermark, all of each task that changed, oldest first. Pulling again with the same watermark
    gives the same and whatever came since. Drafts are those of the token's own user.

    An answer that cannot be understood is refused, by this and each later pull until people change it, and what it said
    before it was edited is withdrawn. Raises AnnotatorError, with nothing noted, where most questions are gone at once,
    unless ``accept_deletions`` says that people meant it.
    """
    start = _start(since, project)
    asked = _of_project(context.asked(), project)
    listed = studio.tasks(project.id, _filters(start), include=ANSWERS)
    progress(Progress("pull", 0, len(listed), "tasks changed"))
    tasks = [task for task in listed if duplicates.is_whole(task)]
    read = Read(refused=_foreign(project, tasks))
    read.raw += [(f"{project.id}/?", task, "the task is damaged") for task in listed if not duplicates.is_whole(task)]
    read.refused += [Refusal(project.name, f"{reason}: {str(task)[:100]}") for _, task, reason in read.raw]
    grouped = duplicates.by_key(tasks)
    answers = {key: _answers(rows, project, key) for key, rows in grouped.items()}
    shown = suggestions.shown_for(studio, project, _pre_annotated(answers))
    for key, given in answers.items():
        _read(read, key, given, shown, project, context, studio.url)
    stored = _standing(context, project, list(answers))
    withdrawn = _deleted_answers(studio, project, stored, answers)
    refused = {number for number, _, _ in read.raw}
    withdrawn += [ref for refs in stored.values() for ref in refs if ref in refused]
    known = ledger.known()
    if _are_foreign_ones_new(tasks, start):
        known = known | {"others": None}  # as many of ours may be gone, and the counts look as they were
    gone, counted = _take_census(studio, project, known, asked, grouped, whole=start is None)
    if not accept_deletions:
        _check_deletions(project, gone, asked)
    withdrawn += [ref for refs in _standing(context, project, gone).values() for ref in refs]
    before = {} if start is None else _refused_before(known, project, {*answers, *gone})
    ledger.keep([*read.raw, *read.beside])
    ledger.note(counted | {"refused": before | read.of_items})
    newest = max((moment for task in tasks if (moment := _moment(task))), default=start)
    mark = f"{project.id}@{newest.strftime(TIME)}" if newest else (since or "")
    progress(Progress("pull", len(tasks), len(tasks), f"{len(read.annotations)} answers"))
    ordered = sorted(read.annotations, key=lambda annotation: annotation.at)
    every = [
        *read.refused,
        *read.left_out(project),
        *(one for some in (before | read.of_items).values() for one in some),
    ]
    return Pulled(tuple(ordered), mark, tuple(dict.fromkeys(withdrawn)), tuple(every), tuple(gone))


def external_id(project: OpenProject, key: str, kind: str, number: int) -> str:
    """The id of an answer: with the item's key, since a server on SQLite may give a number again."""
    return f"{project.id}/{key}/{kind}{number}"


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answers(tasks: Iterable[Row], project: OpenProject, key: str) -> list[Answer]:
    """The submitted answers to an item; where there is none, the drafts. One without a number has the number ?."""
    found: dict[str, list[Answer]] = {"a": [], "d": []}
    for task in tasks:
        for kind, name in (("a", "annotations"), ("d", "drafts")):
            rows = task.get(name)
            for raw in rows if isinstance(rows, list) else []:
                number = raw.get("id") if isinstance(raw, dict) else None
                ref = external_id(project, key, kind, number) if isinstance(number, int) else f"{project.id}/{key}/?"
                found[kind].append(Answer(ref, task, raw))
    return found["a"] or found["d"]


def _read(
    read: Read,
    key: str,
    given: Sequence[Answer],
    shown: Shown,
    project: OpenProject,
    context: AnnotatorContext,
    url: str,
) -> None:
    item = context.item(key)
    for answer in given:
        try:
            if item is None:
                raise DataError("this pool has no such item")
            annotation = _annotation(answer, item, shown, project, context)
            read.annotations.append(annotation)
            if annotation.labels is not None or annotation.state is AnswerState.EMPTY:
                result = answer.raw["result"]
                read.beside += [(answer.ref, result[at], NO_LABEL) for at in regions.beside(result, project.control)]
        except DAMAGED as error:
            reason = str(error) if isinstance(error, AlpipeError) else f"damaged: {type(error).__name__} {error}"[:300]
            where = f"{url}/projects/{project.id}/data?task={answer.task['id']}"
            read.of_items.setdefault(key, []).append(Refusal(where, reason))
            read.raw.append((answer.ref, answer.raw, reason))


def _annotation(
    answer: Answer, item: Item, shown: Shown, project: OpenProject, context: AnnotatorContext
) -> Annotation:
    raw, data = answer.raw, answer.task["data"]
    kind = answer.ref.rpartition("/")[2][:1]
    if kind == "?":
        raise DataError("an answer has no number")
    labels: Labels | None = None
    given: list[Named] = []
    if raw.get("was_cancelled"):
        state = AnswerState.SKIPPED
    else:
        try:
            given = regions.parts(raw.get("result"), item, project.control, context.classes)
            labels = to_labels(context.task, [part for _, part in given], complete=True)
        except DAMAGED:
            if kind != "d":
                raise
        nothing = labels is None or is_empty(labels)
        state = AnswerState.DRAFT if kind == "d" else AnswerState.EMPTY if nothing else AnswerState.LABELLED
    lead_time = raw.get("lead_time")
    model = shown_model(raw, answer.task, shown.versions)
    is_submitted = state in (AnswerState.LABELLED, AnswerState.EMPTY)
    seen = suggestions.result(raw, answer.task, model, shown)
    return Annotation(
        item_key=item.key,
        state=state,
        labels=labels,
        annotator=f"labelstudio:{_who(raw)}",
        external_id=answer.ref,
        lead_time=float(lead_time) if isinstance(lead_time, int | float) and math.isfinite(lead_time) else None,
        round=data["round"] if isinstance(data.get("round"), int) else None,
        model=model,
        at=_time(raw["updated_at"]),
        blind=model is None and data.get("blind") is True,
        edits=suggestions.edits(given, seen, item, project.control, context.classes) if is_submitted else None,
    )


def shown_model(answer: Row, task: Row, shown: Mapping[int, str]) -> str | None:
    """The model whose pre-annotation the person saw, None for none: that of the prediction from which the answer was
    made, whatever came since; without one, what the task says that it shows.
    """
    parent = answer.get("parent_prediction")
    if isinstance(parent, int):
        there = set(duplicates.versions(task))
        if len(there) == 1:
            return there.pop()
        if parent in shown:
            return shown[parent]
    stated = task["data"].get("model")
    return stated if isinstance(stated, str) and stated else None


def _pre_annotated(answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    """The keys of items that were answered and whose task has predictions."""
    return [key for key, given in answers.items() if any(duplicates.versions(answer.task) for answer in given)]


def _who(answer: Row) -> str:
    who: Any = answer.get("completed_by") or answer.get("user")
    return str(who.get("id") if isinstance(who, dict) else who)


# ── what is no longer there ─────────────────────────────────────────────────────────────────────────────────────────


def _deleted_answers(
    studio: Studio,
    project: OpenProject,
    stored: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[Answer]],
) -> list[str]:
    """The answers in the store that changed tasks do not have any more; another task of the item may have them."""
    missing = {key for key, refs in stored.items() if set(refs) - {answer.ref for answer in answers[key]}}
    if not missing:
        return []
    now = duplicates.of_items(studio, project, sorted(missing), ANSWERS)
    there = {answer.ref for key in missing for answer in _answers(now.get(key, []), project, key)}
    return [ref for key in missing for ref in stored[key] if ref not in there]


def _take_census(
    studio: Studio,
    project: OpenProject,
    known: Row,
    asked: Mapping[str, str],
    changed: Mapping[str, Sequence[Row]],
    *,
    whole: bool,
) -> tuple[list[str], Row]:
    """The keys of questions that are no longer there, and the project's counts without them. Where the counts are as
    they were (``known``) nothing is listed; where they are not, what is there twice is removed on the way. ``whole``:
    all tasks were listed already.
    """
    counts = studio.counts(project.id)
    counted = {"project": project.id, "others": counts.tasks - len(asked), "predictions": counts.predictions}
    if not whole and counted.items() <= known.items() and changed.keys() <= asked.keys():
        return [], counted
    there: Mapping[str, Sequence[Row]] = changed if whole else duplicates.census(studio, project)
    if twice := duplicates.suspicious(there):
        duplicates.remove(studio, project, twice)
        counts = studio.counts(project.id)
    gone = [key for key in asked if key not in there]
    if gone:  # a list that was read while tasks were deleted may lack one that is there
        known_key = next(iter(there), None)
        again = duplicates.of_items(studio, project, [*gone, *([known_key] if known_key else [])])
        if known_key and known_key not in again:
            raise AnnotatorError(f"the tasks of {project.url} change while we pull; run it again")
        gone = [key for key in gone if key not in again]
    others = counts.tasks - len(asked) + len(gone)
    return gone, {"project": project.id, "others": others, "predictions": counts.predictions}


def _check_deletions(project: OpenProject, gone: Sequence[str], asked: Mapping[str, str]) -> None:
    if len(gone) > FEW and len(gone) > len(asked) / 2:
        raise AnnotatorError(
            f"{project.url}: {len(gone)} of the {len(asked)} tasks that were pushed there are gone, and their answers"
            " would stop counting; nothing was changed. If they were deleted on purpose, run"
            " `alpipe pull --accept-deletions`; if not, see which server and project this is"
        )


def _are_foreign_ones_new(tasks: Sequence[Row], start: datetime | None) -> bool:
    """Whether others have added tasks since ``start``, as far as can be told."""
    foreign = [task for task in tasks if not key_of(task)]
    made = [_moment(task, "created_at") for task in foreign]
    return start is not None and any(moment is None or moment >= start - OVERLAP for moment in made)


def _refused_before(known: Row, project: OpenProject, read: set[str]) -> dict[str, list[Refusal]]:
    """What earlier pulls refused, by the item's key, without the items whose task was read again or is gone."""
    stated = known.get("refused")
    if known.get("project") != project.id or not isinstance(stated, dict):
        return {}
    return {key: [Refusal(*map(str, one)) for one in some] for key, some in stated.items() if key not in read}


def _standing(context: AnnotatorContext, project: OpenProject, keys: Sequence[str]) -> dict[str, list[str]]:
    """The answers in the store that came from this project."""
    stored = context.standing(keys) if keys else {}
    return {key: [ref for ref in refs if ref.startswith(f"{project.id}/")] for key, refs in stored.items()}


def _of_project(asked: Mapping[str, str], project: OpenProject) -> dict[str, str]:
    return {key: ref for key, ref in asked.items() if ref.startswith(f"{project.id}/")}


def _foreign(project: OpenProject, tasks: Sequence[Row]) -> list[Refusal]:
    answered = [task for task in tasks if task.get("annotations") and not key_of(task)]
    if not answered:
        return []
    return [Refusal(project.name, f"{len(answered)} answered tasks were not made by alpipe (no {KEY} in their data)")]


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _filters(start: datetime | None) -> list[Filter]:
    if start is None:
        return []
    return [
        Filter("updated_at", "greater_or_equal", "Datetime", (start - OVERLAP).strftime(TIME)),
        Filter("draft_exists", "equal", "Boolean", "true"),  # a draft does not move updated_at
    ]


def _start(since: str | None, project: OpenProject) -> datetime | None:
    """When to start; None (everything) without a watermark or for one of another project."""
    number, _, moment = (since or "").partition("@")
    try:
        return _time(moment) if int(number) == project.id else None
    except ValueError:
        return None


def _moment(task: Row, of: str = "updated_at") -> datetime | None:
    """When a task changed; None where that cannot be: a watermark in the future would hide what comes."""
    try:
        moment = _time(task[of])
    except (KeyError, ValueError, OverflowError):
        return None
    return moment if moment < datetime.now(UTC) + timedelta(days=1) else None


def _time(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
