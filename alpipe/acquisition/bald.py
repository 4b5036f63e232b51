"""BALD: the images of whose label the most would be learnt about the model, by dropout samples of its last layer.

The mutual information of label and weights, H(mean of the samples) − mean of H(samples), in nats (Houlsby et al. 2011,
"Bayesian active learning for classification and preference learning"; with dropout Gal, Islam & Ghahramani 2017).
Dropout is in the head alone, so a scan costs little more than without. Boxes and pixels are joined by their mean, as
the expected information of one box or pixel, unless the options say otherwise. ``disagreement`` is the same relative to
its largest value, for any ensemble, joined by the most uncertain parts; over whole-image classes the two rank alike. An
image without a box that counts scores 0: over nothing no sample differs from another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from pydantic import Field

from alpipe.acquisition.ranking.aggregate import Aggregation
from alpipe.acquisition.ranking.ensemble import ensemble_score
from alpipe.types import BoxPrediction, Prediction, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False
NEEDS_MEMBERS = True


class Options(Aggregation):
    """How the information of boxes or pixels becomes one score."""

    aggregation: Literal["top", "mean", "max", "sum"] = Field("mean", description="How values are joined.")


def build(options: Options) -> Bald:
    """The strategy; its scores lie in [0, log C] nats."""
    return Bald(options)


@final
@dataclass(frozen=True, slots=True)
class Bald:
    """Scores an image by the mutual information of label and weights."""

    options: Aggregation

    def score(self, prediction: Prediction) -> float:
        """Raises ConfigError for a prediction that has not at least two members."""
        # of boxes the background is one more class
        classes = 1 + prediction.probs.shape[1] if isinstance(prediction, BoxPrediction) else len(prediction.probs)
        return ensemble_score(prediction, self.options) * math.log(min(len(prediction.members), classes))
