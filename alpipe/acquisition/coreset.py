"""Core-set: images spread over the whole pool, so that none lies far from a labelled one (Sener & Savarese 2018).

Which images these are is said by the distances between embeddings alone; what the learner is uncertain of has no
influence. "Active learning for convolutional neural networks: a core-set approach": the greedy rule, k-centre.
"""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.centres import k_centres
from alpipe.acquisition.ranking.topk import checked, embeddings_of, keys_of
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = True
COLD_START = True


class Options(PluginOptions):
    """None."""


def build(options: Options) -> CoreSet:
    """The strategy; it scores every image with 0."""
    del options
    return CoreSet()


@final
class CoreSet:
    """Chooses by k-centre greedy over embeddings, with the labelled images as the first centres."""

    def score(self, prediction: Prediction) -> float:
        del prediction
        return 0.0

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        points = embeddings_of(candidates)
        shuffled = rng.permutation(len(candidates))  # the order of the keys does not decide between equals
        centres = k_centres(points[shuffled], candidates.labelled.embeddings, checked(candidates, k))
        return keys_of(candidates, shuffled[centres])
