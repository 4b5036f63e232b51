"""What a person drew: one region of a Label Studio result, as a part of an image's labels.

Coordinates there are percent of the image as displayed; rectangles turn about their top left corner, ellipses about
their centre, both clockwise. Regions come from people, files and servers, and nothing is taken on trust.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from alpipe import boxes, rle
from alpipe.errors import DataError
from alpipe.shapes import brush, outlines
from alpipe.shapes.parts import Box, Part, box, number
from alpipe.types import Boxes, FloatArray, Rle, Task

CHOICES, RECTANGLE, ELLIPSE = "choices", "rectanglelabels", "ellipselabels"
POLYGON, BRUSH, ANY = "polygonlabels", "brushlabels", "labels"

KINDS = {
    Task.CLASSIFY: (CHOICES,),
    Task.DETECT: (RECTANGLE, ELLIPSE, POLYGON, BRUSH, ANY),
    Task.SEGMENT: (BRUSH, POLYGON, ELLIPSE, ANY),
}
"""The kinds of regions that each task takes: of all shapes there is a box, but a rectangle is no outline."""

UNNAMED = {"rectangle": "rectangle", "ellipse": "ellipse", "polygon": "polygon", "brush": "brush stroke"}
"""What Label Studio calls a shape that was drawn without choosing a label."""

REMARKS = {
    CHOICES: "choices", "textarea": "text", "rating": "rating", "number": "number", "datetime": "datetime",
    "taxonomy": "taxonomy",
}  # fmt: skip
"""The kinds of entries that say something and draw nothing, and the key under which they say it."""

RELATION = "relation"

_FAR = 1000.0
"""Percent: nobody draws further outside of an image."""

_LEAST = 1e-3
"""Pixels: what is thinner is no ellipse."""


def part(region: Any, task: Task, width: int, height: int) -> Part:
    """The region's label and shape in an image of width × height pixels as displayed.

    For detection an ellipse, a polygon or a brush stroke is the box around it, a turned rectangle keeps its corners;
    for segmentation each is its mask. Shapes may reach over the image's edge. Raises DataError with the reason.
    """
    kind, value = _kind(region, task)
    name = _label(value, kind)
    if kind == CHOICES:
        return Part(name, None)
    turned = number(region.get("image_rotation") or 0, "image_rotation")
    if turned:
        raise DataError(f"the image was rotated by {turned:g}° while it was labelled, which is not supported")
    if kind == BRUSH or (kind == ANY and "rle" in value):
        return Part(name, _brush(region, value, task, width, height))
    if kind == POLYGON or (kind == ANY and "points" in value):
        return Part(name, _polygon(value, task, width, height))
    if kind == ELLIPSE or (kind == ANY and "radiusX" in value):
        return Part(name, _ellipse(value, task, width, height))
    if task is Task.SEGMENT:
        raise DataError(f"a rectangle of {name} is no outline, which segmentation needs")
    return _rectangle(value, name, width, height)


def is_remark(entry: Any) -> bool:
    """Whether an entry of a result is of a kind that draws nothing: a relation, a choice, text, a rating, …"""
    kind = entry.get("type") if isinstance(entry, dict) else None
    return isinstance(kind, str) and (kind == RELATION or kind in REMARKS)


def has_place(remark: Any) -> bool:
    """Whether a remark's value holds more than what it says: the shape of the region that it speaks of, mostly."""
    if remark["type"] == RELATION:
        return False
    value = remark.get("value")
    return not isinstance(value, dict) or bool(value.keys() - {REMARKS[remark["type"]]})


def stated_size(region: Any) -> tuple[int, int] | None:
    """(width, height) of the image that the region says it was drawn on."""
    if not isinstance(region, dict):
        return None
    width, height = region.get("original_width"), region.get("original_height")
    if type(width) is int and type(height) is int and width > 0 and height > 0:  # a bool is an int, but of no type int
        return width, height
    return None


def rectangles(labels: Boxes, width: int, height: int) -> Iterator[tuple[str, dict[str, float]]]:
    """The other way: each box's label and the sides of its rectangle in percent, as they are; none is cut."""
    turned = labels.rotated
    for at, (name, (x1, y1, x2, y2)) in enumerate(zip(labels.names, labels.xyxy.tolist(), strict=True)):
        if labels.corners is not None and turned[at]:
            yield name, _turned_sides(labels.corners[at], width, height)
        else:
            yield name, _sides((x1, y1, x2 - x1, y2 - y1, 0.0), width, height)


