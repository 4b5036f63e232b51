"""Uncertainty herding: images whose neighbourhoods cover as much of the pool's uncertainty as can be.

The greedy choice of argmax_{x'} mean_x U(x) · max(0, k(x, x') − max_{l labelled} k(x, l)) with the strategy's scores as
U and a Gaussian kernel k over embeddings (Bae, Oliveira & Sutherland 2025, "Uncertainty herding: one active learning
method for all label budgets"). Exact up to some thousand images; beyond, the mean runs over a sample of 8192 and the
choice over part of the pool (see ``ranking/coverage.py``). Scores below 0 are raised by the least of them, so that U ≥
0.
"""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.coverage import herd
from alpipe.acquisition.ranking.topk import checked, embeddings_of, keys_of
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = True


class Options(PluginOptions):
    """None."""


def build(options: Options) -> Herding:
    """The partner."""
    del options
    return Herding()


@final
class Herding:
    """Chooses by coverage weighted by scores."""

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        weights = candidates.scores - min(0.0, float(candidates.scores.min(initial=0.0)))
        points = embeddings_of(candidates)
        return keys_of(candidates, herd(points, weights, candidates.labelled.embeddings, checked(candidates, k), rng))
