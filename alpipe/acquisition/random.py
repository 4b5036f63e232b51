"""Random: every image of the pool with the same chance, the baseline that each strategy has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.ranking.topk import choose_any
from alpipe.protocols import PluginOptions
from alpipe.types import Prediction, Score, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False


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

    def choose(
        self,
        scores: Sequence[Score],
        embeddings: npt.NDArray[np.float32] | None,
        labelled: npt.NDArray[np.float32] | None,
        k: int,
        rng: np.random.Generator,
    ) -> list[str]:
        del embeddings, labelled
        return choose_any(scores, k, rng)
