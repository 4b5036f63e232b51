"""From the parts of an image's labels, each taken or refused by itself, to its labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from alpipe.errors import DataError
from alpipe.types import Boxes, FloatArray, ImageClass, Labels, Masks, Refusal, Rle, Task, corners_of

Box: TypeAlias = tuple[float, float, float, float]
T = TypeVar("T")


class Part(NamedTuple):
    """One object of an image: its name and its shape (None where the class is all there is). ``corners`` (4, 2) are
    those of a box that was turned; its shape is then the upright box around it.
    """

    name: str
    shape: Box | Rle | None
    corners: FloatArray | None = None


def number(value: object, what: str) -> float:
    """A finite number out of a number or a text. Raises DataError that names ``what`` and the value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise DataError(f"{what} is {'missing' if value is None else repr(value)[:40]}, expected a number")
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise DataError(f"{what} is {str(value)[:40]!r}, expected a number") from None
    if not math.isfinite(result):
        raise DataError(f"{what} is {result}, expected a finite number")
    return result


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    """The box, if it has area in single precision. Raises DataError that says what is wrong with it."""
    with np.errstate(over="ignore"):
        corners = np.array([x1, y1, x2, y2], np.float32)
    if not np.isfinite(corners).all():
        raise DataError(f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is not finite")
    if corners[2] < corners[0] or corners[3] < corners[1]:
        raise DataError(f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is turned inside out")
    if corners[2] == corners[0] or corners[3] == corners[1]:
        raise DataError(f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area")
    return float(corners[0]), float(corners[1]), float(corners[2]), float(corners[3])


def take(entries: Iterable[tuple[str, T]], parse: Callable[[T], Part]) -> tuple[list[Part], list[Refusal]]:
    """Parses each (source, entry); one that raises DataError becomes a refusal, and the rest is taken."""
    parts, refused = [], []
    for source, entry in entries:
        try:
            parts.append(parse(entry))
        except DataError as error:
            refused.append(Refusal(source, str(error)))
    return parts, refused


def to_labels(task: Task, parts: list[Part], *, complete: bool) -> Labels | None:
    """The image's labels; parts of one name become one mask, in the order in which the names first appear.

    ``complete`` says that nothing of the image was refused. Where something was and nothing is left, the image is not
    a reviewed one without object: the labels are None. None as well for a class that is not given. Raises DataError
    for an image with several classes.
    """
    if task is Task.CLASSIFY:
        names = sorted({part.name for part in parts})
        if len(names) > 1:
            raise DataError(f"the image has several classes ({', '.join(names)}), expected one")
        return ImageClass(names[0]) if names else None
    if not parts and not complete:
        return None
    if task is Task.DETECT:
        return _boxes(parts)
    from alpipe.shapes.outlines import union

    by_name: dict[str, list[Rle]] = {}
    for part in parts:
        if isinstance(part.shape, Rle):
            by_name.setdefault(part.name, []).append(part.shape)
    return Masks({name: union(masks) for name, masks in by_name.items()})


def _boxes(parts: list[Part]) -> Boxes:
    xyxy = np.asarray([part.shape for part in parts], np.float32).reshape(-1, 4)
    corners = corners_of(xyxy)
    for at, part in enumerate(parts):
        if part.corners is not None:
            corners[at] = part.corners
    return Boxes(xyxy, tuple(part.name for part in parts), corners)
