"""Likely label errors: what the model contradicts with confidence, in boxes, masks and classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from alpipe import rle
from alpipe.mining.label_errors import LabelErrors
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    ImageClass,
    Item,
    Labels,
    MapPrediction,
    Masks,
    Prediction,
    Question,
    QuestionKind,
)

CLASSES = ("cat", "dog")
SIZE = 40


def doubted(pairs: Sequence[tuple[Labels, Prediction]]) -> list[Question]:
    truths = {
        prediction.item_key: Example(Item(prediction.item_key, "/x.png", SIZE, SIZE), labels)
        for labels, prediction in pairs
    }
    errors = LabelErrors(truths, CLASSES)
    predictions = [prediction for _, prediction in pairs]
    assert list(errors.watch(iter(predictions))) == predictions, "they pass unchanged"
    return errors.questions(2, "m")


def image(key: str, name: str, cat: float) -> tuple[Labels, Prediction]:
    return ImageClass(name), ClassPrediction(key, np.array([cat, 1 - cat], np.float32))


def boxes(
    key: str, labelled: Sequence[tuple[float, str]], seen: Sequence[tuple[float, str, float]]
) -> tuple[Labels, Prediction]:
    """Boxes of 10 pixels a side, side by side by their x."""
    xyxy = np.array([[x, 0, x + 10, 10] for x, _ in labelled], np.float32).reshape(-1, 4)
    found = np.array([[x, 0, x + 10, 10] for x, _, _ in seen], np.float32).reshape(-1, 4)
    index = np.array([CLASSES.index(name) for _, name, _ in seen], np.int64)
    scores = np.array([score for *_, score in seen], np.float32)
    probs = np.zeros((len(seen), 2), np.float32)
    probs[np.arange(len(seen)), index] = scores
    prediction = BoxPrediction(key, found, scores, probs, index)
    return Boxes(xyxy, tuple(name for _, name in labelled)), prediction


def masks(key: str, cat: np.ndarray, probs: np.ndarray) -> tuple[Labels, Prediction]:
    return Masks({"cat": rle.encode(cat)}), MapPrediction(key, probs.astype(np.float32), (SIZE, SIZE))


def test_a_class_that_the_model_contradicts_as_surely_as_it_knows_the_other_class() -> None:
    good = [image(f"c{n}", "cat", 0.9) for n in range(4)] + [image(f"d{n}", "dog", 0.1) for n in range(4)]
    [question] = doubted([*good, image("x", "cat", 0.02)])
    assert (question.item.key, question.kind, question.given, question.proposed) == (
        "x", QuestionKind.SWAPPED, "cat", "dog",
    )  # fmt: skip
    assert question.score == pytest.approx((1 - (0.02 - 0.98)) / 2)
    two = doubted([*good, image("x", "cat", 0.02), image("y", "cat", 0.02)])
    assert [one.score for one in two] == pytest.approx([question.score * 4 / 5] * 2), (
        "one of five others is contradicted"
    )
    assert doubted([*good, image("y", "cat", 0.4)]) == [], "less sure of dog than of those that are dogs"


def test_of_the_classes_that_are_as_probable_as_usual_the_most_probable_is_proposed() -> None:
    """Confident Learning's confident joint: b is more probable than c, but far from what it is where labels say b."""
    probs = {"b1": (0.02, 0.95, 0.03), "c1": (0.6, 0.05, 0.35), "x": (0.1, 0.5, 0.4)}
    truths = {
        key: Example(Item(key, "/x.png", SIZE, SIZE), ImageClass(name)) for key, name in zip(probs, "bca", strict=True)
    }
    errors = LabelErrors(truths, ("a", "b", "c"))
    list(errors.watch(ClassPrediction(key, np.array(some, np.float32)) for key, some in probs.items()))
    [asked] = [question for question in errors.questions(1, "m") if question.item.key == "x"]
    assert (asked.given, asked.proposed) == ("a", "c")


