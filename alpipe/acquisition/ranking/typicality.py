"""The most typical point of each of many clusters.

TypiClust: Hacohen, Dekel & Weinshall 2022, "Active learning on a budget: opposite strategies suit high and low
budgets".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 20
"""Nearest neighbours within the cluster over which the distance is averaged."""

MOST_CLUSTERS = 500
"""As in the authors' code: more would be too small to tell what is typical."""

EXACT = 5_000
"""Points up to which k-means looks at all of them in each step; beyond, at batches."""

Points = npt.NDArray[np.float32]


def typical_points(points: Points, labelled: Points | None, k: int, rng: np.random.Generator) -> list[int]:
    """Indices of k different ones of (N, D) points, from the largest cluster without a labelled point downwards.

    Clusters are those of k-means with min(MOST_CLUSTERS, k + M) centres over the points and the M labelled ones
    together. Once every cluster has a labelled or chosen point, those with the fewest of them come first, the larger
    one first.
    """
    if not k:
        return []
    known = points[:0] if labelled is None else labelled
    cluster = _clusters(np.concatenate([points, known]), min(MOST_CLUSTERS, len(points), k + len(known)), rng)
    of, covered = cluster[: len(points)], np.bincount(cluster[len(points) :], minlength=cluster.max() + 1)
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(len(covered) + 1))
    free = {at: list(order[starts[at] : starts[at + 1]]) for at in range(len(covered)) if starts[at] < starts[at + 1]}
    size = {at: len(rows) for at, rows in free.items()}
    ranked: dict[int, list[int]] = {}
    chosen: list[int] = []
    while len(chosen) < k:
        at = min(free, key=lambda one: (covered[one], -size[one], one))
        if at not in ranked:
            rows = np.array(free[at], np.intp)
            ranked[at] = [int(rows[one]) for one in np.argsort(typicality(points[rows]), kind="stable")]
        chosen.append(ranked[at].pop())
        covered[at] += 1
        if not ranked[at]:
            del free[at]
    return chosen


def typicality(members: Points) -> npt.NDArray[np.float64]:
    """(N,) the inverse of the mean distance of each member of a cluster to its NEIGHBOURS nearest others: larger is
    more typical; 1 for a point by itself.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import

    if len(members) == 1:
        return np.ones(1)
    many = min(NEIGHBOURS, len(members) - 1)
    distances, _ = NearestNeighbors(n_neighbors=many + 1, algorithm="brute").fit(members).kneighbors(members)
    return np.asarray(1 / (distances.sum(axis=1) / many + 1e-7), np.float64)


def _clusters(points: Points, k: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    distinct = len(np.unique(points, axis=0)) if len(points) <= EXACT else len(points)
    seed = int(rng.integers(2**31))
    if len(points) <= EXACT:
        made = KMeans(min(k, distinct), n_init=1, random_state=seed)
    else:
        made = MiniBatchKMeans(k, n_init=1, batch_size=4096, max_iter=20, random_state=seed)
    return np.asarray(made.fit_predict(points), np.intp)
