"""Class-quota entropy: the most uncertain images of each predicted class, the rare ones as many as the common ones.

``quota`` of the batch (66 %) is divided evenly over the classes that are predicted anywhere in the pool, what is left
over by the division to the rarest; each takes the
images with the most of its own uncertainty, H · s_c with s_c the class's share of the image's entropy, rare classes
first. The rest of the batch are the images of the largest entropy H over all. The division is that of foreground-aware
random sampling in nnActive (2025), here with entropy within it; class-weighted entropy with quotas is the one method
that was found to beat a random choice that knows the task. An image without a box has the entropy of one faint box and
no class: it can come with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from pydantic import Field

from alpipe.acquisition.ranking import measures
from alpipe.acquisition.ranking.aggregate import Aggregation, image_score
from alpipe.acquisition.ranking.classes import quotas, shares
from alpipe.acquisition.ranking.topk import checked, features_of, keys_of, ranked
from alpipe.protocols import Candidates
from alpipe.types import FloatArray, Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False


class Options(Aggregation):
    """How the entropies of boxes or pixels become one score, and how much of the batch is divided over the classes."""

    quota: float = Field(0.66, ge=0, le=1, description="Share of the batch that is divided over the classes.")


def build(options: Options) -> QuotaEntropy:
    """The strategy; its scores lie in [0, 1]."""
    return QuotaEntropy(options)


@final
@dataclass(frozen=True, slots=True)
class QuotaEntropy:
    """Scores by entropy, describes an image by each class's share of it, and chooses class by class."""

    options: Options

    def score(self, prediction: Prediction) -> float:
        return image_score(prediction, measures.entropy, self.options)

    def describe(self, prediction: Prediction) -> FloatArray:
        return shares(prediction, measures.entropy, self.options)

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        of_class = features_of(candidates) * candidates.scores[:, None]
        free = np.ones(len(candidates), bool)
        each = quotas(checked(candidates, k), self.options.quota, of_class.sum(axis=0))
        chosen: list[int] = []
        for name in np.argsort(of_class.sum(axis=0), kind="stable"):
            rows = ranked(of_class[:, name], rng)
            mine = rows[free[rows] & (of_class[rows, name] > 0)][: each[name]]
            free[mine] = False
            chosen += mine.tolist()
        rows = ranked(candidates.scores, rng)
        return keys_of(candidates, [*chosen, *rows[free[rows]][: k - len(chosen)].tolist()])
