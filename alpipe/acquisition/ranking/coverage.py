"""Herding: points whose neighbourhoods cover as much of the weight of all points as can be.

The value of a set S is Σ_x U(x) · max_{s in S} k(x, s) with k(x, s) = exp(−|x − s|² / 2σ²); each step adds the point
that raises it most, beyond what the labelled points cover (MaxHerding: Bae, Noh, Sutherland 2024, "Generalized coverage
for more robust low-budget active learning"; weighted by uncertainties U: Bae, Oliveira, Sutherland 2025, "Uncertainty
herding: one active learning method for all label budgets"). The value is submodular: what a point adds never grows as
others join. So gains found before are upper bounds, and only points at the head of the queue are looked at again
(Minoux 1978); the choice is the same as without that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

REFERENCES = 8192
"""Points x over which the value is summed at most. Of more points so many are drawn, with a chance proportional to U:
the sum is then an unbiased estimate, good to some 1 / √8192 of the whole.
"""

CANDIDATES_EACH = 10
"""Points considered for each that is wanted: so many of the heaviest, and as many of the others at random."""

LEAST_CANDIDATES = 4096
AT_ONCE = 32

Points = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


def herd(points: Points, weights: Values, labelled: Points | None, k: int, rng: np.random.Generator) -> list[int]:
    """Indices of k of the (N, D) points, in the order in which they were chosen.

    ``weights`` (N,) are U ≥ 0; ``labelled`` (M, D) points cover already. Exact for N ≤ min(REFERENCES,
    LEAST_CANDIDATES); for more, the sum runs over a sample and the choice over a part (see the constants). σ is
    ``bandwidth`` of all. Of equal gains the first in a random order is taken.
    """
    if not k:
        return []
    n = len(points)
    weights = weights if weights.sum() > 0 else np.ones(n)
    sample: npt.NDArray[np.intp]
    if n <= REFERENCES:
        sample, mass = np.arange(n), weights
    else:
        sample = rng.choice(n, REFERENCES, p=weights / weights.sum())
        mass = np.ones(REFERENCES)
    some = _considered(weights, k, rng)
    sigma = bandwidth(points, sample, labelled, k, rng)
    origin = points[sample].mean(axis=0)  # far from it, products of float32 would lose the distances between points
    known = None if labelled is None else labelled - origin
    return [int(some[at]) for at in herd_exactly(points[some] - origin, points[sample] - origin, mass, known, sigma, k)]


def herd_exactly(
    candidates: Points, references: Points, mass: Values, labelled: Points | None, sigma: float, k: int
) -> list[int]:
    """Indices of k of the (N, D) candidates by the greedy rule over (R, D) references of weight ``mass`` (R,)."""
    covered = np.zeros(len(references), np.float32)
    factors = _right(references, sigma)
    if labelled is not None:
        for start in range(0, len(labelled), 512):
            np.maximum(covered, _exponential(labelled[start : start + 512], factors, sigma).max(axis=0), out=covered)
    weight = mass.astype(np.float32)
    bound = np.concatenate(
        [np.zeros(0)]
        + [
            _gains(candidates[start : start + 512], factors, weight, covered, sigma)
            for start in range(0, len(candidates), 512)
        ]
    )
    chosen: list[int] = []
    fresh = np.ones(len(candidates), bool)
    for _ in range(k):
        while not fresh[at := int(np.argmax(bound))]:
            stale = np.flatnonzero(~fresh & (bound > -np.inf))
            head = stale if len(stale) <= AT_ONCE else stale[np.argpartition(-bound[stale], AT_ONCE)[:AT_ONCE]]
            head = np.union1d(head, [at])
            bound[head] = _gains(candidates[head], factors, weight, covered, sigma)
            fresh[head] = True
        chosen.append(at)
        np.maximum(covered, _exponential(candidates[at : at + 1], factors, sigma)[0], out=covered)
        bound[at] = -np.inf
        fresh[:] = False
    return chosen


def kernel(a: Points, b: Points, sigma: float) -> Points:
    """(A, B) Gaussian kernel exp(−|a − b|² / 2σ²), float32."""
    return _exponential(a, _right(b, sigma), sigma)


def bandwidth(
    points: Points, sample: npt.NDArray[np.intp], labelled: Points | None, k: int, rng: np.random.Generator
) -> float:
    """σ: the median distance of a sampled point to the nearest of as many random points as there will be labels.

    So it is the width at which k + M points, thrown anywhere, reach half of all, and it shrinks as labels grow, which
    uncertainty herding shows to matter; its authors take the smallest distance between labelled points, which one pair
    of near-copies would bring to nothing. 1 where all points are copies.
    """
    some = points[sample[rng.permutation(len(sample))[:1024]]]
    many = min(len(points), 4096, k + (0 if labelled is None else len(labelled)))
    centres = points[rng.permutation(len(points))[:many]]
    origin = centres.mean(axis=0)
    some, centres = some - origin, centres - origin
    squares = np.einsum("nd,nd->n", some, some)[:, None] + np.einsum("nd,nd->n", centres, centres)
    distances = np.sqrt(np.maximum(squares - 2 * (some @ centres.T), 0))
    apart = distances > 1e-3 * np.sqrt(squares)  # a point is no distance to itself, but for rounding
    near = np.where(apart, distances, np.inf).min(axis=1)
    near = near[np.isfinite(near)]
    return float(np.median(near)) if len(near) else 1.0


def _considered(weights: Values, k: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    order: npt.NDArray[np.intp] = np.lexsort((rng.permutation(len(weights)), -weights))
    many = max(LEAST_CANDIDATES // 2, CANDIDATES_EACH * k)
    if len(order) <= 2 * many:
        return order
    return np.concatenate([order[:many], rng.permutation(order[many:])[:many]])


def _gains(some: Points, factors: Points, weight: Points, covered: Points, sigma: float) -> Values:
    """(B,) what each would add to the value."""
    more = _exponential(some, factors, sigma)
    more -= covered
    np.maximum(more, 0, out=more)
    return np.asarray(more @ weight, np.float64)


def _right(points: Points, sigma: float) -> Points:
    """(D + 2, B) [b, −|b|²/2, 1] / σ: the right factor of the exponents, made once for many left ones."""
    scaled = points / np.float32(sigma)
    squares = np.einsum("nd,nd->n", scaled, scaled)[:, None]
    return np.ascontiguousarray(np.concatenate([scaled, -0.5 * squares, np.ones_like(squares)], axis=1).T, np.float32)


def _exponential(some: Points, factors: Points, sigma: float) -> Points:
    """(A, B) the kernel by one product: [a, 1, −|a|²/2] · [b, −|b|²/2, 1] = −|a − b|²/2, all over σ."""
    scaled = some / np.float32(sigma)
    squares = np.einsum("nd,nd->n", scaled, scaled)[:, None]
    exponents = np.concatenate([scaled, np.ones_like(squares), -0.5 * squares], axis=1, dtype=np.float32) @ factors
    np.minimum(exponents, 0, out=exponents)
    return np.asarray(np.exp(exponents, out=exponents), np.float32)
