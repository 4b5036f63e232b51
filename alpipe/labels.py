"""Labels to and from JSON, and from what a model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from alpipe import rle
from alpipe.errors import DataError
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ByteArray,
    ClassPrediction,
    ImageClass,
    Labels,
    MapPrediction,
    Masks,
    Prediction,
    Rle,
    Suggestion,
)

ROWS_AT_ONCE = 256
"""Of a huge map, so many rows are looked at together."""


def to_json(labels: Labels) -> dict[str, Any]:
    """Plain values that ``json`` can write; ``from_json`` gives the same labels back, to the bit."""
    match labels:
        case ImageClass(name=name):
            return {"class": name}
        case Boxes(xyxy=xyxy, names=names, corners=corners):
            stored = {"boxes": xyxy.tolist(), "names": list(names)}
            return stored if corners is None else stored | {"corners": corners.tolist()}
        case Masks(by_name=by_name):
            return {"masks": {name: list(encoded) for name, encoded in by_name.items()}}


def from_json(value: dict[str, Any]) -> Labels:
    """The labels that ``to_json`` wrote. Raises DataError for anything else."""
    try:
        match value:
            case {"class": str(name)}:
                return ImageClass(name)
            case {"boxes": list(boxes), "names": list(names)}:
                turned = value.get("corners")
                corners = None if turned is None else np.asarray(turned, np.float32)
                return Boxes(np.asarray(boxes, np.float32).reshape(-1, 4), tuple(names), corners)
            case {"masks": dict(masks)}:
                return Masks({name: Rle(*encoded) for name, encoded in masks.items()})
    except (TypeError, ValueError) as error:
        raise DataError(f"stored labels cannot be read ({error}): {str(value)[:80]}") from error
    raise DataError(f"stored labels cannot be read: {str(value)[:80]}")


def predicted_class_map(prediction: MapPrediction) -> ByteArray:
    """(H, W) uint8 of the most probable class in each pixel of the whole image; 0 is background."""
    width, height = prediction.size
    if prediction.probs.shape[1:] == (height, width):
        rows = range(0, height, ROWS_AT_ONCE)
        blocks = [prediction.probs[:, row : row + ROWS_AT_ONCE].argmax(axis=0).astype(np.uint8) for row in rows]
        return np.concatenate(blocks)
    channels = [
        cv2.resize(channel.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        for channel in prediction.probs
    ]
    classes: ByteArray = np.argmax(np.stack(channels), axis=0).astype(np.uint8)
    return classes


def suggest(prediction: Prediction, classes: Sequence[str], threshold: float, model: str) -> Suggestion | None:
    """What the prediction proposes to a person; None where nothing reaches the confidence ``threshold``.

    Confidence: of a box its score, of an image its class probability, of a mask the mean probability of its class over
    the pixels it covers.
    """
    match prediction:
        case ClassPrediction(probs=probs):
            best = int(np.argmax(probs))
            if probs[best] < threshold:
                return None
            return Suggestion(ImageClass(classes[best]), (float(probs[best]),), model)
        case BoxPrediction(xyxy=xyxy, scores=scores, class_index=index):
            keep = (scores >= threshold) & (xyxy[:, 2:] - xyxy[:, :2] > 0.5).all(axis=1)
            if not keep.any():
                return None
            names = tuple(classes[i] for i in index[keep])
            return Suggestion(Boxes(xyxy[keep], names), tuple(scores[keep].tolist()), model)
        case MapPrediction():
            return _suggest_masks(prediction, classes, threshold, model)


def _suggest_masks(
    prediction: MapPrediction, classes: Sequence[str], threshold: float, model: str
) -> Suggestion | None:
    image = predicted_class_map(prediction)
    small = np.argmax(prediction.probs, axis=0)
    by_name, scores = {}, []
    for value in range(1, len(classes) + 1):
        if not (image == value).any():
            continue
        covered = small == value
        probs = prediction.probs[value].astype(np.float32)
        confidence = float(probs[covered].mean()) if covered.any() else float(probs.max())
        if confidence >= threshold:
            by_name[classes[value - 1]] = rle.encode(image == value)
            scores.append(min(confidence, 1.0))
    return Suggestion(Masks(by_name), tuple(scores), model) if by_name else None
