"""Options that every trained learner has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic import Field, PositiveInt

from alpipe.learners.training.data import round_up
from alpipe.protocols import PluginOptions
from alpipe.types import Example

Auto: TypeAlias = Literal["auto"]


class TrainingOptions(PluginOptions):
    """How to train. Steps, not seconds: a training ends at the same place on a slow machine and on a fast one."""

    steps: PositiveInt | Auto = Field("auto", description="Steps of the optimiser; auto grows with the training set.")
    batch_size: PositiveInt = Field(8, ge=2, description="Images a step.")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.02, ge=0, le=1, description="Weight decay of AdamW.")


def steps_for(images: int, batch_size: int, *, passes: int, passes_an_image: int, most: int) -> int:
    """Steps in which the network sees ``passes`` images and ``passes_an_image`` more for each training image, ``most``
    at most: small sets are seen often enough to learn anything, large ones do not take for ever.
    """
    return max(1, min(passes + passes_an_image * images, most) // batch_size)


def long_side(examples: Sequence[Example], most: int) -> int:
    """The longer side of the largest image, rounded up to a multiple of 16, within 32 and ``most``."""
    largest = max(max(example.item.width, example.item.height) for example in examples)
    return min(max(32, round_up(largest, 16)), most)