def test_a_model_that_is_never_sure_of_a_class_has_no_say_in_it() -> None:
    weak = [image(f"d{n}", "dog", 0.55) for n in range(4)]
    assert doubted([*weak, image("x", "dog", 0.99)]) == [], "nothing is known of cats"


def test_a_model_that_takes_most_of_a_class_for_another_one_knows_neither() -> None:
    dogs = [image(f"d{n}", "dog", 0.3) for n in range(4)]
    confused = [image(f"c{n}", "cat", 0.25) for n in range(6)]
    assert doubted([*dogs, *confused, image("c", "cat", 0.9)]) == []


def test_a_box_of_another_class_and_a_box_where_the_model_sees_nothing() -> None:
    good = [boxes(f"g{n}", [(0, "cat"), (20, "dog")], [(0, "cat", 0.8), (20, "dog", 0.8)]) for n in range(5)]
    found = doubted([*good, boxes("x", [(0, "cat"), (20, "dog")], [(1, "dog", 0.9), (0, "cat", 0.1)])])
    by_kind = {question.kind: question for question in found}
    assert set(by_kind) == {QuestionKind.SWAPPED, QuestionKind.UNFOUNDED}
    swapped, unfounded = by_kind[QuestionKind.SWAPPED], by_kind[QuestionKind.UNFOUNDED]
    assert (swapped.given, swapped.proposed, swapped.box) == ("cat", "dog", (0, 0, 10, 10))
    assert swapped.score == pytest.approx((1 - (0.1 - 0.9)) / 2)
    assert (unfounded.given, unfounded.proposed, unfounded.box) == ("dog", None, (20, 0, 30, 10))
    assert unfounded.score == pytest.approx(1), "it finds the other dogs"
    assert found == sorted(found, key=lambda question: -question.score)


def test_a_model_that_finds_few_objects_raises_no_question_about_those_it_misses() -> None:
    missed = [boxes(f"m{n}", [(0, "cat")], []) for n in range(6)]
    assert doubted([*missed, boxes("g", [(0, "cat")], [(0, "cat", 0.9)])]) == []


def test_a_part_of_a_mask_that_the_model_surely_takes_for_something_else() -> None:
    cat = np.zeros((SIZE, SIZE), np.uint8)
    cat[2:12, 2:12] = 1
    cat[20:30, 20:30] = 1
    probs = np.zeros((3, SIZE, SIZE))
    probs[0] = 0.9
    probs[1:] = 0.05
    probs[:, 2:12, 2:12] = np.array([0.05, 0.9, 0.05])[:, None, None]
    probs[:, 20:30, 20:30] = np.array([0.05, 0.05, 0.9])[:, None, None]
    [question] = doubted([masks("x", cat, probs)])
    assert (question.kind, question.given, question.proposed) == (QuestionKind.SWAPPED, "cat", "dog")
    assert question.box == (20, 20, 30, 30)
    assert question.region is not None
    assert rle.area(question.region) == 100
    probs[:, 20:26, 20:30] = np.array([0.05, 0.9, 0.05])[:, None, None]
    assert doubted([masks("x", cat, probs)]) == [], "most of it is as labelled"


def test_the_same_doubt_has_the_same_key_whichever_model_has_it() -> None:
    good = [boxes(f"g{n}", [(0, "cat")], [(0, "cat", 0.9)]) for n in range(5)]
    first, second = (doubted([*good, boxes("x", [(20, "cat")], [(0, "dog", score)])]) for score in (0.3, 0.6))
    assert [one.key for one in first] == [one.key for one in second]
    assert len(first) == 1


def test_a_model_that_was_never_shown_a_class_does_not_judge_its_labels() -> None:
    pairs = [image(f"c{n}", "cat", 0.9) for n in range(4)] + [image("x", "dog", 0.99)]
    truths = {seen.item_key: Example(Item(seen.item_key, "/x.png", SIZE, SIZE), labels) for labels, seen in pairs}
    for never, asked in (((), 1), (("dog",), 0)):
        errors = LabelErrors(truths, CLASSES)
        for _ in errors.watch((seen for _, seen in pairs), never):
            pass
        assert len(errors.questions(2, "m")) == asked
