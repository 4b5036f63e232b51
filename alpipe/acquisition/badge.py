"""BADGE: images whose gradient in the last layer would be long and unlike that of the others in the batch.

k-means++ over gradient embeddings g(x) = (p(x) − e_ŷ) ⊗ h(x), p the class probabilities, ŷ the most probable class, h
the learner's embedding: long where the model is uncertain, different where images differ. Ash, Zhang, Krishnamurthy,
Langford & Agarwal 2020, "Deep batch active learning by diverse, uncertain gradient lower bounds". The score is |p −
e_ŷ|², the part of |g|² that needs no embedding. With ``embeddings: vae`` h is the autoencoder's, and g no gradient any
more.
"""

from __future__ import annotations

from typing import final

import numpy as np

from alpipe.acquisition.ranking.gradients import residuals, seed_gradients
from alpipe.acquisition.ranking.topk import checked, embeddings_of, features_of, keys_of
from alpipe.protocols import Candidates, PluginOptions
from alpipe.types import ClassPrediction, FloatArray, Task

TASKS = frozenset({Task.CLASSIFY})
NEEDS_EMBEDDINGS = True


class Options(PluginOptions):
    """None."""


def build(options: Options) -> Badge:
    """The strategy; its scores lie in [0, 2]."""
    del options
    return Badge()


@final
class Badge:
    """Describes an image by p − e_ŷ, and chooses by k-means++ over the outer products with the embeddings."""

    def score(self, prediction: ClassPrediction) -> float:
        return float(np.square(self.describe(prediction), dtype=np.float64).sum())

    def describe(self, prediction: ClassPrediction) -> FloatArray:
        return np.asarray(residuals(prediction.probs[None])[0], np.float32)

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        points = embeddings_of(candidates)
        rows = seed_gradients(features_of(candidates), points, checked(candidates, k), rng)
        return keys_of(candidates, rows)
