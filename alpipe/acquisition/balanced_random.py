"""Class-aware random: drawn by chance, but evenly over the predicted classes. The baseline that a strategy has to beat.

``quota`` of the batch (66 %) is divided evenly over the classes that are predicted anywhere; each draws uniformly among
the images in which it is predicted, rare classes first. The rest is drawn from all. With masks this is foreground-aware
random sampling (nnActive 2025), with one label: two thirds of the batch show something. An image without a predicted
box or mask has no class, and can be drawn with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from pydantic import Field

from alpipe.acquisition.ranking.classes import present, quotas
from alpipe.acquisition.ranking.topk import checked, features_of, keys_of
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import FloatArray, Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False


class Options(PluginOptions):
    """What counts as predicted, and how much of the batch is divided over the classes."""

    quota: float = Field(0.66, ge=0, le=1, description="Share of the batch that is divided over the classes.")
    min_score: float = Field(0.3, ge=0, le=1, description="Probability from which a box says that its class is there.")
    min_pixels: float = Field(0.001, ge=0, le=1, description="Share of the pixels from which a mask says so.")


def build(options: Options) -> BalancedRandom:
    """The strategy; it scores every image with 0."""
    return BalancedRandom(options)


@final
@dataclass(frozen=True, slots=True)
class BalancedRandom:
    """Describes an image by the classes predicted in it, and draws class by class."""

    options: Options

    def score(self, prediction: Prediction) -> float:
        del prediction
        return 0.0

    def describe(self, prediction: Prediction) -> FloatArray:
        return present(prediction, self.options.min_score, self.options.min_pixels)

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        there = features_of(candidates) > 0
        free = np.ones(len(candidates), bool)
        each = quotas(checked(candidates, k), self.options.quota, there.sum(axis=0))
        chosen: list[int] = []
        for name in np.argsort(there.sum(axis=0), kind="stable"):
            mine = rng.permutation(np.flatnonzero(free & there[:, name]))[: each[name]]
            free[mine] = False
            chosen += mine.tolist()
        rest = rng.permutation(np.flatnonzero(free))[: k - len(chosen)]
        return keys_of(candidates, rng.permutation([*chosen, *rest.tolist()]).astype(np.intp))
