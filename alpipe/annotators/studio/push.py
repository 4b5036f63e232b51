"""Requests to tasks: one task an item, recognised by ``data.alpipe_key``; nothing is there twice afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from alpipe.annotators.studio import config, duplicates, regions
from alpipe.annotators.studio.client import Filter, Row, Studio
from alpipe.annotators.studio.duplicates import KEY
from alpipe.annotators.studio.failures import UncertainError
from alpipe.annotators.studio.project import OpenProject
from alpipe.errors import AnnotatorError, DataError
from alpipe.protocols import ProgressCallback
from alpipe.types import Item, LabelRequest, Progress, Receipt, Split

ImageUrls = Callable[[Sequence[Item]], list[str]]
"""Makes images visible to the server and gives their URLs, in order."""

ATTEMPTS = 3
"""How often what is there is compared with what should be, before we give up."""


def push(
    studio: Studio,
    project: OpenProject,
    requests: Sequence[LabelRequest],
    image_urls: ImageUrls,
    batch: int,
    progress: ProgressCallback,
) -> list[Receipt]:
    """One receipt a request, in order. Tasks that are there already are kept; those that nobody has answered yet get
    the pre-annotation of a newer model, which is then the one that is shown.

    Raises AnnotatorError before anything is sent where a pre-annotation is faulty or would not be shown, DataError
    where an image is gone, and AnnotatorError where the server breaks off; run again, it goes on where it stopped.
    """
    predictions = validated(requests, project)
    _check_shown(predictions, project)
    before = studio.counts(project.id)
    there = look_up(studio, project, [request.item.key for request in requests]) if before.tasks else {}
    _check_images([request.item for request in requests if request.item.key not in there])
    for _ in range(ATTEMPTS):
        new = [request for request in requests if request.item.key not in there]
        old = [request for request in requests if request.item.key in there]
        for start in range(0, len(new), batch):
            progress(Progress("push", start, len(new), "tasks"))
            there |= _add(studio, project, new[start : start + batch], predictions, image_urls)
        more = _refresh(studio, project, old, predictions, there, batch, progress)
        more += sum(predictions[request.item.key] is not None for request in new)
        _show_newest(studio, project, requests, there)
        after = studio.counts(project.id)
        if after == (before.tasks + len(new), before.predictions + more):
            break  # nobody else was at work, so nothing is there twice
        before, there = after, look_up(studio, project, list(predictions))
        if len(there) == len(predictions) and not _lacking(requests, predictions, there):
            break
    else:
        raise AnnotatorError(f"the tasks of {project.url} change while we push; run it again")
    progress(Progress("push", len(requests), len(requests), f"{len(requests)} tasks are there"))
    return [Receipt(request.item.key, f"{project.id}/{there[request.item.key]['id']}") for request in requests]


def look_up(studio: Studio, project: OpenProject, keys: Sequence[str]) -> dict[str, Row]:
    """The project's task for each of these items that has one; what is there twice is put in order first."""
    found = duplicates.of_items(studio, project, keys)
    if not found and keys:
        _check_filter(studio, project)
    if twice := duplicates.suspicious(found):
        duplicates.remove(studio, project, twice)
        kept = {key: rows for key, rows in found.items() if key not in twice}
        found = kept | duplicates.of_items(studio, project, twice)
    return {key: rows[0] for key, rows in found.items()}


def validated(requests: Sequence[LabelRequest], project: OpenProject) -> dict[str, Row | None]:
    """The pre-annotation of each request; None for one that shows nothing, which hold-out items always do.

    Raises AnnotatorError that names the first faulty one.
    """
    made = {request.item.key: prediction(request, project) for request in requests}
    every = [region for proposed in made.values() if proposed is not None for region in proposed["result"]]
    kinds = {(region["type"], *region["value"].get(region["type"], ())): region for region in every}
    # the SDK looks at form and labels, which regions of a kind share; numbers are looked at in each of them
    together = {"model_version": "", "score": 0.5, "result": list(kinds.values())}
    if every and (regions.check(every, project.control) or config.faults(project.label_config, together)):
        for request in requests:
            _state_faults(request, made[request.item.key], project)
    return made


def prediction(request: LabelRequest, project: OpenProject) -> Row | None:
    """What is sent as the pre-annotation of a request."""
    suggestion = request.suggestion
    if suggestion is None or request.blind or request.item.split is Split.HOLDOUT:
        return None
    result = regions.encode(suggestion.labels, request.item, project.control, suggestion.model, suggestion.scores)
    certainty = 0.5 if request.uncertainty is None else min(max(1.0 - request.uncertainty, 0.0), 1.0)
    return {"model_version": suggestion.model, "score": certainty, "result": result}


def task_data(request: LabelRequest, proposed: Row | None, project: OpenProject, url: str) -> Row:
    """What a task shows and carries beside its image."""
    return {
        project.control.data_key: url,
        KEY: request.item.key,
        "uncertainty": request.uncertainty,
        "reason": request.reason,
        "round": request.round,
        "model": proposed["model_version"] if proposed else "",
        "blind": request.blind,
    }


def _state_faults(request: LabelRequest, proposed: Row | None, project: OpenProject) -> None:
    if proposed is None:
        return
    faults = regions.check(proposed["result"], project.control) or config.faults(project.label_config, proposed)
    if faults:
        raise AnnotatorError(
            f"the pre-annotation of {request.item.uri} by model {proposed['model_version']} is faulty:"
            f" {faults[0][:300]}"
        )


