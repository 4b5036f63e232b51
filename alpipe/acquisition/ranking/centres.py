"""k points that cover all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 20
"""Numbers looked at together: blocks that stay in the processor's cache, and little memory."""


def k_centres(points: npt.NDArray[np.float32], centres: npt.NDArray[np.float32] | None, k: int) -> list[int]:
    """Indices of k of the (N, D) points, each the farthest from all (M, D) centres and points chosen before it.

    The greedy rule of Gonzalez (1985): the largest distance of a point to its nearest centre ends up at most twice
    as large as with the best k centres there are. Of points equally far the first is taken; without any centre to
    start from, the first point. Distances are Euclidean. Besides the points it takes O(N + BLOCK) memory, and
    O((M + k) N D) time.
    """
    nearest = np.full(len(points), np.inf)
    for centre in () if centres is None else centres:
        _approach(nearest, points, centre)
    chosen: list[int] = []
    for _ in range(k):
        at = int(np.argmax(nearest))
        chosen.append(at)
        _approach(nearest, points, points[at])
        nearest[at] = -1  # behind copies of it, which are at distance 0
    return chosen


def _approach(
    nearest: npt.NDArray[np.float64], points: npt.NDArray[np.float32], centre: npt.NDArray[np.float32]
) -> None:
    """Lowers the squared distances to the nearest centre where the new one is nearer; chosen points stay at −1."""
    rows = max(1, BLOCK // max(1, points.shape[1]))
    for start in range(0, len(points), rows):
        block = slice(start, start + rows)
        # Differences, not |a|² + |b|² − 2ab: near points keep their digits, and copies are at exactly 0.
        difference = points[block] - centre
        np.minimum(nearest[block], np.einsum("nd,nd->n", difference, difference), out=nearest[block])
