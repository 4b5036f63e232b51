"""How far to trust a score: the share of what a model finds about as surely that is labelled.

Scores of 0.5 mean one thing for a detector that was trained for an hour and another for one of ten minutes; what is
labelled tells them apart. Nothing here depends on how high scores are, only on their order.
"""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from alpipe import boxes
from alpipe.mining.findings import NEAR, SAME_OBJECT, Findings

NEIGHBOURS = 25
"""So many findings that are a little surer, and as many a little less sure, tell how far to trust a score."""

LABELLED = 0.25
"""Share of labelled ones from which a finding that has no label may be an object. Where many objects were never boxed,
half of what is found among them is labelled at best.
"""


def shares(labelled: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(N,) share of labelled ones among each finding and the ``NEIGHBOURS`` before and after it; (N,) are in the order
    of their scores.
    """
    count = len(labelled)
    total = np.concatenate([[0], np.cumsum(labelled)])
    at = np.arange(count)
    first, last = np.maximum(0, at - NEIGHBOURS), np.minimum(count, at + NEIGHBOURS + 1)
    return np.asarray((total[last] - total[first]) / np.maximum(1, last - first), np.float64)


@final
class Trust:
    """Looks at what is found in labelled images, and says from which score on enough of it is labelled."""

    def __init__(self) -> None:
        self._scores: list[npt.NDArray[np.floating]] = []
        self._labelled: list[npt.NDArray[np.bool_]] = []

    def add(self, found: Findings, least: float) -> None:
        """The findings of one image; those of a score below ``least`` are left out, of several at a place the surest
        counts.
        """
        some = np.flatnonzero(found.scores >= least)
        some = some[boxes.suppress(found.xyxy[some], found.scores[some], SAME_OBJECT)]
        labelled = found.iou[some] >= SAME_OBJECT
        clear = labelled | (found.covered[some] < NEAR)
        self._scores.append(found.scores[some][clear])
        self._labelled.append(labelled[clear])

    def score(self) -> float:
        """The lowest score down to which a quarter or more of the findings about as sure are labelled; infinite where
        not even of the surest that many are.
        """
        scores = np.concatenate([*self._scores, np.zeros(0)])
        order = np.argsort(-scores, kind="stable")
        trusted = shares(np.concatenate([*self._labelled, np.zeros(0, bool)])[order]) >= LABELLED
        many = len(trusted) if trusted.all() else int(np.argmin(trusted))
        return float(scores[order[many - 1]]) if many else float("inf")
