"""What labelling an image costs a person, by a stated model: regions drawn, regions checked, seconds."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from alpipe import boxes, rle
from alpipe.types import Boxes, ImageClass, Labels, Masks, Rle

CLOSE_ENOUGH = 0.75
"""IoU from which a person lets a proposed box or region stand."""


class TimeModel(BaseModel):
    """Seconds a person needs: to look at an image, to draw one object by hand, to check one that a model proposes.

    7 s is a box drawn by extreme clicking (Papadopoulos et al. 2017, "Extreme clicking for efficient object
    annotation"), 1.6 s the check of one box (Papadopoulos et al. 2016, "We don't need no bounding-boxes"); 1.5 s for
    the look is ours. Outlines take longer: say so where they are drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: float = Field(1.5, ge=0, description="Seconds an image, whatever it holds.")
    drawn: float = Field(7.0, ge=0, description="Seconds an object drawn by hand (a class chosen, in classification).")
    checked: float = Field(1.6, ge=0, description="Seconds an object that a model proposed, kept or deleted.")

    def seconds(self, effort: Effort) -> float:
        """Seconds for one image."""
        return self.image + self.drawn * effort.drawn + self.checked * effort.checked


class Effort(NamedTuple):
    """How many regions of one image are drawn by hand, and how many proposed ones are looked at."""

    drawn: int
    checked: int


def regions(labels: Labels) -> int:
    """The objects in the labels: boxes; for masks the connected regions of each name; 1 for the class of an image."""
    match labels:
        case ImageClass():
            return 1
        case Boxes(names=names):
            return len(names)
        case Masks(by_name=by_name):
            return sum(_components(encoded)[0] for encoded in by_name.values())


def effort(truth: Labels, shown: Labels | None) -> Effort:
    """What turning ``shown`` (None: nothing is proposed) into ``truth`` takes.

    Every proposed region is checked once. One of the right name with an IoU of CLOSE_ENOUGH is kept, any other deleted;
    objects that no kept one stands for are drawn.
    """
    match truth, shown:
        case _, None:
            return Effort(regions(truth), 0)
        case ImageClass(), ImageClass():
            return Effort(int(truth != shown), 1)
        case Boxes(), Boxes():
            kept = sum(_kept_boxes(truth, shown, name) for name in set(truth.names))
            return Effort(len(truth.names) - kept, len(shown.names))
        case Masks(), Masks():
            kept = sum(
                _kept_regions(encoded, shown.by_name[name])
                for name, encoded in truth.by_name.items()
                if name in shown.by_name
            )
            return Effort(regions(truth) - kept, regions(shown))
        case _:
            return Effort(regions(truth), regions(shown))


def _kept_boxes(truth: Boxes, shown: Boxes, name: str) -> int:
    mine, theirs = (
        labels.xyxy[[at for at, other in enumerate(labels.names) if other == name]] for labels in (truth, shown)
    )
    return int((boxes.match(theirs, mine, CLOSE_ENOUGH) >= 0).sum())


def _kept_regions(truth: Rle, shown: Rle) -> int:
    """Regions of the truth that a region shown covers well enough; above an IoU of ½ no region has two partners."""
    count, mine = _components(truth)
    others, theirs = _components(shown)
    pairs = np.bincount((mine * (others + 1) + theirs).ravel(), minlength=(count + 1) * (others + 1))
    overlap = pairs.reshape(count + 1, others + 1)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    iou = overlap / np.maximum(union, 1)
    return int((iou[1:, 1:] >= CLOSE_ENOUGH).any(axis=1).sum())


def _components(encoded: Rle) -> tuple[int, npt.NDArray[np.int64]]:
    count, labelled = cv2.connectedComponents(rle.decode(encoded), connectivity=8)
    return count - 1, labelled.astype(np.int64)
