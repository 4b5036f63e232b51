"""What hard negatives and reviewed-empty images do to a training: which images a step sees, whatever the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from alpipe.learners.training.options import Auto
from alpipe.types import Item, Negative

Box: TypeAlias = tuple[float, float, float, float]

EmptyShare: TypeAlias = Annotated[float, Field(ge=0, le=0.9)] | Auto

EMPTY_SHARE = (
    "Share of images that people found empty in the training batches, if there are any; auto: as they are in the"
    " training set."
)

MORE_OFTEN = 2.0
"""How much more often an image with hard negatives is drawn than one without, by default."""


def boxes_by_item(negatives: Sequence[Negative]) -> dict[str, list[Box]]:
    """The boxes of the negatives, by the key of their item."""
    by_key: dict[str, list[Box]] = {}
    for negative in negatives:
        by_key.setdefault(negative.item_key, []).append(negative.box)
    return by_key


def is_hard(items: Sequence[Item], negatives: Sequence[Negative]) -> npt.NDArray[np.bool_]:
    """(N,) whether each item has a negative."""
    hard = {negative.item_key for negative in negatives}
    return np.array([item.key in hard for item in items], bool)


def chances(
    factors: npt.NDArray[np.float64],
    hard: npt.NDArray[np.bool_],
    empty: npt.NDArray[np.bool_],
    empty_share: float | Auto = "auto",
    more_often: float = MORE_OFTEN,
) -> npt.NDArray[np.float64]:
    """(N,) with which chance to draw each image: by its factor, ``more_often`` as often where it has hard negatives,
    with those without object an ``empty_share`` of all. Where all or none are empty, that share is what it is.
    """
    drawn = factors * np.where(hard, more_often, 1.0)
    if empty_share != "auto" and empty.any() and not empty.all():
        drawn = drawn / np.where(empty, drawn[empty].sum(), drawn[~empty].sum())
        drawn = drawn * np.where(empty, empty_share, 1 - empty_share)
    return np.asarray(drawn / drawn.sum(), np.float64)
