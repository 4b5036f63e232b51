"""Novelty: the images that fit the labelled ones worst, by the density that a variational autoencoder learnt of them.

It needs no answer of the learner's, so it finds kinds of images that the learner is wrongly certain of. It has a known
weakness: a likelihood prefers simple images, so plain ones look familiar and busy ones novel, whatever they show
(Nalisnick et al. 2019; Serrà et al. 2020).
"""

from __future__ import annotations

from typing import final

from alpipe.protocols import PluginOptions
from alpipe.types import ImageFit, Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False
SCANNER = "vae"
"""The pool is scanned by an autoencoder fitted to the labelled images, not by the round's model."""


class Options(PluginOptions):
    """None."""


def build(options: Options) -> Novelty:
    """The strategy; its scores are nats per dimension."""
    del options
    return Novelty()


@final
class Novelty:
    """Scores an image by the negative evidence lower bound."""

    def score(self, prediction: ImageFit) -> float:
        return prediction.nats
