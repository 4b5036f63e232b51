"""Areas, common budgets and bands of learning curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from alpipe.comparison.table import Curves, Floats


def common_range(all_curves: Sequence[Curves]) -> tuple[float, float]:
    """The costs that every curve covers: from the dearest start to the cheapest end."""
    return max(float(c.cost[:, 0].max()) for c in all_curves), min(float(c.cost[:, -1].min()) for c in all_curves)


def budgets(all_curves: Sequence[Curves]) -> Floats:
    """The costs at which curves are compared: those of the rounds after the start, which all arms share, where every
    curve has the same ones; else as many, evenly spaced over the common range. Empty where there is no such range.
    """
    first = all_curves[0].cost[0]
    if all((c.cost == first).all() for c in all_curves):
        return np.asarray(first[1:], np.float64)
    low, high = common_range(all_curves)
    return np.asarray(np.linspace(low, high, len(first))[1:] if high > low else [], np.float64)


def at(curves: Curves, costs: Floats) -> Floats:
    """(S, B) values at these costs, on the straight lines between the rounds."""
    rows = [np.interp(costs, cost, value) for cost, value in zip(curves.cost, curves.value, strict=True)]
    return np.asarray(rows, np.float64).reshape(len(curves.seeds), len(costs))


def aubc(curves: Curves, low: float, high: float) -> Floats:
    """(S,) area under each curve between two costs, divided by their distance: the mean value over the budget, in the
    metric's own unit (Zhan et al. 2021, "A comparative survey of benchmarking for pool-based active learning").

    NaN where the range is empty.
    """
    if high <= low:
        return np.full(len(curves.seeds), np.nan)
    areas = []
    for cost, value in zip(curves.cost, curves.value, strict=True):
        inside = np.unique(np.concatenate([[low, high], cost[(cost > low) & (cost < high)]]))
        areas.append(np.trapezoid(np.interp(inside, cost, value), inside) / (high - low))
    return np.asarray(areas, np.float64)


def half_width(values: Floats, confidence: float = 0.95) -> Floats:
    """Half the width of the t interval of the mean over the first axis (seeds); NaN for one seed."""
    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], np.nan)
    spread: Floats = values.std(axis=0, ddof=1) * stats.t.ppf(0.5 + confidence / 2, count - 1) / np.sqrt(count)
    return spread
