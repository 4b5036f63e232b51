"""Polygons, ellipses and run lengths to masks, and masks to polygons. By pycocotools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from alpipe import rle
from alpipe.errors import DataError
from alpipe.shapes.parts import Box, box, number
from alpipe.types import ByteArray, Rle

_MOST_PIXELS = 2**31
"""pycocotools counts pixels in 32 bits."""

_STEPS = (16.0, 8.0, 4.0, 2.0, 1.4, 1.0, 0.7, 0.5)
"""Pixels by which a simplified outline may leave the exact one, the coarsest first: the share of pixels decides."""


def fill(polygons: Sequence[Sequence[object]], width: int, height: int) -> Rle:
    """The union of polygons, each a flat list x, y, x, y, … in pixels, as COCO rasterises them.

    Raises DataError for fewer than 3 points, a point that is no finite number or lies further than the image's size
    outside of it, and for polygons that cover no pixel.
    """
    _check_size(width, height)
    checked = []
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) or len(polygon) < 6 or len(polygon) % 2:
            raise DataError("a polygon needs at least 3 points, each with x and y")
        points = np.array([number(value, "a coordinate of a polygon") for value in polygon]).reshape(-1, 2)
        far = (points < [-width, -height]) | (points > [2 * width, 2 * height])
        if far.any():
            x, y = points[far.any(axis=1)][0]
            raise DataError(f"the point ({x:g}, {y:g}) of a polygon lies far outside the {width}×{height} image")
        checked.append(points.ravel())
    filled = coco.merge(coco.frPyObjects([points.tolist() for points in checked], height, width))
    result = Rle(height, width, filled["counts"].decode("ascii"))
    if not coco.area(filled):
        raise DataError("the polygon covers no pixel of the image")
    return result


def from_counts(counts: object, width: int, height: int) -> Rle:
    """A mask from COCO run lengths, compressed (text) or not (list). Raises DataError where they do not fill the image
    or cover no pixel.
    """
    _check_size(width, height)
    if isinstance(counts, str):
        runs = _uncompressed(counts)
    elif isinstance(counts, list) and all(isinstance(run, int) and not isinstance(run, bool) for run in counts):
        runs = counts
    else:
        raise DataError("the run lengths of a mask are neither a text nor a list of whole numbers")
    if any(run < 0 for run in runs) or sum(runs) != width * height:
        raise DataError(f"the run lengths of a mask do not fill the {width}×{height} image")
    if not sum(runs[1::2]):
        raise DataError("the mask covers no pixel of the image")
    encoded = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return Rle(height, width, encoded["counts"].decode("ascii"))


def union(masks: Sequence[Rle]) -> Rle:
    """The union of at least one mask. Raises DataError for masks of different sizes."""
    if len({(mask.height, mask.width) for mask in masks}) > 1:
        raise DataError("the masks of one image have different sizes")
    if len(masks) == 1:
        return masks[0]
    merged = coco.merge([_raw(mask) for mask in masks])
    return Rle(masks[0].height, masks[0].width, merged["counts"].decode("ascii"))


def bounding_box(mask: Rle) -> Box:
    """The smallest box around the mask's pixels. Raises DataError for an empty mask."""
    x, y, width, height = coco.toBbox(_raw(mask)).tolist()
    return box(x, y, x + width, y + height)


def around(points: npt.NDArray[np.float64]) -> Box:
    """The smallest box around (N, 2) points. Raises DataError where it has no area."""
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return box(x1, y1, x2, y2)


def trace(mask: ByteArray) -> Iterator[npt.NDArray[np.int64]]:
    """One (N, 2) polygon for each 4-connected region of an (H, W) mask, along the pixel edges.

    ``fill`` gives exactly the region back: a hole is reached from the first point by a bridge that is walked both
    ways and so cancels under the even-odd rule.
    """
    for region, corner in _regions(mask):
        yield np.array(_joined(_loops(region)), np.int64) + corner


