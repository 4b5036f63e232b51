"""k-medoids: the images of the largest scores are clustered, and one stands for each cluster.

k-medoids over the embeddings of the ``per_image`` · k images of the largest scores, distances weighted by the scores
(k-means++ and Lloyd's rounds; the second step of PPAL: Yang, Huang & Crowley 2024, there with a distance between sets
of boxes). The more images are let in, the more diverse and the less uncertain is the batch. Images already labelled
have no influence. Scores below 0 are raised by the least of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from pydantic import Field

from alpipe.acquisition.ranking.medoids import k_medoids
from alpipe.acquisition.ranking.topk import checked, embeddings_of, keys_of, ranked
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = True


class Options(PluginOptions):
    """How many images are clustered."""

    per_image: float = Field(4.0, ge=1, description="Images clustered for each that is wanted; 4 is PPAL's.")


def build(options: Options) -> KMedoids:
    """The partner."""
    return KMedoids(options)


@final
@dataclass(frozen=True, slots=True)
class KMedoids:
    """Chooses the medoids of clusters of hard images, the hardest first."""

    options: Options

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        many = min(len(candidates), round(self.options.per_image * checked(candidates, k)))
        rows = ranked(candidates.scores, rng)[:many]
        scores = candidates.scores[rows]
        weights = scores - min(0.0, float(scores.min(initial=0.0)))
        medoids = sorted(k_medoids(embeddings_of(candidates)[rows], weights, k, rng))
        return keys_of(candidates, rows[medoids])
