"""What a training step sees: images with rare classes more often, and of large images the parts that hold them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from alpipe.learners.segmentation.labelled import Labelled
from alpipe.learners.training.balance import class_factors, image_factors
from alpipe.learners.training.data import Frame
from alpipe.learners.training.negatives import chances
from alpipe.learners.training.options import Auto
from alpipe.types import ByteArray, FloatArray

AIMED = 0.5
"""Share of the parts that are centred on an object; the others lie anywhere, so that the background is learnt too."""

AIMED_AT_NEGATIVES = 0.25
"""Share of the parts of images with hard negatives that are centred on one, instead of lying anywhere."""


class PartSampler:
    """Draws images, by their repeat factors, those with hard negatives more often and those without object as
    ``empty_share`` says; of images larger than ``reach`` pixels a side a part of that size.
    """

    def __init__(
        self, labelled: Labelled, classes: int, reach: int, threshold: float, empty_share: float | Auto = "auto"
    ) -> None:
        self._labelled, self._reach = labelled, reach
        self._present = np.array([_present(one, classes) for one in labelled.maps])
        self._factors = class_factors(self._present, threshold)
        hard = np.array([len(some) > 0 for some in labelled.negatives], bool)
        factors = image_factors(self._present, threshold)
        self._chances = chances(factors, hard, np.asarray(~self._present.any(axis=1)), empty_share)

    def draw(self, rng: np.random.Generator) -> tuple[ByteArray, ByteArray, FloatArray]:
        """(h, w, 3) pixels, their (h, w) class map, and the (M, 4) hard negatives that touch them."""
        index = int(rng.choice(len(self._chances), p=self._chances))
        frame: Frame = self._labelled.frames[index]
        classes, negatives = self._labelled.maps[index], self._labelled.negatives[index]
        if max(classes.shape) <= self._reach:
            return frame.pixels, classes, negatives
        top, left = self._corner(index, rng)
        part = slice(top, top + self._reach), slice(left, left + self._reach)
        seen = classes[part]
        moved = negatives - np.array([left, top, left, top], np.float32)
        inside = (moved[:, 2:] > 0).all(axis=1) & (moved[:, :2] < seen.shape[::-1]).all(axis=1)
        return frame.pixels[part], seen, moved[inside]

    def _corner(self, index: int, rng: np.random.Generator) -> tuple[int, int]:
        """Top and left of a part that lies anywhere, or is centred on a hard negative, or on a pixel of a class drawn
        by its factor.
        """
        classes, negatives = self._labelled.maps[index], self._labelled.negatives[index]
        room = [max(0, side - self._reach) for side in classes.shape]
        aim = rng.random()
        if len(negatives) and aim >= 1 - AIMED_AT_NEGATIVES:
            x1, y1, x2, y2 = negatives[rng.integers(len(negatives))].tolist()
            return self._around((round((y1 + y2) / 2), round((x1 + x2) / 2)), room)
        present = np.flatnonzero(self._present[index])
        if not len(present) or aim >= AIMED:
            top, left = (int(rng.integers(most + 1)) for most in room)
            return top, left
        weights = self._factors[present] / self._factors[present].sum()
        wanted = classes == 1 + rng.choice(present, p=weights)
        in_row = wanted.sum(axis=1)  # a pixel drawn by its row, so that huge maps need no list of all pixels
        row = int(rng.choice(len(in_row), p=in_row / in_row.sum()))
        centre = row, int(rng.choice(np.flatnonzero(wanted[row])))
        return self._around(centre, room)

    def _around(self, centre: tuple[int, int], room: Sequence[int]) -> tuple[int, int]:
        top, left = (int(np.clip(at - self._reach // 2, 0, most)) for at, most in zip(centre, room, strict=True))
        return top, left


def _present(classes: ByteArray, count: int) -> npt.NDArray[np.bool_]:
    """(C,) whether the map holds each class."""
    return np.asarray(cv2.calcHist([classes], [0], None, [256], [0, 256])[1 : count + 1, 0] > 0)


def reach_of(canvas: Sequence[int], scale: float, rotate: float) -> int:
    """Pixels a side of the part of an image that a canvas may show, when it is enlarged by ``scale`` and turned by
    ``rotate`` degrees at most.
    """
    turn = np.deg2rad(min(rotate, 45.0))
    return int(np.ceil(max(canvas) * scale * (np.cos(turn) + np.sin(turn))))