def _turned_sides(corners: FloatArray, width: int, height: int) -> dict[str, float]:
    """Told from the first corner from which all numbers lie within 0 and 100, as Label Studio wants them: a box over
    the edge has others.
    """
    ways = [_sides(boxes.sides(np.roll(corners, -first, axis=0)), width, height) for first in range(4)]
    fitting = [way for way in ways if all(0 <= way[key] <= 100 for key in ("x", "y", "width", "height"))]
    return (fitting or ways)[0]


def _sides(box_: tuple[float, float, float, float, float], width: int, height: int) -> dict[str, float]:
    x, y, w, h, degrees = box_
    sides = {"x": x * 100 / width, "y": y * 100 / height, "width": w * 100 / width, "height": h * 100 / height}
    return sides | {"rotation": degrees}


def _kind(region: Any, task: Task) -> tuple[str, dict[str, Any]]:
    kind = region.get("type") if isinstance(region, dict) else None
    if kind == RECTANGLE and task is Task.SEGMENT:
        raise DataError("a rectangle is no outline, which segmentation needs")
    if isinstance(kind, str) and kind in UNNAMED:
        raise DataError(f"a {UNNAMED[kind]} has no label; give it one or delete it")
    if isinstance(kind, str) and kind not in KINDS[task]:
        what = "class of an image" if task is Task.CLASSIFY else "rectangle, ellipse, polygon or brush stroke"
        raise DataError(f"a region of type {kind[:40]!r} is no {what}")
    if not isinstance(region, dict) or not isinstance(kind, str) or not isinstance(value := region.get("value"), dict):
        raise DataError(f"a region of type {str(kind)[:40]!r} has no value")
    return kind, value


def _label(value: dict[str, Any], kind: str) -> str:
    labels = value.get(kind, value.get(ANY))
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        stated = "no label" if not labels else f"the labels {str(labels)[:60]}"
        raise DataError(f"the region has {stated}, expected one")
    return labels[0]


def _brush(region: dict[str, Any], value: dict[str, Any], task: Task, width: int, height: int) -> Box | Rle:
    size = stated_size(region)
    if size is not None and size != (width, height):
        raise DataError(f"a brush stroke is for {size[0]}×{size[1]} pixels, but the image has {width}×{height}")
    mask = rle.encode(brush.decode(value.get("rle"), width, height))
    if task is Task.SEGMENT:
        return mask
    if not rle.area(mask):
        raise DataError("the brush stroke covers no pixel")
    return outlines.bounding_box(mask)


def _polygon(value: dict[str, Any], task: Task, width: int, height: int) -> Box | Rle:
    given = value.get("points")
    if not isinstance(given, list) or len(given) < 3 or not all(isinstance(p, list) and len(p) == 2 for p in given):
        raise DataError("a polygon needs at least 3 points, each with x and y")
    points = np.array([[_percent(coordinate, "a coordinate of a polygon") for coordinate in point] for point in given])
    pixels = points * (width / 100, height / 100)
    return outlines.around(pixels) if task is Task.DETECT else outlines.fill([pixels.ravel().tolist()], width, height)


def _ellipse(value: dict[str, Any], task: Task, width: int, height: int) -> Box | Rle:
    x, y, rx, ry = (_percent(value.get(key), key) for key in ("x", "y", "radiusX", "radiusY"))
    centre, radii = (x * width / 100, y * height / 100), (rx * width / 100, ry * height / 100)
    if min(radii) < _LEAST:
        raise DataError(f"an ellipse with the radii {rx:g} % and {ry:g} % has no area")
    degrees = _degrees(value)
    if task is Task.DETECT:
        return outlines.around_ellipse(centre, radii, degrees)
    mask: npt.NDArray[np.bool_] = outlines.ellipse(centre, radii, degrees, width, height)
    if not mask.any():
        raise DataError("the ellipse covers no pixel of the image")
    return rle.encode(mask)


def _rectangle(value: dict[str, Any], name: str, width: int, height: int) -> Part:
    x, y, w, h = (_percent(value.get(key), key) for key in ("x", "y", "width", "height"))
    x, y, w, h = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    straight = box(x, y, x + w, y + h)
    degrees = _degrees(value)
    if not degrees:
        return Part(name, straight)
    corners = boxes.turn(x, y, w, h, degrees)
    return Part(name, outlines.around(corners), None if boxes.is_upright(corners) else corners.astype(np.float32))


def _percent(value: Any, what: str) -> float:
    result = number(value, what)
    if abs(result) > _FAR:
        raise DataError(f"{what} is {result:g} %, far outside of the image")
    return result


def _degrees(value: dict[str, Any]) -> float:
    return number(value.get("rotation") or 0, "rotation")
