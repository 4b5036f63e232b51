"""What a person's reply to a question makes of an image's labels. Pure functions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alpipe import boxes, rle
from alpipe.types import Boxes, ImageClass, Labels, Masks, Question, QuestionKind, QuestionState, Reply, Rle, corners_of

SAME_OBJECT = 0.5
"""IoU from which a box that somebody drew is the object in question."""

ROUNDING = 0.05
"""Pixels by which a box may come back moved without having been touched."""


class Judged(NamedTuple):
    """Whether the labels were right, and the labels as they should be; None where they stay as they are."""

    state: QuestionState
    labels: Labels | None


def judge(question: Question, reply: Reply) -> Judged:
    """What a reply means. What the person corrected by hand counts as they left it; what the model says is put in where
    they chose it and did not do so themselves. Who chose the labels and yet corrected what is in question has found
    them wrong.
    """
    if reply.model_is_right is None:
        return Judged(QuestionState.UNSURE, None)
    edited = reply.labels is not None and not same(question.labels, reply.labels)
    left = reply.labels if edited and reply.labels is not None else question.labels
    wanted = proposed(question, left) if reply.model_is_right else left
    wrong = reply.model_is_right or (edited and _corrects(question, left))
    state = QuestionState.WRONG if wrong else QuestionState.RIGHT
    return Judged(state, None if same(question.labels, wanted) else wanted)


def same(a: Labels, b: Labels) -> bool:
    """Whether labels are the same but for rounding."""
    match a, b:
        case Boxes(), Boxes():
            return a.names == b.names and bool(np.allclose(a.xyxy, b.xyxy, atol=ROUNDING, rtol=0))
        case Masks(), Masks():
            return _drawn(a) == _drawn(b)
        case _:
            return a == b


def proposed(question: Question, labels: Labels) -> Labels:
    """The labels with what the model says put in, where it is not there yet."""
    match labels:
        case ImageClass():
            return ImageClass(question.proposed) if question.proposed and labels.name == question.given else labels
        case Boxes() if question.box is not None:
            return _boxes(question, labels, question.box)
        case Masks() if question.region is not None:
            return _masks(question, labels, question.region)
        case _:
            return labels


def _boxes(question: Question, labels: Boxes, box: tuple[float, float, float, float]) -> Boxes:
    place = np.asarray([box], np.float32)
    rows = [row for row, name in enumerate(labels.names) if question.given in (None, name)]
    near = boxes.best(place, labels.xyxy[rows])
    at = rows[int(near.which[0])] if near.iou[0] >= SAME_OBJECT else None
    if question.kind is QuestionKind.MISSED:
        if at is not None or question.proposed is None:
            return labels
        added = Boxes(place, (question.proposed,))
        xyxy = np.concatenate([labels.xyxy, added.xyxy])
        if labels.corners is None:
            return Boxes(xyxy, (*labels.names, question.proposed))
        return Boxes(xyxy, (*labels.names, question.proposed), np.concatenate([labels.corners, corners_of(place)]))
    if at is None:
        return labels
    if question.proposed is None:
        kept = [row for row in range(len(labels.names)) if row != at]
        return boxes.pick(labels, kept, labels.xyxy[kept])
    renamed = (*labels.names[:at], question.proposed, *labels.names[at + 1 :])
    return Boxes(labels.xyxy, renamed, labels.corners)


def _masks(question: Question, labels: Masks, region: Rle) -> Masks:
    """The region's pixels leave the class given and go to the one proposed."""
    pixels = rle.decode(region).astype(bool)
    by_name = {name: rle.decode(mask).astype(bool) for name, mask in labels.by_name.items()}
    if question.given in by_name:
        by_name[question.given] &= ~pixels
    if question.proposed is not None:
        by_name[question.proposed] = by_name.get(question.proposed, np.zeros_like(pixels)) | pixels
    return Masks({name: rle.encode(mask) for name, mask in by_name.items() if mask.any()})


def _corrects(question: Question, labels: Labels) -> bool:
    """Whether these labels say already what was in question, and those that were asked about did not."""
    before = proposed(question, question.labels)
    return same(labels, proposed(question, labels)) and not same(question.labels, before)


def _drawn(masks: Masks) -> dict[str, Rle]:
    return {name: mask for name, mask in masks.by_name.items() if rle.area(mask)}
