"""Expected Dice: the images over whose masks the members of an ensemble overlap least. Scores lie in [0, 1].

One less the mean, over pairs of members and over classes, of the Dice of their masks, 2|A ∩ B| / (|A| + |B|); a mask is
where the class is the most probable one. It is the metric of segmentation, expected under the members instead of
against the truth (the agreement of Roy, Conjeti, Navab & Wachinger 2019, "Bayesian QuickNAT"), and so it does not
depend on how much background there is. A class that neither member of a pair sees does not count; where no member sees
any, all agree that there is nothing: 0. One odd pixel on an empty image is a Dice of 0, so ``min_pixels`` keeps specks
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
from pydantic import Field

from alpipe.acquisition.ranking.ensemble import voices_of
from alpipe.protocols import PluginOptions
from alpipe.types import MapPrediction, Task

TASKS = frozenset({Task.SEGMENT})
NEEDS_EMBEDDINGS = False
NEEDS_MEMBERS = True


class Options(PluginOptions):
    """What counts as a mask."""

    min_pixels: float = Field(0.001, ge=0, lt=1, description="A class counts from this share of the pixels on.")


def build(options: Options) -> ExpectedDice:
    """The strategy; its scores lie in [0, 1]."""
    return ExpectedDice(options)


@final
@dataclass(frozen=True, slots=True)
class ExpectedDice:
    """Scores an image by how little the members' masks overlap."""

    options: Options

    def score(self, prediction: MapPrediction) -> float:
        """Raises ConfigError for a prediction that has not at least two members."""
        best = [voice.argmax(axis=0) for voice in voices_of(prediction)]
        values = []
        for foreground in range(1, len(prediction.probs)):
            masks = [one == foreground for one in best]
            least = max(1.0, self.options.min_pixels * masks[0].size)
            for a, b in combinations(masks, 2):
                if max(a.sum(), b.sum()) >= least:
                    values.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
        return 1 - float(np.mean(values)) if values else 0.0
