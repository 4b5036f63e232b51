"""Labels saved: how much less one arm pays than another for the same result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.isotonic import isotonic_regression

from alpipe.comparison.table import Curves, Floats

SHARES = (0.90, 0.95, 0.98)
RESAMPLES = 1000


class State(StrEnum):
    """What is known of a ratio of costs. Where a curve does not reach the target within its budget, or has reached it
    at its start, its cost is only bounded (censored), and so is the ratio.
    """

    EXACT = "exact"
    AT_LEAST = "at least"
    AT_MOST = "at most"
    NEITHER = "neither reached it"
    START = "both had it at the start"


class Crossing(NamedTuple):
    """Where a curve reaches a target: −1 its cost is at most this, +1 it is more than this, 0 it is this."""

    cost: float
    beyond: int


class Saving(NamedTuple):
    """A ratio of costs, or a bound of it; NaN where nothing is known."""

    value: float
    state: State


@dataclass(frozen=True, slots=True)
class Saved:
    """LSR at one target. ``low`` and ``high`` bound 95 % of the resamples: 0 and infinity where these are censored;
    None for a single seed. ``states`` counts what the resamples came to.
    """

    share: float
    target: float
    saving: Saving
    low: float | None
    high: float | None
    states: dict[str, int]


def monotone(values: Floats) -> Floats:
    """The nearest curve that never falls (isotonic least squares): more labels are not taken to make a model worse."""
    fitted: Floats = isotonic_regression(values)
    return fitted


def crossing(cost: Floats, fitted: Floats, target: float) -> Crossing:
    """Where a curve that never falls first reaches the target, on the straight lines between its points."""
    reached = np.flatnonzero(fitted >= target)
    if not reached.size:
        return Crossing(float(cost[-1]), +1)
    after = int(reached[0])
    if after == 0:
        return Crossing(float(cost[0]), -1)
    rise = fitted[after] - fitted[after - 1]
    part = (target - fitted[after - 1]) / rise
    return Crossing(float(cost[after - 1] + part * (cost[after] - cost[after - 1])), 0)


def cheapest(some: Sequence[Crossing]) -> Crossing:
    """The crossing of whichever curve reaches the target first, or what is known of it: no more than what any paid that
    had the target at its start, more than the smallest budget where all that ended sooner had not reached it.
    """
    there = [one.cost for one in some if one.beyond <= 0]
    short = [one.cost for one in some if one.beyond > 0]
    if any(one.beyond < 0 for one in some):
        return Crossing(min(there), -1)
    if not there or (short and min(short) < min(there)):
        return Crossing(min(short), +1)
    return Crossing(min(there), 0)


def saving(baseline: Crossing, other: Crossing) -> Saving:
    """cost of the baseline / cost of the other, or what is known of it."""
    match baseline.beyond, other.beyond:
        case 1, 1:
            return Saving(np.nan, State.NEITHER)
        case -1, -1:
            return Saving(1.0, State.START)
    if other.cost <= 0:
        return Saving(np.nan, State.NEITHER)
    ratio = baseline.cost / other.cost
    if baseline.beyond == other.beyond == 0:
        return Saving(ratio, State.EXACT)
    return Saving(ratio, State.AT_LEAST if baseline.beyond > other.beyond else State.AT_MOST)


def labels_saved(
    baselines: Sequence[Curves],
    other: Curves,
    full: Floats | None,
    *,
    shares: Sequence[float] = SHARES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Saved]:
    """LSR at each share of the full-data result: cost of the baseline over cost of the other arm. Of several baselines
    at each target the cheapest counts, in each resample anew.

    All arms have the same seeds, and ``full`` the full-data result of each, (S,); None stands for the first baseline's
    last result. Curves are the means over seeds, round by round, of cost and of value, made monotone. The interval
    draws whole seeds with replacement, the same ones for all arms and for the full-data result, ``resamples`` times
    (percentile bootstrap); a resample in which an arm does not reach the target counts with its bound on one side and
    as 0 or infinity on the other: censoring widens the interval and never drops a resample.
    """
    count = len(other.seeds)
    reference = baselines[0].value[:, -1] if full is None else np.asarray(full, np.float64)
    everyone = np.arange(count)
    point = _savings(baselines, other, reference, everyone, shares)
    drawn: list[list[Saving]] = []
    if count > 1:
        rng = np.random.default_rng(seed)
        with config_context(skip_parameter_validation=True):  # it costs more than the fits themselves
            drawn = [
                _savings(baselines, other, reference, rows, shares)
                for rows in rng.integers(0, count, (resamples, count))
            ]
    found = []
    for at, share in enumerate(shares):
        some = [one[at] for one in drawn]
        low = high = None
        if some:
            low = float(np.quantile([_bounds(one)[0] for one in some], 0.025, method="lower"))
            high = float(np.quantile([_bounds(one)[1] for one in some], 0.975, method="higher"))
        states = dict(Counter(str(one.state) for one in some))
        found.append(Saved(share, float(share * reference.mean()), point[at], low, high, states))
    return found


def _savings(
    baselines: Sequence[Curves],
    other: Curves,
    reference: Floats,
    rows: npt.NDArray[np.int64],
    shares: Sequence[float],
) -> list[Saving]:
    means = [(c.cost[rows].mean(axis=0), monotone(c.value[rows].mean(axis=0))) for c in (*baselines, other)]
    found = []
    for share in shares:
        target = share * float(reference[rows].mean())
        *theirs, ours = (crossing(cost, fitted, target) for cost, fitted in means)
        found.append(saving(cheapest(theirs), ours))
    return found


def _bounds(one: Saving) -> tuple[float, float]:
    """The least and the most that the ratio can be."""
    match one.state:
        case State.AT_LEAST:
            return one.value, np.inf
        case State.AT_MOST:
            return 0.0, one.value
        case State.NEITHER:
            return 0.0, np.inf
        case _:
            return one.value, one.value
