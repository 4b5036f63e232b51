"""From the detector's output to boxes of the image."""

from __future__ import annotations

import numpy as np

from alpipe import boxes
from alpipe.learners.training.data import Frame
from alpipe.types import BoxPrediction, FloatArray

CANDIDATES = 1000
"""Most places and classes of an image that go into suppression, best first."""


def decode(
    key: str,
    probs: FloatArray,
    xyxy: FloatArray,
    frame: Frame,
    min_score: float,
    overlap: float,
    most: int,
    samples: FloatArray | None = None,
) -> BoxPrediction:
    """Boxes in image pixels, best first, of (P, C) class probabilities and (P, 4) boxes in network pixels.

    A box falls where it overlaps a better one of its class by an IoU over ``overlap``, or where nothing of it lies in
    the image. ``samples`` (T, P, C) are the probabilities that each member of an ensemble gives: the members of the
    prediction say what they think of its very boxes.
    """
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
    members = (
        ()
        if samples is None
        else tuple(BoxPrediction(key, xyxy, one[place, class_index], one[place], class_index) for one in samples)
    )
    return BoxPrediction(key, xyxy, scores[best], probs[place], class_index, members)
