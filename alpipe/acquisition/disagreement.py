"""Disagreement: the images over which the members of an ensemble contradict each other. Scores lie in [0, 1].

H(mean of the members) − mean of H(members): what the label would tell of which member is right, and not how noisy the
image is (BALD, Houlsby et al. 2011; with dropout samples Gal et al. 2017, with networks trained apart
Lakshminarayanan et al. 2017). Members that are all equally unsure do not disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alpipe.acquisition.ranking.aggregate import Aggregation
from alpipe.acquisition.ranking.ensemble import ensemble_score
from alpipe.types import Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False
NEEDS_MEMBERS = True


class Options(Aggregation):
    """How the disagreements over boxes or pixels become one score."""


def build(options: Options) -> Disagreement:
    """The strategy; its scores lie in [0, 1]."""
    return Disagreement(options)


@final
@dataclass(frozen=True, slots=True)
class Disagreement:
    """Scores an image by the disagreement of the members of its prediction."""

    options: Aggregation

    def score(self, prediction: Prediction) -> float:
        """Raises ConfigError for a prediction that has not at least two members."""
        return ensemble_score(prediction, self.options)
