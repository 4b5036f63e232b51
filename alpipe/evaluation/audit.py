"""What choosing has brought: how wrong models were on the images that they chose, beside images drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000

EVEN: Floats = np.array([0.0, 1.0])
"""What is thrown in with the resamples: errors of either side."""

CONTROLS, ROUNDS = 10, 3
"""Control images, and rounds that they are of, from which on anything is concluded."""


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """A round whose batch was answered: errors in [0, 1] of the model that chose, on images ``chosen`` (N,) by the
    strategy and on the ``control`` images (M,), as far as these are labelled. Neither may be empty.
    """

    round: int
    chosen: Floats
    control: Floats


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the bounds of 95 % of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean errors in [0, 1] of chosen and of control images, and their ``ratio``: 2 says that chosen images were twice
    as wrong. It may be infinite, where no control image was wrong, and is NaN where no image was wrong at all.
    ``control`` is also an estimate of the error on the unlabelled pool of these rounds.
    """

    chosen: Interval
    control: Interval
    ratio: Interval
    rounds: int
    chosen_images: int
    control_images: int

    @property
    def enough(self) -> bool:
        """Whether there are images enough to conclude anything."""
        return self.control_images >= CONTROLS and self.rounds >= ROUNDS


def compare(rounds: Sequence[Audited], *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Chosen beside control images, over at least one round.

    Models get better from round to round, so a round has the same weight on both sides: the number of its control
    images. Intervals are those of a two-stage bootstrap: rounds are drawn with replacement, and within each drawn round
    its chosen and its control images (Davison & Hinkley 1997, "Bootstrap methods and their application", section
    3.8). For the intervals alone one round more is thrown in, in which both sides were right once and wrong once: where
    no control image happened to be wrong, resamples of nothing but zeros would say that none ever is. That makes them
    wide rather than narrow. Resamples without any wrong image bound the ratio by 0 below and infinity above.
    """
    weights = np.array([len(one.control) for one in rounds], np.float64)
    sides = [[one.chosen for one in rounds], [one.control for one in rounds]]
    chosen, control = (float(np.average([errors.mean() for errors in side], weights=weights)) for side in sides)
    rng = np.random.default_rng(seed)
    within = [np.stack([_resampled_means(errors, resamples, rng) for errors in [*side, EVEN]]) for side in sides]
    drawn = rng.integers(0, len(rounds) + 1, (resamples, len(rounds) + 1))
    columns, weight = np.arange(resamples)[:, None], np.append(weights, len(EVEN))[drawn]
    of_chosen, of_control = ((means[drawn, columns] * weight).sum(axis=1) / weight.sum(axis=1) for means in within)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, ratios = float(np.float64(chosen) / np.float64(control)), of_chosen / of_control
    nothing = np.isnan(ratios)
    bounds = _bounds(np.where(nothing, 0.0, ratios))[0], _bounds(np.where(nothing, np.inf, ratios))[1]
    return Comparison(
        Interval(chosen, *_bounds(of_chosen)),
        Interval(control, *_bounds(of_control)),
        Interval(ratio, *bounds),
        len(rounds),
        sum(len(one.chosen) for one in rounds),
        int(weights.sum()),
    )


def verdict(found: Comparison | None, strategy: str) -> str:
    """What the comparison says, in one sentence."""
    if found is None or not found.enough:
        controls, rounds = (0, 0) if found is None else (found.control_images, found.rounds)
        return (
            f"too few to tell what choosing by {strategy} brings: {controls} control images of {rounds} rounds are"
            f" labelled, {CONTROLS} of {ROUNDS} are needed"
        )
    ratio = found.ratio
    of = f"{found.chosen_images} chosen and {found.control_images} control images of {found.rounds} rounds"
    if np.isnan(ratio.value):
        return f"the model was wrong on none of {of}"
    seen = f"95 %: {_times(ratio.low)}–{_times(ratio.high)}; {of}"
    if ratio.low > 1:
        return f"images chosen by {strategy} were {_times(ratio.value)} times as wrong as random ones ({seen})"
    if ratio.high < 1:
        return f"images chosen by {strategy} were less wrong than random ones, {_times(ratio.value)} times ({seen})"
    so_far = f"{_times(ratio.value)} times as wrong as random ones ({seen})"
    if ratio.value > 1 + 1e-9:
        return f"it is not certain yet that choosing by {strategy} finds harder images than chance: {so_far}"
    return f"choosing by {strategy} has found nothing harder than chance so far: {so_far}"


def _times(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _resampled_means(errors: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """(resamples,) means of as many errors drawn with replacement."""
    return np.asarray(errors[rng.integers(0, len(errors), (resamples, len(errors)))].mean(axis=1), np.float64)


def _bounds(values: Floats) -> tuple[float, float]:
    low = np.quantile(values, 0.025, method="lower")
    return float(low), float(np.quantile(values, 0.975, method="higher"))
