"""k points that cover all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 20
"""Numbers looked at together: blocks that stay in the processor's cache, and little memory."""

Points = npt.NDArray[np.float32]


def k_centres(points: Points, centres: Points | None, k: int) -> list[int]:
    """Indices of k of the (N, D) points, each the farthest from all (M, D) centres and points chosen before it.

    The greedy rule of Gonzalez (1985): the largest distance of a point to its nearest centre ends up at most twice
    as large as with the best k centres there are. Of points equally far the first is taken; without any centre to
    start from, the first point. Distances are Euclidean. Besides the points it takes O(N + BLOCK) memory, and
    O((M + k) N D) time, which is that of one product of matrices: products say which points may have come nearer, and
    only for these is the distance taken by differences, so that near points keep their digits and copies lie at
    exactly 0.
    """
    cover = _Cover(points)
    if centres is not None and len(centres):
        cover.approach_all(centres)
    chosen: list[int] = []
    for _ in range(k):
        at = int(np.argmax(cover.nearest))
        chosen.append(at)
        cover.approach(points[at])
        cover.nearest[at] = -1  # behind copies of it, which are at distance 0
    return chosen


class _Cover:
    """Squared distances of points to the nearest centre so far; −1 for points that are chosen."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._origin = points.mean(axis=0, dtype=np.float64).astype(np.float32) if len(points) else np.float32(0)
        self._squares = np.concatenate(
            [np.zeros(0, np.float32), *(self._square(points[part] - self._origin) for part in self._parts(1))]
        )
        # What a float32 product of D terms may be off by, relative to the squares of both points, with room to spare.
        self._slack = np.float32(8 * (points.shape[1] + 4) * np.finfo(np.float32).eps)
        self.nearest = np.full(len(points), np.inf)

    def approach(self, centre: Points) -> None:
        """Lowers the distances where the centre is nearer than those before."""
        moved = centre - self._origin
        square = np.float32(moved @ moved)
        for part in self._parts(1):
            squares = self._squares[part]
            # |a − o − m|² = |a − o|² − 2 (a − o)·m + |m|², without making a − o: a·m less o·m
            rough = squares + square - 2 * (self._points[part] @ moved - self._origin @ moved)
            rough -= self._off(squares, square)
            self._exact(part, np.flatnonzero(rough < self.nearest[part]), centre[None])

    def approach_all(self, centres: Points) -> None:
        """``approach`` for (M, D) centres, many at a time."""
        for start in range(0, len(centres), 1024):
            some = centres[start : start + 1024]
            moved = some - self._origin
            squares_of_some = self._square(moved)
            # [a − o, 1] · [−2m, |m|²] = |a − o − m|² − |a − o|²: one product, as each look at all pairs costs as much
            factors = np.concatenate([-2 * moved, squares_of_some[:, None]], axis=1).T.copy()
            for part in self._parts(1 + len(some) // max(1, self._points.shape[1])):
                squares = self._squares[part]
                ones = np.ones((len(squares), 1), np.float32)
                rough = np.concatenate([self._points[part] - self._origin, ones], axis=1) @ factors
                off = self._off(squares, squares_of_some.max())
                bound = np.minimum(rough.min(axis=1) + 2 * off, self.nearest[part] - squares + off)
                rows, columns = divmod(np.flatnonzero((rough <= bound[:, None].astype(np.float32)).ravel()), len(some))
                self._exact(part, rows, some[columns])

    def _exact(self, part: slice, rows: npt.NDArray[np.intp], centres: Points) -> None:
        difference = self._points[part][rows] - centres
        np.minimum.at(self.nearest[part], rows, np.einsum("nd,nd->n", difference, difference))

    def _off(self, squares: Points, others: Points | np.float32) -> Points:
        # the origin's own square: products with points that are not moved are as far off as it is long
        return np.asarray(self._slack * (squares + others + 2 * np.float32(np.sum(np.square(self._origin)))))

    def _parts(self, columns: int) -> list[slice]:
        rows = max(1, BLOCK // max(1, self._points.shape[1] * columns))
        return [slice(start, start + rows) for start in range(0, len(self._points), rows)]

    @staticmethod
    def _square(moved: Points) -> Points:
        return np.asarray(np.einsum("nd,nd->n", moved, moved), np.float32)
