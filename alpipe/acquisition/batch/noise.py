"""Noise on scores: a cheap guard against a batch of near-copies, and against trusting an early model.

Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron & Gal 2023, "Stochastic batch acquisition: a simple baseline
for deep active learning". With G from a Gumbel distribution and β > 0, the k largest of log s + G/β are k draws without
replacement with chances proportional to s^β (power); of s + G/β to e^{βs} (softmax); of −log r + G/β to r^{−β}, r the
rank (softrank). β grows over the rounds: at 1 the choice is close to chance, at 100 to the largest scores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.batch.options import Noise
from alpipe.acquisition.ranking.topk import ranked
from alpipe.errors import ConfigError

Values = npt.NDArray[np.float64]


def beta(noise: Noise, round_: int) -> float:
    """β in a round; round 1 is the first with a model."""
    passed = min(1.0, max(0, round_ - 1) / noise.rounds)
    return float(noise.first * (noise.last / noise.first) ** passed)


def noisy(scores: Values, noise: Noise, round_: int, rng: np.random.Generator) -> Values:
    """(N,) scores with noise, in the order of log s + G/β and of its like; power and softrank stay at 0 or above, as
    s · e^{G/β} and e^{G/β} / r. Raises ConfigError for power where a score is below 0.
    """
    gumbel = rng.gumbel(size=len(scores)) / beta(noise, round_)
    match noise.kind:
        case "power":
            if scores.min(initial=0) < 0:
                raise ConfigError(
                    "batch_with: noise of kind 'power' needs scores of 0 and above, and the strategy gives"
                    f" {scores.min():.3g}: set its kind to softrank"
                )
            return np.asarray(scores * np.exp(gumbel), np.float64)
        case "softmax":
            return np.asarray(scores + gumbel, np.float64)
        case "softrank":
            rank = np.empty(len(scores))
            rank[ranked(scores, rng)] = np.arange(1, len(scores) + 1)
            return np.asarray(np.exp(gumbel) / rank, np.float64)
