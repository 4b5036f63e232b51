"""Core-set: images spread over the whole pool, so that none lies far from a labelled one (Sener & Savarese 2018).

Which images these are is said by the distances between embeddings alone; what the learner is uncertain of has no
influence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.ranking.centres import k_centres
from alpipe.acquisition.ranking.topk import checked
from alpipe.protocols import PluginOptions
from alpipe.types import Prediction, Score, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = True


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

    def choose(
        self,
        scores: Sequence[Score],
        embeddings: npt.NDArray[np.float32] | None,
        labelled: npt.NDArray[np.float32] | None,
        k: int,
        rng: np.random.Generator,
    ) -> list[str]:
        ordered = checked(scores, k)
        if embeddings is None or len(embeddings) != len(scores):
            raise ValueError(f"the pool has {len(scores)} images, but embeddings for not all of them were given")
        # By key and then at random: neither the order of the pool nor that of the keys decides between equals.
        row = {score.key: at for at, score in enumerate(scores)}
        shuffled = [ordered[at].key for at in rng.permutation(len(ordered))]
        points = embeddings[[row[key] for key in shuffled]]
        broken = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(broken):
            raise ValueError(f"the embedding of item {shuffled[broken[0]]} is not finite")
        return [shuffled[at] for at in k_centres(points, labelled, k)]
