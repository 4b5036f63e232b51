"""Gathers from the store what the report and the gallery show, and writes them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

import alpipe
from alpipe import images, labels
from alpipe.errors import AlpipeError, DataError
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.report import draw
from alpipe.report.page import (
    AuditRow,
    ClassRow,
    CostRow,
    Costs,
    Gallery,
    Picture,
    Report,
    RoundRow,
    contact_sheet,
    render,
)
from alpipe.steps.acquire import scan_name
from alpipe.steps.auditing import advice
from alpipe.steps.bank import negative_galleries
from alpipe.steps.summary import pool_stats, waiting_for
from alpipe.types import Annotation, AnswerState, Item, ItemState, Labels, Split, Suggestion

MOST_PICTURES = 24
"""Pictures in each gallery of the report, which keeps the file under about 3 MB."""
MOST_QUARANTINED = 200

_SECRET = re.compile(r"token|password|secret|api_?key|credential", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")


def write_report(project: Project, path: Path) -> Path:
    """Writes the report of the project as one HTML file, whole or not at all; returns its path.

    Images that cannot be read are shown as such. Raises DataError where the file cannot be written.
    """
    return _write(path, render(gather(project)))


def write_gallery(project: Project, path: Path, items: Sequence[Item]) -> Path:
    """Writes an HTML page of thumbnails of the items with what people said of them; returns its path.

    Raises DataError where the file cannot be written.
    """
    answers = project.store.annotations.latest([item.key for item in items])
    pictures = tuple(_picture(project, item, _Said(answer=answers.get(item.key))) for item in items)
    title = f"{len(items)} image{'' if len(items) == 1 else 's'}"
    return _write(path, contact_sheet(project.config.name, Gallery(title, pictures), _now()))


def gather(project: Project) -> Report:
    """Everything the report says. Loads the model only where the last batch has open, pre-annotated images."""
    store, stats = project.store, pool_stats(project)
    rounds = store.rounds.list()
    evaluated = [round_ for round_ in rounds if round_.value is not None]
    labelling = stats["labelling"]
    quarantined = store.items.quarantined()
    return Report(
        name=project.config.name,
        task=str(project.config.task),
        classes=tuple(
            ClassRow(name, draw.colour_of(name, project.classes), counts["images"], counts["objects"])
            for name, counts in stats["labels"].items()
        ),
        made_at=_now(),
        states=stats["states"],
        rounds=tuple(map(_round_row, rounds)),
        waiting_for=_without_user(waiting_for(project)),
        advice=advice(project),
        audit=tuple(AuditRow(**{name: row[name] for name in AuditRow.__slots__}) for row in stats["audit"]["rounds"]),
        audit_says=stats["audit"]["says"],
        answers=labelling["timed"],
        answer_seconds=labelling["spent"] if labelling["timed"] else None,
        costs=_costs(labelling),
        details=evaluated[-1].metrics if evaluated else {},
        batch=_last_batch(project, rounds),
        negatives=negative_galleries(project),
        quarantined=tuple((_short(project, Path(where)), reason) for where, reason in quarantined[:MOST_QUARANTINED]),
        quarantined_total=len(quarantined),
        provenance=_provenance(project, rounds, evaluated[-1] if evaluated else None),
        config=yaml.safe_dump(
            _without_secrets(project.config.model_dump(mode="json", exclude={"store"})),
            sort_keys=False,
            allow_unicode=True,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Said:
    """What is known of an item beside itself: why it was chosen, a person's answer, else a model's suggestion."""

    reason: str = ""
    answer: Annotation | None = None
    suggestion: Suggestion | None = None
    asked_blind: bool = True


def _picture(project: Project, item: Item, said: _Said) -> Picture:
    drawn: Labels | None = None
    scores: tuple[float, ...] = ()
    lines = [said.reason] if said.reason else []
    if said.answer is not None:
        drawn = said.answer.labels
        lines.append(_answer_line(said.answer))
    elif said.suggestion is not None:
        drawn, scores = said.suggestion.labels, said.suggestion.scores
        lines.append(f"suggested by {said.suggestion.model}")
    elif not said.asked_blind:
        lines.append("nothing was suggested")
    picture = Picture(
        title=item.path.name, key=item.key, state=str(item.state), lines=tuple(lines), suggested=said.answer is None
    )
    try:
        picture = replace(picture, chips=draw.chips(drawn, project.classes, scores))
        return replace(picture, thumbnail=draw.thumbnail(images.read(item.path), drawn, project.classes, scores))
    except AlpipeError as error:
        return replace(picture, problem=_problem(item, error))


def _answer_line(answer: Annotation) -> str:
    what = {
        AnswerState.LABELLED: "labelled",
        AnswerState.EMPTY: "reviewed, holds no object,",
        AnswerState.SKIPPED: "skipped",
        AnswerState.DRAFT: "begun",
    }[answer.state]
    time = f" in {answer.lead_time:.0f} s" if answer.lead_time is not None else ""
    return f"{what} by {answer.annotator}{time}"


def _problem(item: Item, error: AlpipeError) -> str:
    return f"cannot be shown: {str(error).removeprefix(f'{item.uri}: ')}"


def _last_batch(project: Project, rounds: Sequence[Round]) -> Gallery | None:
    """The newest round's batch that there is, the images with the highest scores first, the hold-out last."""
    store = project.store
    for round_ in reversed(rounds):
        reasons = store.rounds.selected(round_.number)
        if not reasons:
            continue
        scores = dict(store.scores.of(scan_name(project, round_), reasons))
        items = store.items.list(keys=reasons)
        items.sort(key=lambda item: (item.split is Split.HOLDOUT, -scores.get(item.key, 0.0), item.key))
        shown = items[:MOST_PICTURES]
        answers = store.annotations.latest([item.key for item in shown])
        unanswered = [item for item in shown if item.key not in answers and item.split is Split.POOL]
        suggestions, trouble = _suggestions(project, round_, unanswered)
        open_ = {item.key for item in unanswered} if round_.model and not trouble else set()
        pictures = [
            _picture(
                project,
                item,
                _Said(
                    reasons[item.key],
                    answers.get(item.key),
                    suggestions.get(item.key),
                    asked_blind=item.key not in open_,
                ),
            )
            for item in shown
        ]
        note = "Solid boxes are people's, dashed ones what the model suggests." if suggestions else ""
        return Gallery(f"Last batch: round {round_.number}", tuple(pictures), f"{note} {trouble}".strip(), len(items))
    return None


