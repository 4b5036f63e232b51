"""Objects that nobody marked, and that models see which were not trained on the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpipe import rle
from alpipe.mining.overlooked import Overlooked
from alpipe.types import (
    Boxes,
    BoxPrediction,
    Example,
    Item,
    Labels,
    MapPrediction,
    Masks,
    Negative,
    Prediction,
    Question,
    QuestionKind,
    Task,
)

CLASSES = ("cat", "dog")
SIZE = 100


def asked(
    pairs: Sequence[tuple[Labels, Prediction]], known: Sequence[Negative] = (), task: Task = Task.DETECT
) -> list[Question]:
    truths = {seen.item_key: Example(Item(seen.item_key, "/x.png", SIZE, SIZE), labels) for labels, seen in pairs}
    overlooked = Overlooked(task, truths, CLASSES, known)
    assert [one.item_key for one in overlooked.watch(seen for _, seen in pairs)] == list(truths), "they pass"
    return overlooked.questions(2, "m")


def boxes(key: str, labelled: Sequence[float], seen: Sequence[tuple[float, str, float]]) -> tuple[Labels, Prediction]:
    """Boxes of 10 pixels a side, by their x; all that are labelled are cats."""
    xyxy = np.array([[x, 0, x + 10, 10] for x in labelled], np.float32).reshape(-1, 4)
    found = np.array([[x, 0, x + 10, 10] for x, _, _ in seen], np.float32).reshape(-1, 4)
    index = np.array([CLASSES.index(name) for _, name, _ in seen], np.int64)
    scores = np.array([score for *_, score in seen], np.float32)
    probs = np.zeros((len(seen), 2), np.float32)
    probs[np.arange(len(seen)), index] = scores
    return Boxes(xyxy, ("cat",) * len(labelled)), BoxPrediction(key, found, scores, probs, index)


GOOD = [boxes(f"g{at}", [0], [(1, "cat", 0.8)]) for at in range(30)]


def test_what_is_seen_as_surely_as_true_objects_and_lies_on_no_label() -> None:
    [question] = asked([*GOOD, boxes("x", [0], [(3, "cat", 0.8), (40, "cat", 0.7)])])
    assert (question.item.key, question.kind, question.given, question.proposed) == (
        "x", QuestionKind.MISSED, None, "cat",
    )  # fmt: skip
    assert question.box == (40, 0, 50, 10)
    assert question.score == 1.0, "all that is as sure is labelled"


def test_only_the_order_of_scores_counts() -> None:
    faint = [boxes(f"f{at}", [0], [(0, "cat", 0.08)]) for at in range(30)]
    assert len(asked([*faint, boxes("x", [], [(40, "cat", 0.09)])])) == 1


def test_nothing_is_asked_where_most_of_what_is_as_sure_lies_on_no_label() -> None:
    sure = [boxes(f"s{at}", [], [(40, "cat", 0.9)]) for at in range(5)]
    dreams = [boxes(f"d{at}", [], [(40, "cat", 0.2 + at / 1000)]) for at in range(200)]
    found = asked([*GOOD, *sure, *dreams])
    assert {one.item.key for one in found} == {seen.item_key for _, seen in sure}
    assert {one.score for one in found} == {1 / at for at in range(1, 6)}
    assert asked(dreams) == []


def test_a_place_is_asked_about_once_and_not_where_it_was_asked_about_before() -> None:
    twice = boxes("x", [], [(40, "cat", 0.9), (41, "dog", 0.95)])
    [question] = asked([*GOOD, twice])
    assert question.proposed == "dog", "the surer one"
    assert asked([*GOOD, twice], [Negative("x", (42, 0, 52, 10), "cat", 0.5, 0.0)]) == []
    assert asked([*GOOD, twice], [Negative("y", (42, 0, 52, 10), "cat", 0.5, 0.0)]) != [], "another image"


def test_of_a_map_a_region_that_lies_on_no_mask() -> None:
    cat = np.zeros((SIZE, SIZE), np.uint8)
    cat[10:20, 10:20] = 1
    probs = np.zeros((3, SIZE, SIZE), np.float32)
    probs[1, 10:20, 10:20] = probs[1, 40:50, 40:50] = 0.9
    probs[0] = 1 - probs[1]
    [question] = asked([(Masks({"cat": rle.encode(cat)}), MapPrediction("x", probs, (SIZE, SIZE)))], task=Task.SEGMENT)
    assert question.box == (40, 40, 50, 50)
