"""The control slice of a batch: images drawn at random before the strategy chooses, so that they stand for the pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FROM = 10
"""Images a batch from which at least one is a control."""

STREAM = 0xC0
"""Sets the draw apart from all else that is random in a round: with or without it the rest is drawn alike."""


def control_size(share: float, k: int) -> int:
    """How many of a batch of k images are controls: about the share, none at a share of 0."""
    if share <= 0:
        return 0
    return max(round(share * k), 1 if k >= FROM else 0)


def draw_control(keys: Sequence[str], count: int, seed: int, round_: int) -> npt.NDArray[np.intp]:
    """(count,) ascending rows of ``keys``, drawn uniformly without replacement: every image of the pool has the same
    chance, whatever its score, group or neighbours. The same keys in the same order, seed and round give the same rows.
    """
    rng = np.random.default_rng([seed, round_, STREAM])
    return np.sort(rng.choice(len(keys), count, replace=False)).astype(np.intp)
