"""What counts as a hard negative, how many are kept, and when a person is asked first."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from alpipe.protocols import PluginOptions


class View(StrEnum):
    """How an image is shown to the model a second time."""

    FLIP = "flip"
    SHRINK = "shrink"


class MiningOptions(PluginOptions):
    """Options of mining, beside ``mining:`` in the configuration."""

    min_score: float = Field(0.3, ge=0, le=1, description="Confidence from which a mistake counts as hard (τ).")
    max_iou: float = Field(
        0.3,
        gt=0,
        le=1,
        description="It overlaps every true object by less than this; 0.5 is the threshold of the sliding classifier.",
    )
    nms_iou: float = Field(0.7, gt=0, le=1, description="Of boxes that overlap by more only the best is kept.")
    min_area: int = Field(16, ge=1, description="Smallest region of a predicted mask, in pixels.")
    per_image: int = Field(10, ge=1, description="At most so many in one image.")
    per_class: int = Field(2000, ge=1, description="At most so many of one class.")
    ratio: float = Field(3.0, gt=0, description="At most so many in all for each true object.")
    patience: int = Field(
        3,
        ge=1,
        description="It is let go when so many models in a row no longer fall for it. Learners start anew each round:"
        " what they no longer see they fall for again.",
    )
    exhaustive: bool = Field(
        False,
        description="Whether every object is labelled. If not, what looks like a true object is asked about first.",
    )
    guard_score: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        "auto",
        description="Confidence from which a mistake may be an object; auto: down to where a quarter of what the model"
        " finds about as surely is labelled.",
    )
    guard_view: View | None = Field(
        None,
        description="It must be found again in the mirrored (flip) or the smaller (shrink) image. By default mirrored"
        " where the learner's training images are mirrored too, else smaller.",
    )
    questions: int = Field(50, ge=0, description="At most so many questions a round; the other doubtful ones are left.")
