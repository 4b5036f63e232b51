"""Where a project stands: what ``status``, the report and the flows show."""

from __future__ import annotations

from collections import Counter
from typing import Any

from alpipe.project import Project
from alpipe.steps.acquire import NO_IMAGES, scan_name
from alpipe.steps.auditing import advice, audit_facts
from alpipe.steps.exchange import batch_of
from alpipe.steps.labelling import labelling
from alpipe.types import Boxes, ImageClass, ItemState, Labels, Masks, Split


def round_rows(project: Project) -> list[dict[str, Any]]:
    """A row a round: labels trained on, the metric on the hold-out, what was pushed, answered, mined, and seconds."""
    rows = []
    for round_ in project.store.rounds.list():
        counts = round_.counts
        rows.append(
            {
                "round": round_.number,
                "labelled": round_.labelled or 0,
                "metric": round_.metric,
                "value": round_.value,
                "pushed": counts.get("pushed", 0),
                "answered": counts.get("answered", 0),
                "empty": counts.get("empty", 0),
                "skipped": counts.get("skipped", 0),
                "mined": counts.get("mined", 0),
                "evicted": counts.get("evicted", 0),
                "questions": counts.get("questions", 0),
                "bank": counts.get("bank", 0),
                "seconds": round(sum(round_.timings.values()), 1),
                "model": round_.model,
                "step": round_.step,
            }
        )
    return rows


def waiting_for(project: Project) -> str | None:
    """Whom the loop waits for, read from the store alone; None where `alpipe run` has something to do."""
    if not project.store.items.counts():
        return "images: the pool is empty; add some with `alpipe add FOLDER`"
    current = project.store.rounds.current()
    if current is not None and current.step == "select":
        pool = project.store.items.counts(Split.POOL)
        return None if pool.get(ItemState.UNLABELLED.value) or pool.get(ItemState.SELECTED.value) else NO_IMAGES
    if current is None or current.step != "collect":
        return None
    selected = batch_of(project, current.number)
    open_ = sum(item.state in (ItemState.SELECTED, ItemState.PUSHED) for item in selected)
    if not open_:
        return None
    where = project.store.meta.get("where") or project.config.annotator.name
    return f"answers to {open_} of {len(selected)} tasks of round {current.number}: {where}"


def status(project: Project) -> dict[str, Any]:
    """The whole status as plain values; ``rounds`` holds those with a model, in order."""
    items = Counter(project.store.items.counts())
    held_out = Counter(project.store.items.counts(Split.HOLDOUT))
    current = project.store.rounds.current()
    return {
        "name": project.config.name,
        "task": str(project.config.task),
        "labels": list(project.classes),
        "items": {str(state): items[str(state)] for state in ItemState} | {"total": sum(items.values())},
        "holdout": {"total": sum(held_out.values()), "labelled": held_out["labelled"] + held_out["empty"]},
        "round": None if current is None else current.number,
        "step": None if current is None else current.step,
        "rounds": round_rows(project),
        "waiting_for": waiting_for(project),
        "audit": audit_facts(project),
        "advice": advice(project),
    }


def pool_stats(project: Project) -> dict[str, Any]:
    """Counts by split and state, labels by class (in how many images, how many objects), sizes, groups, and what
    labelling cost.
    """
    store = project.store
    states = {
        str(split): {str(state): store.items.counts(split).get(str(state), 0) for state in ItemState} for split in Split
    }
    images, objects = Counter[str](), Counter[str]()
    for split in Split:
        for example in store.annotations.examples(split):
            names = _names(example.labels)
            images.update(set(names))
            objects.update(names)
    items = store.items.list()
    sizes = Counter(f"{item.width}×{item.height}" for item in items if item.state is not ItemState.QUARANTINED)
    return {
        "states": states,
        "labels": {name: {"images": images[name], "objects": objects[name]} for name in project.classes},
        "sizes": dict(sizes.most_common(5)),
        "groups": len({item.group for item in items if item.group is not None}),
        "labelling": labelling(project),
        "audit": audit_facts(project),
    }


def _names(labels: Labels) -> list[str]:
    match labels:
        case Boxes(names=names):
            return list(names)
        case Masks(by_name=by_name):
            return list(by_name)
        case ImageClass(name=name):
            return [name]


def latest_scan(project: Project) -> str | None:
    """What the newest scores are filed under; None before the first."""
    rounds = project.store.rounds.list()
    scored = [round_ for round_ in rounds if round_.model is not None and "score" in round_.timings]
    return scan_name(project, scored[-1]) if scored else None
