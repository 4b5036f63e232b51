"""How a person would correct a pre-annotation who knows the truth. Pure functions over results.

What is close enough is left as it is, what is off is moved, what is wrong is deleted, what is missing is drawn. Region
ids survive as they do in the browser, and ``origin`` tells what happened to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alpipe import boxes, rle
from alpipe.annotators.studio import regions
from alpipe.annotators.studio.config import Control
from alpipe.annotators.studio.regions import Region
from alpipe.shapes import drawn
from alpipe.types import Boxes, Item, Labels, Masks, Rle, Task

SAME_OBJECT = 0.3
"""IoU from which a person moves a box instead of deleting it and drawing a new one."""


class Edited(NamedTuple):
    """A corrected result, and how many regions were kept, moved or renamed, deleted and added."""

    result: list[Region]
    kept: int = 0
    changed: int = 0
    deleted: int = 0
    added: int = 0


def correct(
    shown: Sequence[Region], truth: Labels, item: Item, control: Control, classes: Sequence[str], tolerance: float
) -> Edited:
    """The result that the person submits. ``tolerance`` is the IoU in [0, 1] from which a region is close enough."""
    wanted = regions.encode(truth, item, control, "drawn")
    if not shown:
        return Edited([region | {"origin": "manual"} for region in wanted], added=len(wanted))
    proposed = regions.decode(list(shown), item, control, classes)
    match control.task, proposed, truth:
        case Task.DETECT, Boxes(), Boxes():
            pairs = _pair_boxes(proposed, truth)
            overlaps = {pair: _overlap(proposed, truth, *pair) for pair in pairs}
        case Task.SEGMENT, Masks(), Masks():
            overlaps = _pair_masks(shown, wanted, item, control)
        case _:
            overlaps = {(0, 0): 1.0}
    return _merge(shown, wanted, overlaps, control, tolerance)


def lead_time(edited: Edited, rng: np.random.Generator) -> float:
    """Seconds of work: a look, and for each edit about what people need (moving 3 s, drawing 7 s, deleting 1 s)."""
    work = 1.5 + 0.3 * edited.kept + 3.0 * edited.changed + 7.0 * edited.added + 1.0 * edited.deleted
    return float(round(work * rng.lognormal(0.0, 0.25), 2))


def _merge(
    shown: Sequence[Region],
    wanted: Sequence[Region],
    overlaps: dict[tuple[int, int], float],
    control: Control,
    tolerance: float,
) -> Edited:
    result, kept, changed = [], 0, 0
    partner = {wanted_at: (shown_at, overlap) for (shown_at, wanted_at), overlap in overlaps.items()}
    for at, region in enumerate(wanted):
        if at not in partner:
            result.append(region | {"origin": "manual"})
            continue
        before, overlap = shown[partner[at][0]], partner[at][1]
        if overlap >= tolerance and _label(before, control) == _label(region, control):
            result.append(before | {"origin": "prediction"})
            kept += 1
        else:
            result.append(region | {"id": before["id"], "origin": "prediction-changed"})
            changed += 1
    return Edited(result, kept, changed, len(shown) - len(partner), len(wanted) - len(partner))


def _label(region: Region, control: Control) -> Any:
    return region["value"].get(control.region_type)


def _pair_boxes(proposed: Boxes, truth: Boxes) -> list[tuple[int, int]]:
    """Each box with the true box that it means, boxes of the right name first."""
    matched: dict[int, int] = {}
    for same_name in (True, False):
        rows = [at for at in range(len(proposed.names)) if at not in matched]
        free = [at for at in range(len(truth.names)) if at not in matched.values()]
        if not rows or not free:
            break
        overlaps = boxes.iou(proposed.xyxy[rows], truth.xyxy[free])
        if same_name:
            same = np.asarray([[proposed.names[row] == truth.names[col] for col in free] for row in rows])
            overlaps = np.where(same, overlaps, 0)
        while overlaps.max() >= SAME_OBJECT:
            row, col = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
            matched[rows[int(row)]] = free[int(col)]
            overlaps[row, :] = overlaps[:, col] = 0
    return list(matched.items())


def _overlap(proposed: Boxes, truth: Boxes, row: int, col: int) -> float:
    return float(boxes.iou(proposed.xyxy[row : row + 1], truth.xyxy[col : col + 1])[0, 0])


def _pair_masks(
    shown: Sequence[Region], wanted: Sequence[Region], item: Item, control: Control
) -> dict[tuple[int, int], float]:
    """Each true region with the shown one of its name that covers it best, and their IoU."""
    pixels, truths = ([_pixels(region, item) for region in part] for part in (shown, wanted))
    free, pairs = list(range(len(shown))), {}
    for at, region in enumerate(wanted):
        same = [row for row in free if _label(shown[row], control) == _label(region, control)]
        if same:
            best = max(same, key=lambda row: _mask_iou(pixels[row], truths[at]))
            free.remove(best)
            pairs[best, at] = _mask_iou(pixels[best], truths[at])
    return pairs


def _mask_iou(a: np.ndarray[Any, np.dtype[np.bool_]], b: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def _pixels(region: Region, item: Item) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = drawn.part(region, Task.SEGMENT, item.width, item.height).shape
    assert isinstance(mask, Rle)  # noqa: S101  # nothing else is a mask
    return rle.decode(mask) > 0
