"""Requests to tasks: one task an item, recognised by ``data.alpipe_key``; nothing is posted twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alpipe.annotators.studio import config, regions
from alpipe.annotators.studio.client import KEYS_A_QUERY, Filter, Row, Studio, UncertainError
from alpipe.annotators.studio.project import OpenProject
from alpipe.errors import AnnotatorError
from alpipe.protocols import ProgressCallback
from alpipe.types import Item, LabelRequest, Progress, Receipt

KEY = "alpipe_key"
ImageUrls = Callable[[Sequence[Item]], list[str]]
"""Makes images visible to the server and gives their URLs, in order."""


def push(
    studio: Studio,
    project: OpenProject,
    requests: Sequence[LabelRequest],
    image_urls: ImageUrls,
    batch: int,
    progress: ProgressCallback,
) -> list[Receipt]:
    """One receipt a request, in order. Tasks that are there already are kept; those that nobody has answered yet get
    the pre-annotation of a newer model.

    Raises AnnotatorError before anything is sent where a pre-annotation is faulty, and where the server breaks off;
    run again, it goes on where it stopped.
    """
    predictions = {request.item.key: prediction(request, project) for request in requests}
    there = look_up(studio, project, [request.item.key for request in requests])
    new = [request for request in requests if request.item.key not in there]
    for start in range(0, len(new), batch):
        progress(Progress("push", start, len(new), "tasks"))
        part = new[start : start + batch]
        there |= _add(studio, project, part, predictions, image_urls)
    added = {request.item.key for request in new}
    old = [request for request in requests if request.item.key not in added]
    _refresh(studio, project, old, predictions, there)
    _show_newest(studio, project, requests)
    progress(Progress("push", len(new), len(new), f"{len(new)} new tasks"))
    return [Receipt(request.item.key, f"{project.id}/{there[request.item.key]['id']}") for request in requests]


def look_up(studio: Studio, project: OpenProject, keys: Sequence[str]) -> dict[str, Row]:
    """The project's tasks for these items by key; of several for one item the first."""
    found: dict[str, Row] = {}
    for start in range(0, len(keys), KEYS_A_QUERY):
        part = list(keys[start : start + KEYS_A_QUERY])
        for task in studio.tasks(project.id, [Filter(f"data.{KEY}", "in_list", "String", part)]):
            found.setdefault(task["data"][KEY], task)
    if not found and keys and project.tasks:
        _check_filter(studio, project)
    return found


def prediction(request: LabelRequest, project: OpenProject) -> Row | None:
    """The pre-annotation of a request; None for a blind one. Raises AnnotatorError where it is faulty."""
    suggestion = request.suggestion
    if suggestion is None:
        return None
    result = regions.encode(suggestion.labels, request.item, project.control, suggestion.model, suggestion.scores)
    certainty = 0.5 if request.uncertainty is None else min(max(1.0 - request.uncertainty, 0.0), 1.0)
    made: Row = {"model_version": suggestion.model, "score": certainty, "result": result}
    faults = regions.check(result, project.control) or config.faults(project.label_config, made)
    if faults:
        raise AnnotatorError(
            f"the pre-annotation of {request.item.uri} by model {suggestion.model} is faulty: {faults[0][:300]}"
        )
    return made


def task_data(request: LabelRequest, project: OpenProject, url: str) -> Row:
    """What a task shows and carries beside its image."""
    return {
        project.control.data_key: url,
        KEY: request.item.key,
        "uncertainty": request.uncertainty,
        "reason": request.reason,
        "round": request.round,
        "model": request.suggestion.model if request.suggestion else "",
    }


def _add(
    studio: Studio,
    project: OpenProject,
    requests: Sequence[LabelRequest],
    predictions: dict[str, Row | None],
    image_urls: ImageUrls,
) -> dict[str, Row]:
    """Adds tasks that are not there yet. Where the server breaks off with an error, what it did is looked up and the
    rest sent once more; where it stays silent it may still be at work, and nothing is sent again.
    """
    payload: dict[str, Row] = {}
    for request, url in zip(requests, image_urls([request.item for request in requests]), strict=True):
        payload[request.item.key] = {"data": task_data(request, project, url)}
        proposed = predictions[request.item.key]
        if proposed is not None:
            payload[request.item.key]["predictions"] = [proposed]
    try:
        ids = studio.import_tasks(project.id, list(payload.values()))
        return {key: {"id": number, **payload[key]} for key, number in zip(payload, ids, strict=True)}
    except UncertainError as broken:
        there = look_up(studio, project, list(payload))
        rest = [key for key in payload if key not in there]
        if rest and broken.silent:
            raise
        if rest:
            ids = studio.import_tasks(project.id, [payload[key] for key in rest])
            there |= {key: {"id": number, **payload[key]} for key, number in zip(rest, ids, strict=True)}
        return there


def _refresh(
    studio: Studio,
    project: OpenProject,
    requests: Sequence[LabelRequest],
    predictions: dict[str, Row | None],
    there: dict[str, Row],
) -> None:
    """Pre-annotations of a newer model for tasks that nobody has answered."""
    stale = []
    for request in requests:
        task, proposed = there[request.item.key], predictions[request.item.key]
        answered = task.get("total_annotations") or task.get("cancelled_annotations")
        if proposed is not None and not answered and task["data"].get("model") != proposed["model_version"]:
            stale.append((request, task, proposed))
    rows = [
        {"task": task["id"], **proposed}
        for _, task, proposed in stale
        if proposed["model_version"] not in _versions(task)  # it is there if an earlier run was killed right here
    ]
    if rows:
        studio.import_predictions(project.id, rows)
    for request, task, _ in stale:
        url = task["data"].get(project.control.data_key, "")
        studio.replace_data(task["id"], task["data"] | task_data(request, project, url))


def _show_newest(studio: Studio, project: OpenProject, requests: Sequence[LabelRequest]) -> None:
    """The label stream shows the pre-annotations of one model version only, and later imports do not change it."""
    shown = [request for request in requests if request.suggestion is not None]
    if not shown:
        return
    newest = max(shown, key=lambda request: request.round).suggestion
    if newest is None or newest.model == project.model_version:
        return
    studio.update_project(project.id, model_version=newest.model)


def _versions(task: Row) -> list[str]:
    stated: Any = task.get("predictions_model_versions") or ""
    return stated if isinstance(stated, list) else [name.strip() for name in str(stated).split(",")]


def _check_filter(studio: Studio, project: OpenProject) -> None:
    """The server answers a filter that it does not understand with nothing, which would make us add all again."""
    known = [task["data"].get(KEY) for task in studio.tasks(project.id)]
    keys = [key for key in known if key]
    if keys and not studio.tasks(project.id, [Filter(f"data.{KEY}", "in_list", "String", keys[:1])]):
        raise AnnotatorError(
            f"{studio.url} does not find tasks by data.{KEY}, so a push would repeat them; which version is it?"
        )
