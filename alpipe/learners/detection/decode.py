"""From the detector's output to boxes of the image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alpipe import boxes
from alpipe.learners.training.data import Frame
from alpipe.types import BoxPrediction, FloatArray

CANDIDATES = 1000
"""Most places and classes of an image that go into suppression, best first."""


class Limits(NamedTuple):
    """Which boxes are reported: those of at least ``min_score`` that overlap no better one of their class by an IoU
    over ``overlap``, and of these the ``most`` best.
    """

    min_score: float
    overlap: float
    most: int


def decode(
    key: str, probs: FloatArray, xyxy: FloatArray, frame: Frame, limits: Limits, voices: FloatArray | None = None
) -> BoxPrediction:
    """Boxes in image pixels, best first, of (P, C) class probabilities and (P, 4) boxes in network pixels, without
    those of which nothing lies in the image.

    ``voices`` (T, P, C) are the probabilities of an ensemble at the same places: its members have the same boxes.
    """
    min_score, overlap, most = limits
    place, class_index = np.nonzero(probs >= min_score)
    scores = probs[place, class_index]
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    place, class_index, scores = place[order], class_index[order], scores[order]
    width, height = frame.size
    edges = np.array([width, height, width, height], np.float32)
    scaled = np.clip(xyxy[place] / np.array(frame.scale * 2, np.float32), 0, edges).astype(np.float32)
    seen = boxes.areas(scaled) > 0
    place, class_index, scores, scaled = place[seen], class_index[seen], scores[seen], scaled[seen]
    kept = [
        members[boxes.suppress(scaled[members], scores[members], overlap)]
        for members in (np.flatnonzero(class_index == name) for name in np.unique(class_index))
    ]
    best = np.sort(np.concatenate(kept))[:most] if kept else np.zeros(0, np.int64)
    xyxy, place, class_index = scaled[best], place[best], class_index[best].astype(np.int64)
    members = tuple(
        BoxPrediction(key, xyxy, voice[place, class_index], voice[place], class_index)
        for voice in (() if voices is None else voices)
    )
    return BoxPrediction(key, xyxy, scores[best], probs[place], class_index, members)
