"""One number for an image out of how its prediction's members disagree."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.ranking.aggregate import Aggregation, box_distribution, join_boxes, join_pixels, over_pixels
from alpipe.acquisition.ranking.measures import disagreement
from alpipe.errors import ConfigError, DataError
from alpipe.types import BoxPrediction, ClassPrediction, MapPrediction, Prediction


def ensemble_score(prediction: Prediction, options: Aggregation) -> float:
    """The disagreement of the members in [0, 1], joined over pixels or boxes as uncertainties are.

    Boxes are those of the prediction, which all members judge; those whose best class does not reach ``min_score`` in
    the members' mean are ignored, and over no box nobody disagrees: 0. Raises ConfigError for fewer than two members,
    and DataError for members that are not of the same pixels or boxes.
    """
    voices = voices_of(prediction)
    match prediction:
        case ClassPrediction():
            return float(disagreement(np.stack(voices)[:, None])[0])
        case MapPrediction():
            return join_pixels(over_pixels(voices, disagreement), options)
        case BoxPrediction():
            counts = np.mean(voices, axis=0).max(axis=1, initial=0) >= options.min_score
            if not counts.any():
                return 0.0
            return join_boxes(disagreement(np.stack([box_distribution(one[counts]) for one in voices])), options)


def voices_of(prediction: Prediction) -> list[npt.NDArray[Any]]:
    """The members' probabilities, each of the prediction's shape. Raises ConfigError for fewer than two members, and
    DataError for members that are not of the same pixels or boxes.
    """
    if len(prediction.members) < 2:
        raise ConfigError(
            f"the strategy compares the members of an ensemble, but the prediction of item"
            f" {prediction.item_key} has {len(prediction.members)}; set the learner's option samples to 2 or more (10"
            " is usual), or for unetpp members: true with a scan_depth of 2 or more"
        )
    voices: list[npt.NDArray[Any]] = [member.probs for member in prediction.members]
    if any(one.shape != prediction.probs.shape for one in voices):
        raise DataError(f"members of the prediction of item {prediction.item_key} differ in shape; the model is broken")
    return voices
