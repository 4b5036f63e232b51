"""Strided: every n-th image in the order of groups and names, as one samples a video by hand. A baseline.

Systematic sampling (Cochran 1977, chapter 8): the images lie in a row by group and by name, with numbers in names taken
as numbers; k are taken at even distances from a random start. Long videos give as many images as short ones in
proportion to their lengths. No prediction has an influence.
"""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.names import natural
from alpipe.acquisition.ranking.topk import checked, keys_of
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False
COLD_START = True


class Options(PluginOptions):
    """None."""


def build(options: Options) -> Strided:
    """The strategy; it scores every image with 0."""
    del options
    return Strided()


@final
class Strided:
    """Chooses at even distances."""

    def score(self, prediction: Prediction) -> float:
        del prediction
        return 0.0

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        items = candidates.items
        row = sorted(range(len(items)), key=lambda at: (items[at].group or "", natural(items[at].uri), items[at].key))
        if not checked(candidates, k):
            return []
        places = (np.arange(k) * len(row) + rng.integers(len(row))) // k
        return keys_of(candidates, [row[at] for at in places])
