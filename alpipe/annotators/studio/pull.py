"""Answers of people to annotations: what is new or changed since a watermark, what was deleted, what is refused."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from alpipe.annotators.studio import regions
from alpipe.annotators.studio.client import ANSWERS, Filter, Row, Studio
from alpipe.annotators.studio.project import OpenProject
from alpipe.annotators.studio.push import KEY
from alpipe.errors import AnnotatorError, DataError
from alpipe.protocols import AnnotatorContext, ProgressCallback
from alpipe.types import Annotation, AnswerState, Item, Labels, Progress, Pulled, Refusal, is_empty

OVERLAP = timedelta(seconds=60)
"""Changes that were under way at the last pull may bear an earlier time: look back this far."""

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class Ledger:
    """Files of the project's own: which answers were ever seen, and those that could not be understood, raw."""

    seen: Path
    refused: Path

    def known(self) -> dict[str, list[str]]:
        """The external ids of all answers seen so far, by item key."""
        try:
            value = json.loads(self.seen.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise AnnotatorError(f"{self.seen}: cannot be read ({error}); delete it and pull again") from error
        return value if isinstance(value, dict) else {}

    def note(self, known: dict[str, list[str]]) -> None:
        self.seen.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.seen.with_suffix(".new")
        temporary.write_text(json.dumps(known), "utf-8")
        temporary.replace(self.seen)

    def keep(self, external_id: str, answer: Row, reason: str) -> None:
        """Keeps a refused answer as it came, once a version of it."""
        entry = {"id": external_id, "updated_at": str(answer.get("updated_at")), "reason": reason, "answer": answer}
        line = json.dumps(entry, default=str, sort_keys=True)
        self.refused.parent.mkdir(parents=True, exist_ok=True)
        if not self.refused.exists() or line not in self.refused.read_text("utf-8").splitlines():
            with self.refused.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def pull(
    studio: Studio,
    project: OpenProject,
    context: AnnotatorContext,
    ledger: Ledger,
    since: str | None,
    progress: ProgressCallback,
) -> Pulled:
    """The answers since a watermark; of several to one task the latest. Pulling again with the same watermark gives
    the same and whatever came since. Drafts are those of the token's own user.
    """
    known = ledger.known()
    start = _start(since, project)
    tasks = studio.tasks(project.id, _filters(start), include=ANSWERS)
    progress(Progress("pull", 0, len(tasks), "tasks changed"))
    by_key: dict[str, list[Row]] = defaultdict(list)
    for task in tasks:
        by_key[str(task["data"].get(KEY) or "")].append(task)
    foreign = by_key.pop("", [])

    annotations, refused, withdrawn = [], _foreign(project, foreign), []
    for key, rows in by_key.items():
        present = {external_id(project, key, *ref): answer for row in rows for ref, answer in _answers(row)}
        withdrawn += [gone for gone in known.get(key, []) if gone not in present]
        if present:
            latest = max(present, key=lambda ref: _time(present[ref]["updated_at"]))
            known[key] = sorted({*known.get(key, []), *present})
            item, data = context.item(key), rows[0]["data"]
            try:
                if item is None:
                    raise DataError("this pool has no such item")
                annotations.append(_annotation(latest, present[latest], data, item, project, context))
            except DataError as error:
                refused.append(Refusal(f"{studio.url}/projects/{project.id}/data?task={rows[0]['id']}", str(error)))
                ledger.keep(latest, present[latest], str(error))
    withdrawn += _deleted(studio, project, known)
    ledger.note(known)
    newest = max((_time(task["updated_at"]) for task in tasks), default=start)
    mark = f"{project.id}@{newest.strftime(TIME)}" if newest else (since or "")
    progress(Progress("pull", len(tasks), len(tasks), f"{len(annotations)} answers"))
    return Pulled(tuple(annotations), mark, tuple(dict.fromkeys(withdrawn)), tuple(refused))


def external_id(project: OpenProject, key: str, kind: str, number: int) -> str:
    """The id of an answer: with the item's key, since a server on SQLite may give a number again."""
    return f"{project.id}/{key}/{kind}{number}"


def _answers(task: Row) -> list[tuple[tuple[str, int], Row]]:
    """The submitted answers of a task; where there is none, the drafts."""
    submitted = [(("a", int(answer["id"])), answer) for answer in task.get("annotations") or []]
    return submitted or [(("d", int(draft["id"])), draft) for draft in task.get("drafts") or []]


def _annotation(
    ref: str, answer: Row, data: Row, item: Item, project: OpenProject, context: AnnotatorContext
) -> Annotation:
    draft = ref.rpartition("/")[2].startswith("d")
    labels: Labels | None = None
    if answer.get("was_cancelled"):
        state = AnswerState.SKIPPED
    else:
        try:
            labels = regions.decode(answer.get("result"), item, project.control, context.classes)
        except DataError:
            if not draft:
                raise
        nothing = labels is None or is_empty(labels)
        state = AnswerState.DRAFT if draft else AnswerState.EMPTY if nothing else AnswerState.LABELLED
    lead_time = answer.get("lead_time")
    return Annotation(
        item_key=item.key,
        state=state,
        labels=labels,
        annotator=f"labelstudio:{_who(answer)}",
        external_id=ref,
        lead_time=float(lead_time) if isinstance(lead_time, int | float) and math.isfinite(lead_time) else None,
        round=data["round"] if isinstance(data.get("round"), int) else None,
        model=data.get("model") or None,
        at=_time(answer["updated_at"]),
    )


def _who(answer: Row) -> str:
    who: Any = answer.get("completed_by") or answer.get("user")
    return str(who.get("id") if isinstance(who, dict) else who)


def _foreign(project: OpenProject, tasks: Sequence[Row]) -> list[Refusal]:
    answered = [task for task in tasks if task.get("annotations")]
    if not answered:
        return []
    return [Refusal(project.name, f"{len(answered)} answered tasks were not made by alpipe (no {KEY} in their data)")]


def _deleted(studio: Studio, project: OpenProject, known: dict[str, list[str]]) -> list[str]:
    """The answers of tasks that are gone; a deleted task shows in no incremental pull."""
    if project.tasks >= len(known):
        return []
    present = {task["data"].get(KEY) for task in studio.tasks(project.id, include="id,data")}
    return [ref for key, refs in known.items() if key not in present for ref in refs]


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


def _time(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
