"""Measures of uncertainty of distributions over classes, all in [0, 1] and larger for less certain ones.

Each takes ``probs`` (N, C), rows that sum to 1 (to the precision of their dtype), and gives (N,) float64: 0 where all
is on one class, 1 for the uniform distribution (entropy, least confidence) or two classes alike ahead (margin). With
one class alone nothing is uncertain: 0.

Source: B. Settles, Active Learning Literature Survey, University of Wisconsin–Madison, TR 1648 (2009), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from alpipe.types import FloatArray

Measure: TypeAlias = Callable[[FloatArray], npt.NDArray[np.float64]]


def entropy(probs: FloatArray | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shannon's entropy (1948) relative to that of the uniform distribution: −Σ p log p / log C, with 0 log 0 = 0."""
    if probs.shape[1] == 1:
        return np.zeros(len(probs))
    p = probs.astype(np.float64)
    plogp = p * np.log(p, out=np.zeros_like(p), where=p > 0)
    return _unit(-plogp.sum(axis=1) / np.log(probs.shape[1]))


def margin(probs: FloatArray) -> npt.NDArray[np.float64]:
    """One less the lead of the most probable class over the second: 1 − (p₁ − p₂) (Scheffer et al. 2001)."""
    if probs.shape[1] == 1:
        return np.zeros(len(probs))
    second, first = np.partition(probs.astype(np.float64), -2, axis=1)[:, -2:].T
    return _unit(1 - (first - second))


def least_confidence(probs: FloatArray) -> npt.NDArray[np.float64]:
    """One less the most probable class, relative to the uniform distribution: (1 − p₁) · C / (C − 1) (Lewis 1994)."""
    classes = probs.shape[1]
    if classes == 1:
        return np.zeros(len(probs))
    return _unit((1 - probs.astype(np.float64).max(axis=1)) * classes / (classes - 1))


def disagreement(voices: FloatArray) -> npt.NDArray[np.float64]:
    """(N,) how far T members' distributions ``voices`` (T, N, C) lie apart: H(mean) − mean H, in nats, relative to the
    most that it can be, log min(T, C): 0 where all say the same, 1 where each is sure of another class (Houlsby et al.
    2011; it is the Jensen–Shannon divergence).
    """
    members, _, classes = voices.shape
    if min(members, classes) == 1:
        return np.zeros(voices.shape[1])
    together = entropy(voices.mean(axis=0, dtype=np.float64))
    apart = np.mean([entropy(one) for one in voices], axis=0)
    return _unit((together - apart) * np.log(classes) / np.log(min(members, classes)))


def _unit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rounding, above all of half precision, leads a little out of [0, 1]."""
    return np.asarray(np.clip(values, 0, 1), np.float64)
