"""What a person saw when they answered, and what they made of it.

Region ids tell: those that were sent survive, whatever is done to the region, and one that is gone was deleted. What
became of a region is told by its label and its place, not by Label Studio's ``origin``: that says for choices nothing,
and for the rest that somebody touched the region, also where it was put back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from alpipe import boxes, rle
from alpipe.annotators.studio import duplicates, regions
from alpipe.annotators.studio.client import SHOWN, Row, Studio
from alpipe.annotators.studio.config import Control
from alpipe.annotators.studio.project import OpenProject
from alpipe.errors import DataError
from alpipe.shapes.parts import Part
from alpipe.types import Edits, FloatArray, Item, Rle, Task, corners_of

Named: TypeAlias = tuple[str | None, Part]
"""A region: its id, and its label with its shape."""

SAME_PLACE = 0.5
"""Pixels by which a corner may lie elsewhere, and the box was not moved."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Predictions of answered tasks, by their numbers and by task and model version."""

    by_number: Mapping[int, Row] = field(default_factory=dict)
    by_task: Mapping[tuple[int, str], Row] = field(default_factory=dict)

    @property
    def versions(self) -> dict[int, str]:
        """The model version of each prediction."""
        return {number: str(row.get("model_version")) for number, row in self.by_number.items()}


def shown_for(studio: Studio, project: OpenProject, keys: Sequence[str]) -> Shown:
    """The predictions of these items' tasks; nothing is asked where there is no item."""
    by_number, by_task = {}, {}
    for tasks in duplicates.of_items(studio, project, keys, SHOWN).values():
        for task in tasks:
            for row in duplicates.parts(task, "predictions"):
                if isinstance(row.get("id"), int):
                    by_number[row["id"]] = row
                    by_task[task["id"], str(row.get("model_version"))] = row
    return Shown(by_number, by_task)


def result(answer: Row, task: Row, model: str | None, shown: Shown) -> Any:
    """What the person saw, where ``model`` is the one whose prediction that was: a result as the server has it, empty
    for None; None where the prediction is gone.
    """
    if model is None:
        return []
    parent = answer.get("parent_prediction")
    row = shown.by_number.get(parent) if isinstance(parent, int) else None
    row = row or shown.by_task.get((task["id"], model))
    return None if row is None else row.get("result")


def edits(
    given: Sequence[Named], seen: Any, item: Item, control: Control, classes: Sequence[str]
) -> dict[str, Edits] | None:
    """What the person did, by class, where they saw the result ``seen`` and gave the regions ``given``. None where what
    they saw is gone or is not as we send it.
    """
    try:
        before = regions.parts(seen, item, control, classes)
    except DataError:
        return None
    if control.task is Task.CLASSIFY:  # ids of choices do not survive
        return compare([("", part) for _, part in before[:1]], [("", part) for _, part in given[:1]])
    return compare(before, given)


def compare(seen: Sequence[Named], given: Sequence[Named]) -> dict[str, Edits]:
    """What turned the suggested regions into those of the answer, by class. An id that is there twice, or none, is
    taken for that of another region.
    """
    left: dict[str | int, Part] = {}
    for at, (name, part) in enumerate(seen):
        left[at if name is None or name in left else name] = part
    done: dict[str, Edits] = defaultdict(Edits)
    for name, part in given:
        done[part.name] += Edits(objects=1)
        before = None if name is None else left.pop(name, None)
        if before is None:
            done[part.name] += Edits(added=1)
        elif before.name != part.name:
            done[before.name] += Edits(relabelled=1)
        elif (overlap := _overlap(before, part)) is None:
            done[part.name] += Edits(accepted=1)
        else:
            done[part.name] += Edits(moved=1, overlap=overlap)
    for before in left.values():
        done[before.name] += Edits(deleted=1)
    return dict(done)


def _overlap(before: Part, after: Part) -> float | None:
    """The IoU of a region with what was suggested; None where it is as it was. Masks are where all pixels are."""
    if before.shape is None or after.shape is None:
        return None
    if isinstance(before.shape, Rle) and isinstance(after.shape, Rle):
        return None if before.shape == after.shape else float(rle.iou([before.shape], [after.shape])[0, 0])
    if isinstance(before.shape, Rle) or isinstance(after.shape, Rle):
        return 0.0
    if np.abs(_corners(before) - _corners(after)).max() <= SAME_PLACE:
        return None
    one, other = (np.asarray([part.shape], np.float32) for part in (before, after))
    return float(boxes.iou(one, other)[0, 0])


def _corners(part: Part) -> FloatArray:
    return corners_of(np.asarray([part.shape], np.float32))[0] if part.corners is None else part.corners
