"""Tests of arms against each other, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from alpipe.comparison.table import Floats

LEVEL = 0.05


def paired_t(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """(t, p) of the two-sided paired t-test over the first axis (seeds); t > 0 where a is larger.

    NaN for fewer than two pairs. Where all differences are the same number the statistic has no spread to compare
    with: p is 1 if that number is 0, and 0 otherwise.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    count = len(difference)
    if count < 2:
        nothing = np.full(difference.shape[1:], np.nan)
        return nothing, nothing
    mean, error = difference.mean(axis=0), difference.std(axis=0, ddof=1) / np.sqrt(count)
    flat = error == 0
    t = np.where(flat, np.where(mean == 0, 0.0, np.copysign(np.inf, mean)), mean / np.where(flat, 1.0, error))
    return t, 2 * stats.t.sf(np.abs(t), count - 1)


def holm(p: Sequence[float] | Floats) -> Floats:
    """p-values adjusted by Holm's step-down method (Holm 1979): the i-th smallest of n times n − i + 1, never falling,
    at most 1. A NaN is no test: it stays NaN and does not count among the n.
    """
    given = np.asarray(p, np.float64)
    adjusted = np.full(given.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return adjusted


def penalties(values: Mapping[str, Floats], level: float = LEVEL) -> dict[str, dict[str, float]]:
    """The pairwise penalty matrix of Ash et al. 2020 ("Deep batch active learning by diverse, uncertain gradient lower
    bounds"), as row → column → share.

    ``values`` are (S, B): a row a seed, a column a budget, the same seeds and budgets for every arm. At each budget the
    row's arm and the column's are compared by a paired t-test; where the row's is better with p < ``level``, 1/B is
    added. So an entry is the share of budgets at which the row beats the column; it is the COLUMN that loses, and the
    smaller the mean of its column, the better an arm.
    """
    matrix: dict[str, dict[str, float]] = {}
    for row, better in values.items():
        matrix[row] = {}
        for column, worse in values.items():
            t, p = paired_t(better, worse)
            wins = (p < level) & (t > 0)  # a NaN is no win
            matrix[row][column] = float(wins.mean()) if wins.size else 0.0
    return matrix


def mean_losses(matrix: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Of each arm the mean of its column over the other arms: how often it is beaten."""
    return {
        arm: float(np.mean([row[arm] for other, row in matrix.items() if other != arm])) if len(matrix) > 1 else 0.0
        for arm in matrix
    }
