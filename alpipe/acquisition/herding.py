"""Herding: images whose neighbourhoods cover as much of the pool as can be, in the space of embeddings.

The greedy choice of argmax_{x'} mean_x max(0, k(x, x') − max_{l labelled} k(x, l)) with a Gaussian kernel k
(MaxHerding: Bae, Noh, Sutherland 2024): uncertainty herding with U = 1, as it is right before there is a model to be
uncertain, and while labels are few. With a strategy that scores, the same rule weighted by its scores is the batch
partner ``herding``.
"""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.coverage import herd
from alpipe.acquisition.ranking.topk import checked, embeddings_of, keys_of
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = True
COLD_START = True


class Options(PluginOptions):
    """None."""


def build(options: Options) -> Herding:
    """The strategy; it scores every image with 0."""
    del options
    return Herding()


@final
class Herding:
    """Chooses by coverage alone."""

    def score(self, prediction: Prediction) -> float:
        del prediction
        return 0.0

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        points = embeddings_of(candidates)
        weights = np.ones(len(candidates))
        rows = herd(points, weights, candidates.labelled.embeddings, checked(candidates, k), rng)
        return keys_of(candidates, rows)