def simplify(mask: ByteArray, tolerance: float) -> Iterator[npt.NDArray[np.int64]]:
    """As ``trace``, with as few points as keep the IoU of each region with what its polygon fills at 1 − ``tolerance``
    at least (Douglas and Peucker 1973); a tolerance of 0 leaves the exact outline.
    """
    for region, corner in _regions(mask):
        loops = _loops(region)
        exact = _joined(loops)
        yield np.array(_simplest(region, loops, tolerance) or exact, np.int64) + corner


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float, width: int, height: int
) -> npt.NDArray[np.bool_]:
    """(height, width) of the pixels whose centre lies in an ellipse, in pixels, turned clockwise about its centre."""
    pixels = np.zeros((height, width), np.bool_)
    x1, y1, x2, y2 = around_ellipse(centre, radii, degrees)
    left, top = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
    right, bottom = min(int(x2) + 2, width), min(int(y2) + 2, height)
    if right <= left or bottom <= top:
        return pixels
    angle = np.deg2rad(degrees)
    x = np.arange(left, right) + 0.5 - centre[0]
    y = (np.arange(top, bottom) + 0.5 - centre[1])[:, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    pixels[top:bottom, left:right] = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    return pixels


def around_ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float) -> Box:
    """The smallest upright box around the ellipse."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    half_width, half_height = np.hypot(radii[0] * cos, radii[1] * sin), np.hypot(radii[0] * sin, radii[1] * cos)
    x, y = centre
    return box(x - float(half_width), y - float(half_height), x + float(half_width), y + float(half_height))


def _regions(mask: ByteArray) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
    """Each 4-connected region of the mask, cut out, with the x and y of the place where it was."""
    count, regions, boxes, _ = cv2.connectedComponentsWithStats((mask != 0).astype(np.uint8), connectivity=4)
    for label in range(1, count):
        x, y, width, height = (int(value) for value in boxes[label, :4])
        yield regions[y : y + height, x : x + width] == label, np.array([x, y])


def _joined(loops: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """The outer line and its holes as one line."""
    outer, holes = loops[0], loops[1:]
    return [*outer, *(point for hole in holes for point in (outer[0], *hole, hole[0]))]


def _simplest(
    region: npt.NDArray[np.bool_], loops: Sequence[Sequence[tuple[int, int]]], tolerance: float
) -> list[tuple[int, int]] | None:
    height, width = region.shape
    if tolerance <= 0:
        return None
    for step in _STEPS:
        simple = [cv2.approxPolyDP(np.array(loop, np.int32), step, True)[:, 0].tolist() for loop in loops]
        kept = [[(int(x), int(y)) for x, y in loop] for loop in simple if len(loop) > 2]
        if not kept or len(simple[0]) < 3:
            continue
        joined = _joined(kept)
        encoded = coco.merge(coco.frPyObjects([[float(value) for point in joined for value in point]], height, width))
        filled = rle.decode(Rle(height, width, encoded["counts"].decode("ascii"))) > 0
        if (filled & region).sum() >= (1 - tolerance) * (filled | region).sum():
            return joined
    return None


def _loops(region: npt.NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The closed lines between the region and the rest, corners only, the outer one first."""
    padded = np.pad(region, 1)
    inside = padded[1:-1, 1:-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sides = (  # the neighbour on that side, and where the edge starts and ends: clockwise around the pixel
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, start, end in sides:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            here = (column + start[0], row + start[1])
            following.setdefault(here, []).append((column + end[0], row + end[1]))
    loops = []
    while following:
        first = min(following)  # the leftmost corner left: the outer line comes first
        loop, here = [first], _step(following, first)
        while here != first:
            loop.append(here)
            here = _step(following, here)
        loops.append(_corners(loop))
    return loops


def _step(following: dict[tuple[int, int], list[tuple[int, int]]], here: tuple[int, int]) -> tuple[int, int]:
    ends = following[here]
    there = ends.pop()
    if not ends:
        del following[here]
    return there


def _corners(loop: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The loop without the points that lie on a straight line between their neighbours."""
    turns = zip(loop[-1:] + loop[:-1], loop, loop[1:] + loop[:1], strict=True)
    return [here for before, here, after in turns if (before[0] == here[0]) != (here[0] == after[0])]


def _raw(mask: Rle) -> dict[str, object]:
    return {"size": [mask.height, mask.width], "counts": mask.counts.encode("ascii")}


def _check_size(width: int, height: int) -> None:
    if width <= 0 or height <= 0 or width * height >= _MOST_PIXELS:
        raise DataError(f"an image of {width}×{height} pixels cannot have a mask")


def _uncompressed(counts: str) -> list[int]:
    """The run lengths in COCO's compressed text: groups of 5 bits, least first, as differences to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise DataError("the compressed run lengths of a mask are damaged")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError("the compressed run lengths of a mask end too early")
    return runs
