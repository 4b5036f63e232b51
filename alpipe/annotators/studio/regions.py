"""Labels to and from the regions of a Label Studio result. Pure functions.

Coordinates there are percent of the image as displayed, top left and size. One box is one region; a mask is one brush
region, or a polygon for each of its connected parts; the class of an image is one region without coordinates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from alpipe import boxes, rle
from alpipe.annotators.studio.config import Control
from alpipe.errors import DataError
from alpipe.shapes import brush, drawn, outlines
from alpipe.shapes.parts import Part, to_labels
from alpipe.types import Boxes, ImageClass, Item, Labels, Masks, Rle, Task

Region: TypeAlias = dict[str, Any]

TOLD = 3
"""Faults of one answer that are told in words; the others are counted."""


def encode(labels: Labels, item: Item, control: Control, source: str, scores: Sequence[float] = ()) -> list[Region]:
    """The regions of the labels, in their order.

    ``source`` (a model's version) and the item's key give the regions' ids, the same each time. Boxes are clipped to
    the image unless people turned them; a box outside of it and a mask without pixels have no region. ``scores`` has a
    confidence a label.
    """
    regions: list[Region] = []
    for label_at, place, name, value in _values(labels, item, control):
        region: Region = {
            "id": region_id(source, item.key, place),
            "type": control.region_type,
            "from_name": control.name,
            "to_name": control.to_name,
            "value": {**value, control.region_type: [control.drawing.there(name)]},
        }
        if control.task is not Task.CLASSIFY:
            region |= {"original_width": item.width, "original_height": item.height, "image_rotation": 0}
        if scores:
            region["score"] = float(scores[label_at])
        regions.append(region)
    return regions


def region_id(source: str, key: str, at: int) -> str:
    """Ten characters that belong to the label at this place, as this source said it of this item."""
    return hashlib.sha256(f"{source}/{key}/{at}".encode()).hexdigest()[:10]


def decode(result: Any, item: Item, control: Control, classes: Sequence[str]) -> Labels | None:
    """What a result says of the item, in the project's own names; None for a classification without a class.

    A turned box keeps its corners beside the upright box around it. For detection an ellipse, a polygon or a brush
    stroke is the box around it; for segmentation those of one name are one mask, and a stroke that was rubbed out is
    none. What other controls say ``beside`` the shapes is left out. All else is an error, as is a label that is not
    among the classes: dropping a region would teach that nothing is there. Raises DataError that names each region and
    what is wrong.
    """
    return to_labels(control.task, [part for _, part in parts(result, item, control, classes)], complete=True)


def parts(result: Any, item: Item, control: Control, classes: Sequence[str]) -> list[tuple[str | None, Part]]:
    """The regions of a result, each with its id (None: it has none), as ``decode`` understands them; without strokes
    that were rubbed out.

    Raises DataError as ``decode`` does.
    """
    if not isinstance(result, list):
        raise DataError(f"the result is no list of regions: {str(result)[:60]}")
    ours = {control.drawing.there(name): name for name in classes}
    left = set(beside(result, control))
    taken, faults = [], []
    for at, region in enumerate(result, start=1):
        if at - 1 in left:
            continue
        try:
            part = _part(region, item, control, ours)
            taken.append((region["id"] if isinstance(region.get("id"), str) else None, part))
        except DataError as error:
            faults.append(f"region {at}{_id(region)}: {error}")
    if faults:
        more = f"; and {len(faults) - TOLD} regions more" if len(faults) > TOLD else ""
        raise DataError("; ".join(faults[:TOLD]) + more)
    if control.task is Task.CLASSIFY and not taken:
        _check_classes_elsewhere([result[at] for at in left], control, ours)
    return [(name, part) for name, part in taken if not _is_rubbed_out(part)]


def beside(result: Any, control: Control) -> list[int]:
    """The places of the entries that are no labels and that other controls wrote: text, ratings, choices, relations.

    They draw nothing. One that has a place in the image is among them only where the region itself is in the result.
    """
    if not isinstance(result, list):
        return []
    drawn_ids = [entry.get("id") for entry in result if isinstance(entry, dict) and not drawn.is_remark(entry)]
    return [
        at
        for at, entry in enumerate(result)
        if drawn.is_remark(entry)
        and _is_of_another(entry, control)
        and (not drawn.has_place(entry) or (isinstance(entry.get("id"), str) and entry["id"] in drawn_ids))
    ]


def check(regions: Sequence[Region], control: Control) -> list[str]:
    """What is wrong with regions that are about to be sent; the server itself would accept anything."""
    faults = []
    seen: set[Any] = set()
    for at, region in enumerate(regions):
        value = region["value"]
        name = value.get(control.region_type, [None])[0]
        if name not in control.labels:
            faults.append(f"region {at} has the label {name!r}, which the project does not offer")
        if region["id"] in seen:
            faults.append(f"region {at} has the id of another region")
        seen.add(region["id"])
        if not 0 <= region.get("score", 0) <= 1:
            faults.append(f"region {at} has the score {region['score']}")
        if not _is_inside(value):
            stated = {key: value[key] for key in ("x", "y", "width", "height", "points") if key in value}
            faults.append(f"region {at} is not inside the image: {str(stated)[:100]} %")
    return faults


def _is_of_another(remark: Any, control: Control) -> bool:
    name = remark.get("from_name")
    return remark["type"] == drawn.RELATION or (isinstance(name, str) and name not in ("", control.name))


def _check_classes_elsewhere(remarks: Sequence[Any], control: Control, ours: dict[str, str]) -> None:
    """An image whose class was given with a control that is not the one we read is not one without a class."""
    for remark in remarks:
        said = remark["value"].get("choices") if remark["type"] == drawn.CHOICES else None
        for name in said if isinstance(said, list) else []:
            if isinstance(name, str) and name in ours:
                raise DataError(
                    f"the class {name!r} was given with the control {remark['from_name'][:40]!r}, and none with"
                    f" {control.name!r}, which holds the classes: choose it there"
                )


# ── one region ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _values(labels: Labels, item: Item, control: Control) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    """(place of the label, place of the region, our name, value), the places the same whatever is left out."""
    match labels:
        case ImageClass(name=name):
            yield 0, 0, name, {}
        case Boxes():
            turned = labels.rotated
            limits = np.asarray([item.width, item.height] * 2, np.float32)
            inside = np.clip(labels.xyxy, 0, limits)
            rows = np.flatnonzero((inside[:, 2:] > inside[:, :2]).all(axis=1)).tolist()
            seen = boxes.pick(labels, rows, inside[rows])
            for at, (name, sides) in zip(rows, drawn.rectangles(seen, item.width, item.height), strict=True):
                yield at, at, name, sides if turned[at] else _whole(sides)
        case Masks(by_name=by_name):
            place = 0
            for at, (name, mask) in enumerate(by_name.items()):
                for value in _outline(mask, item, control):
                    yield at, place, name, value
                    place += 1


def _whole(sides: dict[str, float]) -> dict[str, float]:
    """Without what rounding adds beyond 100 percent."""
    width, height = min(sides["width"], 100 - sides["x"]), min(sides["height"], 100 - sides["y"])
    return sides | {"width": width, "height": height, "rotation": 0}


def _outline(mask: Rle, item: Item, control: Control) -> Iterator[dict[str, Any]]:
    pixels = rle.decode(mask)
    if control.region_type == drawn.POLYGON:
        for points in outlines.simplify(pixels, control.drawing.tolerance):
            yield {"points": (points * 100 / (item.width, item.height)).tolist(), "closed": True}
    elif pixels.any():
        yield {"format": "rle", "rle": brush.encode(pixels)}


def _part(region: Any, item: Item, control: Control, ours: dict[str, str]) -> Part:
    part = drawn.part(region, control.task, item.width, item.height)
    _check_shape(region, item)
    if part.name not in ours:
        raise DataError(f"the unknown label {part.name[:40]!r}; the labels are {', '.join(ours)}")
    part = part._replace(name=ours[part.name])
    if part.shape is None or isinstance(part.shape, Rle):
        return part
    x1, y1, x2, y2 = part.shape
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(item.width)), min(y2, float(item.height)))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise DataError("the box has no area inside the image; redraw or delete it")
    return part._replace(shape=cut)


def _check_shape(region: Any, item: Item) -> None:
    """Percent of a smaller copy are percent of the image too, but not those of a picture of another shape: it was
    turned, or is another one.
    """
    size = drawn.stated_size(region)
    if size is not None and abs(size[0] * item.height - size[1] * item.width) > max(item.width, item.height):
        raise DataError(
            f"it was drawn on a picture of {size[0]}×{size[1]} pixels, but the image has {item.width}×{item.height}:"
            " what the browser shows is turned or another image"
        )


def _is_rubbed_out(part: Part) -> bool:
    return isinstance(part.shape, Rle) and not rle.area(part.shape)


def _id(region: Any) -> str:
    name = region.get("id") if isinstance(region, dict) else None
    return f" ({name[:20]!r})" if isinstance(name, str) else ""


def _is_inside(value: dict[str, Any]) -> bool:
    """Whether the shape to be sent lies within 0 and 100 percent; a turned box may reach out."""
    if "points" in value:
        points = value["points"]
        return len(points) > 2 and all(-1e-9 <= side <= 100 + 1e-9 for point in points for side in point)
    if "width" not in value:
        return True
    x, y, w, h = (value[side] for side in ("x", "y", "width", "height"))
    if value.get("rotation"):
        return all(map(math.isfinite, (x, y, w, h, value["rotation"]))) and w > 0 and h > 0
    return bool(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 100 + 1e-9 and y + h <= 100 + 1e-9)
