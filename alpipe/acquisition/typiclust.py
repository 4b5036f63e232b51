"""TypiClust: the most typical image of each of the largest clusters that have no labelled image yet.

Embeddings of labelled images and pool together are clustered by k-means into as many clusters as there will be labels;
of each cluster, the largest uncovered one first, the image with the smallest mean distance to its 20 nearest neighbours
is taken. For the first labels; with many it falls behind uncertainty. Hacohen, Dekel & Weinshall 2022, "Active learning
on a budget: opposite strategies suit high and low budgets".
"""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.topk import checked, embeddings_of, keys_of
from alpipe.acquisition.ranking.typicality import typical_points
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = True
COLD_START = True


class Options(PluginOptions):
    """None."""


def build(options: Options) -> TypiClust:
    """The strategy; it scores every image with 0."""
    del options
    return TypiClust()


@final
class TypiClust:
    """Chooses by clusters and typicality alone."""

    def score(self, prediction: Prediction) -> float:
        del prediction
        return 0.0

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        points = embeddings_of(candidates)
        rows = typical_points(points, candidates.labelled.embeddings, checked(candidates, k), rng)
        return keys_of(candidates, rows)
