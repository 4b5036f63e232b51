"""Uncertainty sampling: the images of which the model is least certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.ranking.aggregate import Aggregation, image_score
from alpipe.acquisition.ranking.measures import Measure
from alpipe.acquisition.ranking.topk import choose_top
from alpipe.types import Prediction, Score


@final
@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Scores an image by a measure of uncertainty, joined over its boxes or pixels, and chooses the largest scores."""

    measure: Measure
    options: Aggregation

    def score(self, prediction: Prediction) -> float:
        return image_score(prediction, self.measure, self.options)

    def choose(
        self,
        scores: Sequence[Score],
        embeddings: npt.NDArray[np.float32] | None,
        labelled: npt.NDArray[np.float32] | None,
        k: int,
        rng: np.random.Generator,
    ) -> list[str]:
        del embeddings, labelled
        return choose_top(scores, k, rng)
