"""The k best out of scored candidates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alpipe.protocols import Candidates

Rows = npt.NDArray[np.intp]


def choose_top(candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
    """The keys of the k largest scores, best first; ties are broken at random. Raises ValueError for a k that is
    negative or beyond the candidates.
    """
    return keys_of(candidates, ranked(candidates.scores, rng)[: checked(candidates, k)])


def choose_any(candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
    """k keys drawn uniformly without replacement, whatever their scores. Raises ValueError as ``choose_top`` does."""
    return keys_of(candidates, rng.permutation(len(candidates))[: checked(candidates, k)])


def ranked(values: npt.NDArray[np.floating], rng: np.random.Generator) -> Rows:
    """(N,) rows of (N,) values, the largest first; equal ones in random order."""
    return np.asarray(np.lexsort((rng.permutation(len(values)), -values)), np.intp)


def keys_of(candidates: Candidates, rows: Rows | list[int]) -> list[str]:
    """The keys of rows, in their order."""
    return [candidates.items[row].key for row in rows]


def checked(candidates: Candidates, k: int) -> int:
    """k itself. Raises ValueError where the candidates cannot give as many."""
    if not 0 <= k <= len(candidates):
        raise ValueError(f"{k} images asked for, but the pool has {len(candidates)}")
    return k


def embeddings_of(candidates: Candidates) -> npt.NDArray[np.float32]:
    """(N, D) float32. Raises ValueError where the candidates came without."""
    if candidates.embeddings is None:
        raise ValueError(f"the pool has {len(candidates)} images, but no embeddings of them were given")
    return candidates.embeddings


def features_of(candidates: Candidates) -> npt.NDArray[np.float32]:
    """(N, F) float32. Raises ValueError where the candidates came without."""
    if candidates.features is None:
        raise ValueError(f"the pool has {len(candidates)} images, but they were not described when they were scored")
    return candidates.features
