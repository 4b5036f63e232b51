"""Spreading: not all of a batch from one video or patient, and no two frames that follow each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.ranking.names import frame
from alpipe.types import Item


def apart(
    items: Sequence[Item], order: npt.NDArray[np.intp], distance: int, known: Iterable[Item]
) -> npt.NDArray[np.bool_]:
    """(N,) which of the items stay: in the ``order`` of preference (N,), each whose number is more than ``distance``
    away from those of all that stay before it and of all ``known`` ones of its group and name. A name is what stands
    before the last number in a file's name, its folder included. Items without a group or a number stay.
    """
    stays = np.ones(len(items), bool)
    taken: dict[tuple[str, str, int], int] = {}  # of any distance + 1 numbers in a row at most one stays
    width = distance + 1

    def place(item: Item) -> tuple[str, str, int] | None:
        found = frame(item.uri) if item.group is not None else None
        return (str(item.group), *found) if found else None

    occupied: dict[tuple[str, str, int], list[int]] = {}
    for item in known:
        if at := place(item):
            occupied.setdefault((at[0], at[1], at[2] // width), []).append(at[2])
    for row in order.tolist():
        at = place(items[row])
        if at is None:
            continue
        group, name, number = at
        near = [(group, name, number // width + step) for step in (-1, 0, 1)]
        if any(abs(taken[one] - number) <= distance for one in near if one in taken) or any(
            abs(other - number) <= distance for one in near for other in occupied.get(one, ())
        ):
            stays[row] = False
        else:
            taken[near[1]] = number
    return stays


class FairShare:
    """How many images of each group a batch may still take. Images without a group are one by themselves."""

    def __init__(self, items: Sequence[Item], k: int, share: float) -> None:
        groups = {item.group for item in items if item.group is not None}
        units = len(groups) + sum(item.group is None for item in items)
        self.most = max(1, math.ceil(share * k / max(1, units)))
        """Of one group: ``share`` times what would be its even part of the batch of k."""
        self._taken: Counter[str] = Counter()

    def take(self, item: Item) -> bool:
        """Counts the item in, if its group has room."""
        if self.full(item):
            return False
        if item.group is not None:
            self._taken[item.group] += 1
        return True

    def full(self, item: Item) -> bool:
        """Whether the item's group has had its share."""
        return item.group is not None and self._taken[item.group] >= self.most
