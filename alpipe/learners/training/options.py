"""Options that every trained learner has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from alpipe.learners.nets.blocks import Conv
from alpipe.learners.training.augment import Augmentation, Flip
from alpipe.learners.training.data import round_up
from alpipe.protocols import PluginOptions
from alpipe.types import Example

Auto: TypeAlias = Literal["auto"]


class RecipeOptions(PluginOptions):
    """How to train. Steps, not seconds: a training ends at the same place on a slow machine and on a fast one."""

    steps: PositiveInt | Auto = Field("auto", description="Steps of the optimiser; auto grows with the training set.")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.02, ge=0, le=1, description="Weight decay of AdamW.")
    patience: int = Field(
        6,
        ge=0,
        description="So many validations (of about 16) in a row without a better loss end the training, but not in its"
        " first third; 0: none do.",
    )


class FitOptions(RecipeOptions):
    """What every trained learner may be asked for besides."""

    length: float = Field(1.0, gt=0, le=100, description="Factor on auto's steps: 0.5 trains half as long.")
    batch_size: Annotated[int, Field(ge=2)] | Auto = Field(
        "auto", description="Images a step; auto: the learner's usual number, fewer where memory is short."
    )
    flip: Flip = Field(
        Flip.HORIZONTAL,
        description="Mirror images that are as good as the original: none (digits, letters, classes of left and"
        " right), horizontal, or both (nothing has a right way up: cells, aerial images).",
    )
    scale: float = Field(1.3, ge=1, le=4, description="Training images are resized by up to this factor, both ways.")
    rotate: float = Field(10.0, ge=0, le=180, description="Training images are turned by up to so many degrees.")
    colour: float = Field(
        0.3, ge=0, le=1, description="Strength of random changes of brightness, contrast, saturation and (a tenth) hue."
    )

    def augmentation(self) -> Augmentation:
        """The random changes that these options ask for."""
        return Augmentation(self.flip, self.scale, self.rotate, self.colour)

    def gives_members(self) -> bool:
        """Whether a pool scan has an ensemble's members."""
        return False


class TrainingOptions(FitOptions):
    """What may be asked for where the network is alpipe's own: how its convolutions are made, and its dropout."""

    conv: Literal["standard", "group", "separable"] = Field(
        "standard", description="How 3×3 convolutions are made; group and separable ones have fewer weights."
    )
    groups: int = Field(4, ge=2, le=64, description="With conv: group, into how many groups channels are cut.")
    shuffle: bool = Field(True, description="With conv: group, whether channels are interleaved between the groups.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the last layer's inputs that a step leaves out.")
    samples: int = Field(
        0, ge=0, le=1000, description="Dropout samples of the last layer that a pool scan adds as an ensemble; 0: none."
    )

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples and not self.dropout:
            raise ValueError("samples are all alike without dropout; set dropout above 0")
        return self

    def gives_members(self) -> bool:
        return self.samples >= 2

    def convolution(self) -> Conv:
        """The convolution that these options ask for."""
        return Conv(self.conv, self.groups, self.shuffle)


def steps_for(images: int, batch_size: int, *, passes: int, passes_an_image: int, most: int) -> int:
    """Steps in which the network sees ``passes`` images and ``passes_an_image`` more for each training image, ``most``
    at most: small sets are seen often enough to learn anything, large ones do not take for ever.
    """
    return max(1, min(passes + passes_an_image * images, most) // batch_size)


def long_side(examples: Sequence[Example], most: int) -> int:
    """The longer side of the largest image, rounded up to a multiple of 16, within 32 and ``most``."""
    largest = max(max(example.item.width, example.item.height) for example in examples)
    return min(max(32, round_up(largest, 16)), most)
