"""Gradient embeddings, and a diverse choice of large ones (BADGE: Ash et al. 2020, "Deep batch active learning by
diverse, uncertain gradient lower bounds").

The gradient of the loss in the last layer's weights, were the predicted class the true one, is the outer product
g(x) = (p(x) − e_ŷ) ⊗ h(x) of C · D numbers. It is never made: products and lengths of outer products are products of
those of their parts, ⟨g, g'⟩ = ⟨p − e_ŷ, p' − e_ŷ'⟩ · ⟨h, h'⟩.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.ranking.medoids import draw

Points = npt.NDArray[np.float32]


def residuals(probs: npt.NDArray[np.floating]) -> Points:
    """(N, C) p − e_ŷ of (N, C) class probabilities, ŷ the most probable class."""
    left = probs.astype(np.float32)
    left[np.arange(len(left)), left.argmax(axis=1)] -= 1
    return left


def squared_norms(residual: Points, hidden: Points) -> npt.NDArray[np.float64]:
    """(N,) |g|² from (N, C) residuals and (N, D) penultimate activations."""
    lengths = [np.square(part, dtype=np.float64).sum(axis=1) for part in (residual, hidden)]
    return np.asarray(lengths[0] * lengths[1], np.float64)


def seed_gradients(residual: Points, hidden: Points, k: int, rng: np.random.Generator) -> list[int]:
    """k different rows by k-means++ over the gradient embeddings: the longest gradient first, then each with a chance
    proportional to its squared distance to the nearest one before, as in the authors' code. O(k N (C + D)) time.
    """
    norms = squared_norms(residual, hidden)
    nearest = norms.copy()
    chosen: list[int] = []
    for step in range(k):
        at = int(np.argmax(norms)) if step == 0 and norms.any() else draw(nearest, chosen, rng)
        chosen.append(at)
        products = (residual @ residual[at]).astype(np.float64) * (hidden @ hidden[at])
        distances = np.maximum(norms + norms[at] - 2 * products, 0)
        nearest = distances if step == 0 else np.minimum(nearest, distances)
    return chosen
