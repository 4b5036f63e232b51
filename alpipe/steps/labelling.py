"""What labelling cost in this project, and what pre-annotations saved: by round, by class, and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alpipe import economics
from alpipe.economics import ENOUGH, Basis, Cost, Saved, Shown, Work
from alpipe.project import Project
from alpipe.report.page import duration


def labelling(project: Project) -> dict[str, Any]:
    """The figures as plain values. Each person's answer counts; ``imported`` ones have no lead time and do not.

    ``rounds`` has a row a round and kind of what was shown, each with its classes; ``total`` and ``classes`` the same
    over all rounds. In a class's row ``objects`` are per answer of all, and lead times those of whole images with the
    class.
    """
    store = project.store
    work = store.annotations.work()
    total = economics.cost(work)
    saved = economics.saved(work)
    rounds = [
        {
            "round": number,
            "shown": str(kind),
            **_figures(economics.cost(some)),
            "saved": _saved(economics.saved([*kinds[Shown.BLIND], *some])) if kind is Shown.SUGGESTION else None,
            "classes": _by_class(some, project.classes),
        }
        for number, kinds in economics.by_round(work).items()
        for kind, some in kinds.items()
        if some
    ]
    kinds = {kind: [one for one in work if economics.shown(one) is kind] for kind in Shown}
    return {
        "answers": total.answers,
        "skipped": total.skipped,
        "spent": round(total.spent, 1),
        "timed": sum(one.lead_time is not None for one in work),
        "imported": store.annotations.imported(),
        "rounds": rounds,
        "total": [{"shown": str(kind), **_figures(economics.cost(some))} for kind, some in kinds.items() if some],
        "classes": sorted(
            ({"shown": str(kind), **row} for kind, some in kinds.items() for row in _by_class(some, project.classes)),
            key=lambda row: project.classes.index(row["class"]),
        ),
        "saved": _saved(saved),
        "notes": _notes(saved, total, store.annotations.imported()),
    }


def _figures(cost: Cost) -> dict[str, Any]:
    done = cost.edits
    return {
        "answers": cost.answers,
        "skipped": cost.skipped,
        "seconds": _rounded(cost.seconds, 1),
        "objects": _rounded(cost.objects, 2),
        "suggested": done.suggested,
        "accepted": done.accepted,
        "moved": done.moved,
        "relabelled": done.relabelled,
        "deleted": done.deleted,
        "added": done.added,
        "overlap": _rounded(done.overlap / done.moved if done.moved else None, 3),
        "unknown": cost.answers - cost.known,
    }


def _by_class(work: Sequence[Work], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class that was suggested or given."""
    known = economics.cost(work).known
    costs = {name: economics.cost(work, name) for name in classes}
    return [
        {"class": name, **_figures(cost), "objects": _rounded(cost.edits.objects / known, 2)}
        for name, cost in costs.items()
        if cost.answers
    ]


def _saved(saved: Saved) -> dict[str, Any]:
    figures = {name: _rounded(value, 1) if isinstance(value, float) else value for name, value in asdict(saved).items()}
    return figures | {"basis": str(saved.basis), "total": _rounded(saved.total, 1)}


def _notes(saved: Saved, total: Cost, imported: int) -> list[str]:
    """The sentence on what was saved, and what the figures leave out."""
    notes = [_sentence(saved)]
    if unknown := total.answers - total.known:
        notes.append(
            f"It is not known what was done to the pre-annotation, so edits leave these answers out: {unknown}."
        )
    if imported:
        notes.append(f"Imported answers have no lead time and are not counted: {imported}.")
    return notes


def _sentence(saved: Saved) -> str:
    compared = f"{saved.blind} blind and {saved.suggested} pre-annotated answers of the same rounds"
    if saved.each is None or saved.total is None:
        return f"What pre-annotations saved cannot be told yet: there are {compared}, {ENOUGH} of each are needed."
    total = f"{_signed(saved.total)} over {saved.answers} answers"
    if saved.basis is Basis.MEASURED:
        interval = f"95 % interval {saved.low:.1f} to {saved.high:.1f} s"
        return f"Pre-annotations saved {saved.each:.1f} s an image ({interval}), {total}: measured on {compared}."
    return (
        f"By a model of people's time pre-annotations saved {saved.each:.1f} s an image, {total}. Not measured: there"
        f" are {compared} with a lead time, {ENOUGH} of each are needed."
    )


def _signed(seconds: float) -> str:
    return f"{'−' if seconds < 0 else ''}{duration(abs(seconds))}"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
