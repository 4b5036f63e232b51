"""Random: every image of the pool with the same chance, the baseline that each strategy has to beat."""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.topk import choose_any
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False
COLD_START = True


class Options(PluginOptions):
    """None."""


def build(options: Options) -> Random:
    """The strategy; it scores every image with 0."""
    del options
    return Random()


@final
class Random:
    """Chooses uniformly without replacement and pays no heed to scores."""

    def score(self, prediction: Prediction) -> float:
        del prediction
        return 0.0

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        return choose_any(candidates, k, rng)