def _check_shown(predictions: Mapping[str, Row | None], project: OpenProject) -> None:
    """What people did to a pre-annotation is measured, and blind answers are told from the others: neither is true
    where the project does not show what we send.
    """
    sent = sum(proposed is not None for proposed in predictions.values())
    if sent and not project.shows_predictions:
        raise AnnotatorError(
            f"{project.url}: the project does not show pre-annotations, and {sent} are to be sent: turn on 'Use"
            " predictions to prelabel tasks' in its settings under Annotation, or say blind: 1 in alpipe.yaml"
        )


def _check_images(items: Sequence[Item]) -> None:
    for item in items:
        if not item.path.is_file():
            raise DataError(f"{item.uri}: there is no such file; put it back, or run `alpipe run`, which sets it aside")


def _add(
    studio: Studio,
    project: OpenProject,
    requests: Sequence[LabelRequest],
    predictions: Mapping[str, Row | None],
    image_urls: ImageUrls,
) -> dict[str, Row]:
    """Adds tasks that are not there yet. Where the server breaks off with an error, what it did is looked up and the
    rest sent once more; where it stays silent it may still be at work, and nothing is sent again.
    """
    payload: dict[str, Row] = {}
    for request, url in zip(requests, image_urls([request.item for request in requests]), strict=True):
        proposed = predictions[request.item.key]
        payload[request.item.key] = {"data": task_data(request, proposed, project, url)}
        if proposed is not None:
            payload[request.item.key]["predictions"] = [proposed]
    try:
        return _import(studio, project, payload)
    except UncertainError as broken:
        there = look_up(studio, project, list(payload))
        rest = {key: row for key, row in payload.items() if key not in there}
        if rest and broken.silent:
            raise
        return there | (_import(studio, project, rest) if rest else {})


def _import(studio: Studio, project: OpenProject, payload: Mapping[str, Row]) -> dict[str, Row]:
    ids = studio.import_tasks(project.id, list(payload.values()))
    return {key: {"id": number, **payload[key]} for key, number in zip(payload, ids, strict=True)}


def _lacking(
    requests: Sequence[LabelRequest], predictions: Mapping[str, Row | None], there: Mapping[str, Row]
) -> list[LabelRequest]:
    """Requests whose open task lacks its prediction: of a newer model, or an import that broke off in between."""
    return [
        request
        for request in requests
        if (proposed := predictions[request.item.key]) is not None
        and not answered(there[request.item.key])
        and proposed["model_version"] not in duplicates.versions(there[request.item.key])
    ]


def answered(task: Row) -> bool:
    """Whether somebody has submitted or skipped the task."""
    return bool(task.get("total_annotations") or task.get("cancelled_annotations"))


def _refresh(
    studio: Studio,
    project: OpenProject,
    requests: Sequence[LabelRequest],
    predictions: Mapping[str, Row | None],
    there: Mapping[str, Row],
    batch: int,
    progress: ProgressCallback,
) -> int:
    """Brings tasks that nobody has answered in line with their requests; how many predictions were added. A task that
    people answered in different ways gets the reason why it is asked again.
    """
    lacking = _lacking(requests, predictions, there)
    for start in range(0, len(lacking), batch):
        progress(Progress("refresh", start, len(lacking), "pre-annotations of open tasks"))
        rows = [
            {"task": there[request.item.key]["id"], **proposed}
            for request in lacking[start : start + batch]
            if (proposed := predictions[request.item.key]) is not None
        ]
        studio.import_predictions(project.id, rows)
    stale = []
    for request in requests:
        task = there[request.item.key]
        wanted = _wanted(request, predictions[request.item.key], task, project)
        if wanted != task["data"]:
            stale.append((int(task["id"]), wanted))
    for done, (number, data) in enumerate(stale):
        progress(Progress("refresh", done, len(stale), "open tasks"))
        studio.replace_data(number, data)
    return len(lacking)


def _wanted(request: LabelRequest, proposed: Row | None, task: Row, project: OpenProject) -> Row:
    """The data that a task should have."""
    data: Row = task["data"]
    if request.again:
        return data | {"reason": request.reason, "uncertainty": request.uncertainty}
    if answered(task):
        return data
    return data | task_data(request, proposed, project, data.get(project.control.data_key, ""))


def _show_newest(
    studio: Studio, project: OpenProject, requests: Sequence[LabelRequest], there: Mapping[str, Row]
) -> None:
    """The label stream shows the pre-annotations of one model version only, and later imports do not change it.

    A model of which the project has no prediction, since people answered all the tasks meanwhile, would be refused.
    """
    shown = [request for request in requests if prediction_is_shown(request)]
    for request in sorted(shown, key=lambda request: -request.round):
        task, suggestion = there[request.item.key], request.suggestion
        if suggestion is not None and (not answered(task) or suggestion.model in duplicates.versions(task)):
            if suggestion.model != project.model_version:
                studio.update_project(project.id, model_version=suggestion.model)
            return


def prediction_is_shown(request: LabelRequest) -> bool:
    """Whether a person sees what the model proposes."""
    return request.suggestion is not None and not request.blind and request.item.split is not Split.HOLDOUT


def _check_filter(studio: Studio, project: OpenProject) -> None:
    """The server answers a filter that it does not understand with nothing, which would make us add all again."""
    key = next(iter(duplicates.by_key(studio.first_tasks(project.id))), None)
    if key and not studio.tasks(project.id, [Filter(f"data.{KEY}", "in_list", "String", [key])]):
        raise AnnotatorError(
            f"{studio.url} does not find tasks by data.{KEY}, so a push would repeat them; which version is it?"
        )
