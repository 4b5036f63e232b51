"""Labels to and from the regions of a Label Studio result. Pure functions.

Coordinates there are percent of the image as displayed, top left and size. One box is one region, one mask is one
brush region, the class of an image is one region without coordinates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from alpipe import rle
from alpipe.annotators.studio import brush
from alpipe.annotators.studio.config import Control
from alpipe.errors import DataError
from alpipe.types import Boxes, ImageClass, Item, Labels, Masks, Rle, Task

Region: TypeAlias = dict[str, Any]


def encode(labels: Labels, item: Item, control: Control, source: str, scores: Sequence[float] = ()) -> list[Region]:
    """The regions of the labels, in their order.

    ``source`` (a model's version) and the item's key give the regions' ids, the same each time. Boxes are clipped to
    the image; a box outside of it and a mask without pixels have no region. ``scores`` has a confidence a label.
    """
    regions = []
    for at, (name, value) in enumerate(_values(labels, item)):
        if value is None:
            continue
        region: Region = {
            "id": region_id(source, item.key, at),
            "type": control.region_type,
            "from_name": control.name,
            "to_name": control.to_name,
            "value": {**value, "choices" if control.task is Task.CLASSIFY else control.region_type: [name]},
        }
        if control.task is not Task.CLASSIFY:
            region |= {"original_width": item.width, "original_height": item.height, "image_rotation": 0}
        if scores:
            region["score"] = float(scores[at])
        regions.append(region)
    return regions


def region_id(source: str, key: str, at: int) -> str:
    """Ten characters that belong to the label at this place, as this source said it of this item."""
    return hashlib.sha256(f"{source}/{key}/{at}".encode()).hexdigest()[:10]


def decode(result: Any, item: Item, control: Control, classes: Sequence[str]) -> Labels | None:
    """What a result says of the item; None for a classification without a class.

    A rotated box gives the upright box around it; several brush regions of a name are one mask; polygons are filled.
    Regions of other controls are an error, as is a label that is not among the classes: dropping them would teach
    that nothing is there. Raises DataError that names the region and what is wrong.
    """
    if not isinstance(result, list):
        raise DataError(f"the result is no list of regions: {str(result)[:60]}")
    found = []
    for at, region in enumerate(result):
        try:
            found.append(_decode_region(region, item, control, classes))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(f"region {at} is damaged: {type(error).__name__} {error}") from error
    match control.task:
        case Task.CLASSIFY:
            names = {name for name, _ in found}
            if len(names) > 1:
                raise DataError(f"an image has one class, but {', '.join(sorted(names))} are given")
            return ImageClass(names.pop()) if names else None
        case Task.DETECT:
            xyxy = np.asarray([value for _, value in found], np.float32).reshape(-1, 4)
            return Boxes(xyxy, tuple(name for name, _ in found))
        case Task.SEGMENT:
            return _unite(found)


def check(regions: Sequence[Region], control: Control) -> list[str]:
    """What is wrong with regions that are about to be sent; the server itself would accept anything."""
    faults = []
    seen: set[Any] = set()
    for at, region in enumerate(regions):
        value = region["value"]
        name = value.get("choices" if control.task is Task.CLASSIFY else control.region_type, [None])[0]
        if name not in control.labels:
            faults.append(f"region {at} has the label {name!r}, which the project does not offer")
        if region["id"] in seen:
            faults.append(f"region {at} has the id of another region")
        seen.add(region["id"])
        if not 0 <= region.get("score", 0) <= 1:
            faults.append(f"region {at} has the score {region['score']}")
        if control.task is Task.DETECT:
            x, y, w, h = (value[side] for side in ("x", "y", "width", "height"))
            inside = x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 100 + 1e-9 and y + h <= 100 + 1e-9
            if not inside:  # also where one is not a number
                faults.append(f"region {at} is not inside the image: {x}, {y}, {w}, {h} %")
    return faults


# ── one region ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _values(labels: Labels, item: Item) -> list[tuple[str, dict[str, Any] | None]]:
    match labels:
        case ImageClass(name=name):
            return [(name, {})]
        case Boxes(xyxy=xyxy, names=names):
            return [(name, _percent(box, item)) for name, box in zip(names, xyxy.astype(np.float64), strict=True)]
        case Masks(by_name=by_name):
            return [(name, _brush(mask)) for name, mask in by_name.items()]


def _percent(box: np.ndarray[Any, np.dtype[np.float64]], item: Item) -> dict[str, Any] | None:
    x1, x2 = (min(max(float(x) / item.width, 0.0), 1.0) * 100 for x in box[::2])
    y1, y2 = (min(max(float(y) / item.height, 0.0), 1.0) * 100 for y in box[1::2])
    if x2 <= x1 or y2 <= y1:
        return None
    return {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}


def _brush(mask: Rle) -> dict[str, Any] | None:
    pixels = rle.decode(mask)
    return {"format": "rle", "rle": brush.encode(pixels)} if pixels.any() else None


def _decode_region(region: Any, item: Item, control: Control, classes: Sequence[str]) -> tuple[str, Any]:
    kind, where = region["type"], f"region {region.get('id', '?')}"
    known = {Task.CLASSIFY: ("choices",), Task.DETECT: ("rectanglelabels",)}
    if kind not in known.get(control.task, ("brushlabels", "polygonlabels")):
        raise DataError(f"{where} is of the kind {str(kind)[:40]!r}, but {control.task} takes {control.region_type}")
    value = region["value"]
    names = value[kind]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise DataError(f"{where} needs exactly one label, but has {str(names)[:60]}")
    name: str = names[0]
    if name not in classes:
        raise DataError(f"{where} has the unknown label {name[:40]!r}; the labels are {', '.join(classes)}")
    match kind:
        case "choices":
            return name, None
        case "rectanglelabels":
            return name, _decode_box(value, item, where)
        case "polygonlabels":
            return name, _fill(value["points"], item)
        case _:
            size = (region["original_height"], region["original_width"])
            if size != (item.height, item.width):
                raise DataError(
                    f"{where} is drawn for an image of {size[1]}×{size[0]} pixels, not {item.width}×{item.height}"
                )
            return name, brush.decode(value["rle"], item.height, item.width)


def _decode_box(value: dict[str, Any], item: Item, where: str) -> list[float]:
    x, y, w, h, turn = (float(value.get(side, 0) or 0) for side in ("x", "y", "width", "height", "rotation"))
    if not all(map(math.isfinite, (x, y, w, h, turn))):
        raise DataError(f"{where} has a coordinate that is no finite number")
    left, top, wide, high = x * item.width / 100, y * item.height / 100, w * item.width / 100, h * item.height / 100
    cos, sin = (1.0, 0.0) if turn == 0 else (math.cos(math.radians(turn)), math.sin(math.radians(turn)))
    corners = [(left + a * cos - b * sin, top + a * sin + b * cos) for a in (0, wide) for b in (0, high)]
    xs, ys = ([corner[axis] for corner in corners] for axis in (0, 1))
    box = np.asarray(
        [max(min(xs), 0), max(min(ys), 0), min(max(xs), item.width), min(max(ys), item.height)], np.float32
    )
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DataError(f"{where} has no area inside the image; redraw or delete it")
    return [float(side) for side in box]


def _fill(points: Any, item: Item) -> np.ndarray[Any, np.dtype[np.bool_]]:
    import cv2

    corners = np.asarray(points, np.float64).reshape(-1, 2)
    if len(corners) < 3 or not np.isfinite(corners).all() or np.abs(corners).max() > 1000:
        raise DataError("a polygon needs at least three points near the image")
    pixels = np.zeros((item.height, item.width), np.uint8)
    cv2.fillPoly(pixels, [np.round(corners * (item.width, item.height) / 100).astype(np.int32)], 1)
    return pixels > 0


def _unite(found: Sequence[tuple[str, np.ndarray[Any, np.dtype[np.bool_]]]]) -> Masks:
    united: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for name, pixels in found:
        united[name] = united[name] | pixels if name in united else pixels
    return Masks({name: rle.encode(pixels) for name, pixels in united.items() if pixels.any()})
