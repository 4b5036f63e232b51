"""Images with rare classes are drawn more often: repeat-factor sampling (Gupta et al. 2019, "LVIS", section 5.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def class_factors(present: npt.NDArray[np.bool_], threshold: float) -> npt.NDArray[np.float64]:
    """(C,) how often images with each class are repeated, max(1, √(threshold / f)) for the share f of images that hold
    it, of ``present`` (N, C). A class in no image has factor 1.
    """
    shares = np.asarray(present, np.float64).mean(axis=0)
    factors = np.sqrt(np.divide(threshold, shares, out=np.ones_like(shares), where=shares > 0))
    return np.asarray(np.maximum(1, factors), np.float64)


def image_factors(present: npt.NDArray[np.bool_], threshold: float) -> npt.NDArray[np.float64]:
    """(N,) how often each image is repeated: the factor of its rarest class, 1 without any."""
    return np.asarray((present * class_factors(present, threshold)).max(axis=1, initial=1), np.float64)
