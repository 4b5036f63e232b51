"""Labelled images in parts of about equal size, for predictions of models that have not seen the labels they judge."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from alpipe.errors import DataError
from alpipe.types import Boxes, Example, ImageClass


def split(examples: Sequence[Example], folds: int, seed: int) -> list[list[Example]]:
    """The examples in ``folds`` parts, groups (a person, a video) whole, classes spread: of the images that hold it,
    each part gets about as many of a rare class as the others. The same seed gives the same parts, whatever the order
    of the examples. Raises DataError for fewer groups than folds.
    """
    units: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda example: example.item.key):
        units.setdefault(example.item.group or example.item.key, []).append(example)
    if len(units) < folds:
        what = "images" if len(units) == len(examples) else "groups, which are kept whole"
        raise DataError(f"{len(units)} labelled {what}: too few for {folds} folds; label more, or ask for fewer folds")
    held = {unit: Counter(name for one in some for name in set(names_of(one))) for unit, some in units.items()}
    total = sum(held.values(), Counter())
    parts: list[list[Example]] = [[] for _ in range(folds)]
    counts: list[Counter[str]] = [Counter() for _ in range(folds)]
    for unit in sorted(units, key=lambda unit: (-len(units[unit]), _draw(unit, seed))):
        rarest = min(held[unit], key=lambda name: (total[name], name), default="")
        at = min(range(folds), key=lambda part: (counts[part][rarest], len(parts[part]), part))
        parts[at] += units[unit]
        counts[at] += held[unit] or Counter({"": len(units[unit])})
    return parts


def names_of(example: Example) -> tuple[str, ...]:
    """The names of an example's labels, one a label; none of an image without object."""
    match example.labels:
        case ImageClass(name=name):
            return (name,)
        case Boxes(names=names):
            return names
        case masks:
            return tuple(masks.by_name)


def _draw(unit: str, seed: int) -> bytes:
    return hashlib.blake2b(f"folds:{seed}:{unit}".encode(), digest_size=8).digest()
