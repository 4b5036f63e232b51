"""k points that stand for clusters of points: k-medoids, weighted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROUNDS = 20
"""Rounds of reassignment at most; it mostly settles in fewer."""

LARGEST = 2048
"""Of a cluster, the members that are tried as its medoid at most: the nearest ones to its mean."""

Points = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


def k_medoids(points: Points, weights: Values, k: int, rng: np.random.Generator) -> list[int]:
    """Indices of k different ones of (N, D) points: each the member of its cluster with the least weighted sum of
    distances to the others.

    Alternates between assigning points to the nearest medoid and choosing each cluster's medoid (Park & Jun 2009, "A
    simple and fast algorithm for k-medoids clustering"), from a start by k-means++ (Arthur & Vassilvitskii 2007);
    ``weights`` (N,) ≥ 0 multiply distances. O(N k D) time a round.
    """
    points = points - points.mean(axis=0)
    weights = weights if weights.sum() > 0 else np.ones(len(points))
    medoids = seeds(points, weights, k, rng)
    for _ in range(ROUNDS if k else 0):
        nearest = assign(points, points[medoids])
        nearest[medoids] = np.arange(k)  # copies of a medoid do not empty its cluster
        order = np.argsort(nearest, kind="stable")
        members = np.split(order, np.searchsorted(nearest[order], np.arange(1, k)))
        better = np.array([_medoid(points, weights, rows) for rows in members], np.intp)
        if np.array_equal(better, medoids):
            break
        medoids = better
    return [int(at) for at in medoids]


def seeds(points: Points, weights: Values, k: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """(k,) different rows drawn one after another with a chance proportional to weight times squared distance to those
    drawn before (k-means++); where no chance is left, the first free ones in random order.
    """
    nearest = np.full(len(points), np.inf)
    chance = weights.copy()
    chosen: list[int] = []
    for _ in range(k):
        at = draw(chance, chosen, rng)
        chosen.append(at)
        difference = points - points[at]
        np.minimum(nearest, np.einsum("nd,nd->n", difference, difference), out=nearest)
        chance = weights * nearest
    return np.array(chosen, np.intp)


def draw(chance: Values, taken: list[int], rng: np.random.Generator) -> int:
    """A row with probability proportional to its chance ≥ 0, none that is taken; any free one where all have none. The
    chances of rows that are taken are set to 0.
    """
    chance[taken] = 0
    sums = np.cumsum(chance)  # one look at all; Generator.choice takes several
    if len(sums) and sums[-1] > 0:
        at = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
        return at if at < len(sums) else int(np.flatnonzero(chance)[-1])
    free = np.ones(len(chance), bool)
    free[taken] = False
    return int(rng.choice(np.flatnonzero(free)))


def assign(points: Points, centres: Points) -> npt.NDArray[np.intp]:
    """(N,) index of the nearest centre of each point; the first of equally near ones."""
    squares = np.einsum("nd,nd->n", centres, centres)
    rows = max(1, (1 << 22) // max(1, len(centres)))
    parts = [
        np.argmin(squares - 2 * (points[start : start + rows] @ centres.T), axis=1)
        for start in range(0, len(points), rows)
    ]
    return np.concatenate([np.zeros(0, np.intp), *parts])


def _medoid(points: Points, weights: Values, rows: npt.NDArray[np.intp]) -> int:
    if len(rows) > LARGEST:
        middle = np.average(points[rows], axis=0, weights=weights[rows] + 1e-12)
        from_middle = np.square(points[rows] - middle).sum(axis=1)
        rows = np.sort(rows[np.argpartition(from_middle, LARGEST)[:LARGEST]])
    some = points[rows].astype(np.float64)
    squares = np.einsum("nd,nd->n", some, some)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * (some @ some.T), 0))
    return int(rows[np.argmin(apart @ weights[rows])])
