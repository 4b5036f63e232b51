"""What an evaluation says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metric of a task and what lies behind it, all in [0, 1] but for counts.

    ``name`` is mAP50, Dice or accuracy, ``count`` the images it is of, ``details`` further figures by name, with those
    of one class as ``figure/class``.
    """

    name: str
    value: float
    details: Mapping[str, float]
    count: int
