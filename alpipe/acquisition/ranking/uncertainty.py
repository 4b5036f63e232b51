"""Uncertainty sampling: the images of which the model is least certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alpipe.acquisition.ranking.aggregate import Aggregation, image_score
from alpipe.acquisition.ranking.measures import Measure
from alpipe.types import Prediction


@final
@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Scores an image by a measure of uncertainty, joined over its boxes or pixels."""

    measure: Measure
    options: Aggregation

    def score(self, prediction: Prediction) -> float:
        return image_score(prediction, self.measure, self.options)
