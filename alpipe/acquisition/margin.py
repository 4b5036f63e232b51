"""Margin: the images where the second most probable class comes closest to the first. Scores lie in [0, 1]."""

from __future__ import annotations

from alpipe.acquisition.ranking import measures
from alpipe.acquisition.ranking.aggregate import Aggregation
from alpipe.acquisition.ranking.uncertainty import Uncertainty
from alpipe.types import Task

TASKS = frozenset(Task)
NEEDS_EMBEDDINGS = False


class Options(Aggregation):
    """How the uncertainties of boxes or pixels become one score."""


def build(options: Options) -> Uncertainty:
    """The strategy; its scores lie in [0, 1]."""
    return Uncertainty(measures.margin, options)