def _suggestions(project: Project, round_: Round, items: Sequence[Item]) -> tuple[dict[str, Suggestion], str]:
    """What the round's model suggests for items that can be read, as it was pushed; and why it cannot be told."""
    readable = [item for item in items if item.state is not ItemState.QUARANTINED and item.path.is_file()]
    if round_.model is None or not readable:
        return {}, ""
    found = {}
    try:
        for prediction in project.model(round_.model).predict(readable):
            proposed = labels.suggest(prediction, project.classes, project.config.suggest_above, round_.model)
            if proposed is not None:
                found[prediction.item_key] = proposed
    except AlpipeError as error:
        return {}, f"The model's suggestions cannot be drawn: {error}"
    return found, ""


def _round_row(round_: Round) -> RoundRow:
    counts = round_.counts
    return RoundRow(
        number=round_.number,
        step=round_.step,
        labelled=round_.labelled or 0,
        metric=round_.metric,
        value=round_.value,
        pushed=counts.get("pushed", 0),
        preannotated=counts.get("preannotated", 0),
        answered=counts.get("answered", 0),
        empty=counts.get("empty", 0),
        skipped=counts.get("skipped", 0),
        mined=counts.get("mined", 0),
        evicted=counts.get("evicted", 0),
        questions=counts.get("questions", 0),
        bank=counts.get("bank", 0),
        timings=round_.timings,
        model=round_.model,
        model_hash=round_.model_hash,
        holdout_count=round_.holdout_count,
        holdout_hash=round_.holdout_hash,
        started_at=round_.started_at,
    )


def _costs(labelling: Mapping[str, Any]) -> Costs:
    both: dict[str, tuple[CostRow, ...]] = {}
    for row in labelling["rounds"]:
        some = tuple(_cost_row(one["class"], one | {"shown": row["shown"]}) for one in row["classes"])
        both[_round_name(row)] = both.get(_round_name(row), ()) + some
    order = {row["class"]: at for at, row in enumerate(labelling["classes"])}
    both = {name: tuple(sorted(rows, key=lambda row: order[row.title])) for name, rows in both.items()}
    total = [_cost_row("all", row) for row in labelling["total"]] if len(both) > 1 else []
    return Costs(
        rounds=(*(_cost_row(_round_name(row), row) for row in labelling["rounds"]), *total),
        classes=tuple(_cost_row(row["class"], row) for row in labelling["classes"]),
        both=both,
        notes=tuple(labelling["notes"]),
    )


def _round_name(row: Mapping[str, Any]) -> str:
    return "–" if row["round"] is None else str(row["round"])


def _cost_row(title: str, row: Mapping[str, Any]) -> CostRow:
    names = [name for name in CostRow.__slots__ if name != "title"]
    return CostRow(title, **{name: row[name] for name in names})


def _provenance(project: Project, rounds: Sequence[Round], evaluated: Round | None) -> tuple[tuple[str, str], ...]:
    """What the last model came from, by name; the versions are those that the last round ran with."""
    rows = {"report by alpipe": alpipe.__version__, "seed": str(project.config.seed)}
    if rounds:
        rows["last round with"] = ", ".join(f"{name} {version}" for name, version in rounds[-1].versions.items())
    trained = next((round_ for round_ in reversed(rounds) if round_.model is not None), None)
    if trained is not None:
        rows["model"] = f"{trained.model}, SHA-256 {trained.model_hash}"
        rows["data hash"] = trained.data_hash or "–"
    if evaluated is not None:
        rows["hold-out"] = f"{evaluated.holdout_count} images, hash {evaluated.holdout_hash}"
    return tuple(rows.items())


def _without_secrets(value: Any) -> Any:
    """Plug-ins of other packages may take passwords as options, and a report is passed around."""
    match value:
        case Mapping():
            return {
                name: "(hidden)" if inner and _SECRET.search(str(name)) else _without_secrets(inner)
                for name, inner in value.items()
            }
        case list():
            return [_without_secrets(inner) for inner in value]
        case str():
            return _without_user(value)
        case _:
            return value


def _without_user(text: str | None) -> str | None:
    return None if text is None else _USER_IN_URL.sub("", text)


def _short(project: Project, path: Path) -> str:
    """The path as seen from the project, where it lies inside."""
    return str(path.relative_to(project.root)) if path.is_relative_to(project.root) else str(path)


def _now() -> datetime:
    return datetime.now().astimezone()


def _write(path: Path, page: str) -> Path:
    """Writes beside the file and renames. File names that are not Unicode come out as escapes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(page.encode("utf-8", "backslashreplace"))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path} cannot be written: {reason}; choose another file with -o") from error
    return path
