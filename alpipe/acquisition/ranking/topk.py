"""The k best out of scored keys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from alpipe.types import Score


def choose_top(scores: Sequence[Score], k: int, rng: np.random.Generator) -> list[str]:
    """The keys of the k largest values, best first; ties are broken at random.

    The order in which scores are given has no influence. Raises ValueError for a k that is negative or beyond the
    pool, for a value that is not finite and for a key that stands twice.
    """
    ordered = checked(scores, k)
    values = np.asarray([score.value for score in ordered], np.float64)
    best = np.lexsort((rng.permutation(len(ordered)), -values))
    return [ordered[at].key for at in best[:k]]


def choose_any(scores: Sequence[Score], k: int, rng: np.random.Generator) -> list[str]:
    """k keys drawn uniformly without replacement, whatever their values. Raises ValueError as ``choose_top`` does."""
    ordered = checked(scores, k)
    return [ordered[at].key for at in rng.permutation(len(ordered))[:k]]


def checked(scores: Sequence[Score], k: int) -> list[Score]:
    """The scores in the order of their keys, so that a seed means the same whatever order they came in."""
    ordered = sorted(scores, key=lambda score: score.key)
    if not 0 <= k <= len(ordered):
        raise ValueError(f"{k} images asked for, but the pool has {len(ordered)}")
    for score, following in pairwise(ordered):
        if score.key == following.key:
            raise ValueError(f"item {score.key} is scored twice")
    for score in ordered:
        if not np.isfinite(score.value):
            raise ValueError(f"the score of item {score.key} is {score.value}, not a finite number")
    return ordered
