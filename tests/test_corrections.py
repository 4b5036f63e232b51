"""What a reply makes of the labels."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from alpipe import rle
from alpipe.corrections import judge, same
from alpipe.types import (
    Boxes,
    ImageClass,
    Item,
    Labels,
    Masks,
    Question,
    QuestionKind,
    QuestionState,
    Reply,
    Rle,
)

ITEM = Item("k", "/k.png", 40, 40)
MISSED, UNFOUNDED, SWAPPED = QuestionKind
RIGHT, WRONG, UNSURE = QuestionState.RIGHT, QuestionState.WRONG, QuestionState.UNSURE


def asked(
    kind: QuestionKind, labels: Labels, x: float | None, given: str | None, seen: str | None, region: Rle | None = None
) -> Question:
    box = None if x is None else (x, 0.0, x + 10, 10.0)
    return Question("q", ITEM, kind, labels, box, given, seen, 0.9, 1, "m", "why", region)


def reply(model: bool | None, labels: Labels | None = None) -> Reply:
    return Reply("q", model, labels, "labelstudio:1", "1/q/a1", datetime.now(UTC))


def boxes(*objects: tuple[float, str]) -> Boxes:
    xyxy = np.array([[x, 0, x + 10, 10] for x, _ in objects], np.float32).reshape(-1, 4)
    return Boxes(xyxy, tuple(name for _, name in objects))


A = boxes((0, "cat"))


@pytest.mark.parametrize(
    ("question", "corrected"),
    [
        (asked(MISSED, A, 20, None, "dog"), boxes((0, "cat"), (20, "dog"))),
        (asked(UNFOUNDED, A, 0, "cat", None), Boxes.none()),
        (asked(SWAPPED, boxes((20, "cat"), (0, "cat")), 0, "cat", "dog"), boxes((20, "cat"), (0, "dog"))),
        (asked(SWAPPED, ImageClass("cat"), None, "cat", "dog"), ImageClass("dog")),
    ],
)
def test_what_the_model_says_is_put_in_where_the_person_chose_it(question: Question, corrected: Labels) -> None:
    for left in (None, question.labels, corrected):  # put in already: not twice
        found = judge(question, reply(True, left))
        assert found.state is WRONG
        assert found.labels is not None
        assert same(found.labels, corrected)
    assert judge(question, reply(False, question.labels)) == (RIGHT, None)
    assert judge(question, reply(None)) == (UNSURE, None)


def test_who_corrects_what_is_in_question_by_hand_finds_the_labels_wrong_whatever_they_click() -> None:
    found = judge(asked(MISSED, A, 20, None, "dog"), reply(False, boxes((0, "cat"), (21, "cat"))))
    assert found.state is WRONG
    assert found.labels == boxes((0, "cat"), (21, "cat"))


def test_another_correction_is_kept_beside_the_answer() -> None:
    found = judge(asked(MISSED, A, 20, None, "dog"), reply(False, boxes((0, "dog"))))
    assert (found.state, found.labels) == (RIGHT, boxes((0, "dog")))
    both = judge(asked(MISSED, A, 20, None, "dog"), reply(True, boxes((0, "dog"))))
    assert both == (WRONG, boxes((0, "dog"), (20, "dog")))


def test_what_rounding_does_to_a_box_is_no_correction() -> None:
    moved = Boxes(A.xyxy + np.float32(0.01), A.names)
    assert judge(asked(MISSED, A, 20, None, "dog"), reply(False, moved)) == (RIGHT, None)


def test_the_pixels_in_question_go_to_the_class_that_the_model_sees() -> None:
    part, whole = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    whole[:20], part[:10] = True, True
    labels = Masks({"cat": rle.encode(whole)})
    to_dog = judge(asked(SWAPPED, labels, 0, "cat", "dog", rle.encode(part)), reply(True, labels)).labels
    assert to_dog == Masks({"cat": rle.encode(whole & ~part), "dog": rle.encode(part)})
    to_none = judge(asked(UNFOUNDED, labels, 0, "cat", None, rle.encode(whole)), reply(True, labels)).labels
    assert to_none == Masks({}), "a class without pixels is none"
    undrawn = judge(asked(MISSED, labels, 0, None, "dog"), reply(True, labels))
    assert undrawn == (WRONG, None), "where only a frame is known, nothing is drawn for people"
