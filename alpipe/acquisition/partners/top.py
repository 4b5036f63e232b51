"""Top: the largest scores. Near-copies of the hardest image may fill the batch; see the other partners."""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.topk import choose_top
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False


class Options(PluginOptions):
    """None."""


def build(options: Options) -> Top:
    """The partner."""
    del options
    return Top()


@final
class Top:
    """Chooses the largest scores."""

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        return choose_top(candidates, k, rng)
