"""One task an item and one prediction a model, whatever happened.

A server that was asked to add tasks goes on after we gave up waiting, and two pushes may ask at the same moment; no
request can be made conditional. So what is there is looked at afterwards, and what is there twice and was touched by
nobody is removed: of several tasks the lowest number stays, by whomever it is done, and the server itself checks once
more that nobody has answered or begun those that go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alpipe.annotators.studio.client import CENSUS, DETAILS, KEYS_A_QUERY, LOOKUP, Filter, Row, Studio
from alpipe.annotators.studio.project import OpenProject

KEY = "alpipe_key"


def key_of(task: Row) -> str:
    """The key of the item that a task asks about; empty where the task is not ours."""
    return str(task["data"].get(KEY) or "")


def is_whole(task: Any) -> bool:
    """Whether a row has what every task has: a number and data."""
    return isinstance(task, dict) and isinstance(task.get("id"), int) and isinstance(task.get("data"), dict)


def parts(row: Row, name: str) -> list[Row]:
    """The objects in a list of a row, whatever else is in its place."""
    value = row.get(name)
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def by_key(tasks: Iterable[Row]) -> dict[str, list[Row]]:
    """Tasks of ours by their item's key, those of a key by their numbers."""
    found: dict[str, list[Row]] = {}
    for task in sorted((task for task in tasks if is_whole(task)), key=lambda task: int(task["id"])):
        if key := key_of(task):
            found.setdefault(key, []).append(task)
    return found


def of_items(studio: Studio, project: OpenProject, keys: Sequence[str], include: str = LOOKUP) -> dict[str, list[Row]]:
    """The project's tasks for these items, by key."""
    found: dict[str, list[Row]] = {}
    for start in range(0, len(keys), KEYS_A_QUERY):
        part = list(keys[start : start + KEYS_A_QUERY])
        found |= by_key(studio.tasks(project.id, [Filter(f"data.{KEY}", "in_list", "String", part)], include=include))
    return found


def versions(task: Row) -> list[str]:
    """The model versions of a task's predictions, one for each prediction."""
    stated: Any = task.get("predictions_model_versions") or ""
    names = stated if isinstance(stated, list) else str(stated).split(",")
    return [str(name).strip() for name in names if str(name).strip()]


def suspicious(tasks: Mapping[str, Sequence[Row]]) -> list[str]:
    """The keys for which a task, or a prediction of a model, is there more than once."""
    return [
        key
        for key, rows in tasks.items()
        if len(rows) > 1 or any(count > 1 for row in rows for count in Counter(versions(row)).values())
    ]


def remove(studio: Studio, project: OpenProject, keys: Sequence[str]) -> int:
    """Removes what is there twice for these items; how many tasks and predictions that were. Tasks that people have
    answered or begun stay, all of them.
    """
    removed = 0
    for start in range(0, len(keys), KEYS_A_QUERY):
        part = list(keys[start : start + KEYS_A_QUERY])
        tasks = of_items(studio, project, part, DETAILS)
        extra = [int(row["id"]) for rows in tasks.values() for row in _extra(rows)]
        # with the keys, since a server on SQLite may give the number of a deleted task again
        studio.delete_untouched(project.id, extra, [Filter(f"data.{KEY}", "in_list", "String", part)])
        gone = set(extra)
        twice = [
            number
            for rows in tasks.values()
            for row in rows
            if int(row["id"]) not in gone
            for number in _extra_predictions(row)
        ]
        for number in twice:
            studio.delete_prediction(number)
        removed += len(extra) + len(twice)
    return removed


def census(studio: Studio, project: OpenProject) -> dict[str, list[Row]]:
    """Which tasks of ours are there, by key, without what people said."""
    return by_key(studio.tasks(project.id, include=CENSUS))


def _extra(rows: Sequence[Row]) -> list[Row]:
    """The tasks of an item that are one too many: not those that people have touched, else all but the first."""
    touched = [row for row in rows if _touched(row)]
    keep = touched or list(rows[:1])
    return [row for row in rows if row not in keep]


def _touched(row: Row) -> bool:
    return any(row.get(name) for name in ("total_annotations", "cancelled_annotations", "annotations", "drafts"))


def _extra_predictions(row: Row) -> list[int]:
    """Those that are there again for their model; kept is the one from which an answer was made, else the first."""
    predictions = parts(row, "predictions")
    used = [answer.get("parent_prediction") for answer in parts(row, "annotations")]
    kept: dict[str, Row] = {}
    for prediction in sorted(predictions, key=lambda found: (found["id"] not in used, found["id"])):
        kept.setdefault(str(prediction["model_version"]), prediction)
    return [int(found["id"]) for found in predictions if kept[str(found["model_version"])] is not found]
