"""Stochastic batches: of many random batches, the one of the highest mean score.

The pool is shuffled and cut into batches; all within one is random, so it is as diverse as chance, and between them the
scores decide. Gaillochet, Desrosiers & Lombaert 2023, "Active learning for medical image segmentation with stochastic
batches". It costs nothing. The larger k is beside the pool, the closer it is to a random choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from pydantic import Field

from alpipe.acquisition.ranking.topk import checked, keys_of, ranked
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False


class Options(PluginOptions):
    """How many batches are drawn."""

    batches: int = Field(1000, ge=1, description="Random batches compared; no more than the pool can be cut into.")


def build(options: Options) -> Stochastic:
    """The partner."""
    return Stochastic(options)


@final
@dataclass(frozen=True, slots=True)
class Stochastic:
    """Chooses the best of random batches, its largest scores first."""

    options: Options

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        if not checked(candidates, k):
            return []
        many = min(self.options.batches, len(candidates) // k)
        batches = rng.permutation(len(candidates))[: many * k].reshape(many, k)
        best = batches[int(np.argmax(candidates.scores[batches].mean(axis=1)))]
        return keys_of(candidates, best[ranked(candidates.scores[best], rng)])
