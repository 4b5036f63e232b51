"""Values are checked where they are made."""

import numpy as np
import pytest

from alpipe import rle
from alpipe.errors import AlpipeError, DataError
from alpipe.types import (
    Annotation,
    AnswerState,
    Boxes,
    BoxPrediction,
    ClassPrediction,
    ImageClass,
    MapPrediction,
    Masks,
    is_empty,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("xyxy", "names", "fault"),
    [
        ([[0, 0, 1]], ("a",), "shape"),
        ([[0, 0, 1, 1]], (), "0 names"),
        ([[0, 0, 1, 1]], ("a", "b"), "2 names"),
        ([[0, 0, 1, NAN]], ("a",), "not a finite"),
        ([[0, -INF, 1, 1]], ("a",), "not a finite"),
        ([[0, 0, 1, 1], [2, 2, 2, 5]], ("a", "a"), "box 1 has no area"),
        ([[5, 0, 1, 1]], ("a",), "box 0 has no area"),
    ],
)
def test_wrong_boxes_are_refused(xyxy, names, fault):
    with pytest.raises(DataError, match=fault):
        Boxes(np.asarray(xyxy, np.float32), names)


def test_boxes_of_any_numbers_become_single_precision():
    boxes = Boxes([[0, 0, 1, 2]], ("a",))
    assert boxes.xyxy.dtype == np.float32
    assert boxes == Boxes(np.asarray([[0, 0, 1, 2]], np.float64), ("a",))
    assert boxes != Boxes(boxes.xyxy, ("b",))
    assert boxes != Boxes(boxes.xyxy + 1, ("a",))


def test_boxes_that_people_turned_have_corners_and_upright_ones_need_none():
    upright = Boxes([[0, 0, 4, 2]], ("a",))
    assert upright.rotated.tolist() == [False]
    repeated = Boxes(upright.xyxy, ("a",), [[[0, 0], [4, 0], [4, 2], [0, 2]]])
    assert repeated.corners is None
    assert repeated == upright
    turned = Boxes(upright.xyxy, ("a",), [[[2, 0], [4, 1], [2, 2], [0, 1]]])
    assert turned.rotated.tolist() == [True]
    assert turned != upright
    assert turned == Boxes(turned.xyxy, ("a",), turned.corners.copy())
    for wrong in ([[[2, 0], [4, 1], [2, 2]]], [[[2, 0], [4, 1], [2, 2], [0, NAN]]]):
        with pytest.raises(DataError, match="corners"):
            Boxes(upright.xyxy, ("a",), wrong)


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), np.zeros((0,))])
def test_no_box_is_an_ordinary_value(nothing):
    assert Boxes(nothing, ()) == Boxes.none()
    assert Boxes.none().xyxy.shape == (0, 4)


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(DataError, match="different sizes"):
        Masks({"a": rle.encode(np.ones((2, 3), np.uint8)), "b": rle.encode(np.ones((3, 2), np.uint8))})


def test_what_is_empty():
    mask = rle.encode(np.ones((2, 2), np.uint8))
    assert [is_empty(labels) for labels in (Boxes.none(), Masks({}))] == [True, True]
    full = (Boxes(np.asarray([[0, 0, 1, 1]]), ("a",)), Masks({"a": mask}), ImageClass("a"))
    assert [is_empty(labels) for labels in full] == [False] * 3


@pytest.mark.parametrize("labels", [None, Boxes.none(), Masks({})])
def test_an_answer_that_says_labelled_holds_a_label(labels):
    with pytest.raises(DataError, match="annotation 7 of item k"):
        Annotation("k", AnswerState.LABELLED, labels, "robot", "7")
    for state in (AnswerState.EMPTY, AnswerState.SKIPPED, AnswerState.DRAFT):
        assert Annotation("k", state, labels, "robot", "7").at.tzinfo is not None


def test_an_answer_that_says_empty_holds_none():
    with pytest.raises(DataError, match="'empty' but holds labels"):
        Annotation("k", AnswerState.EMPTY, ImageClass("a"), "robot", "7")


def test_class_probabilities_are_one_row_within_the_unit_interval():
    with pytest.raises(DataError, match="item k have shape"):
        ClassPrediction("k", np.zeros((1, 3), np.float32))
    for broken in ([0.5, NAN], [1.5, 0.0], [-0.1, 1.1]):
        with pytest.raises(DataError, match="item k are not all within"):
            ClassPrediction("k", np.asarray(broken, np.float32))


def _boxes(n: int, **changed: np.ndarray) -> BoxPrediction:
    parts = {
        "xyxy": np.tile(np.asarray([0, 0, 1, 1], np.float32), (n, 1)),
        "scores": np.full(n, 0.5, np.float32),
        "probs": np.full((n, 3), 0.5, np.float32),
        "class_index": np.zeros(n, np.int64),
    }
    return BoxPrediction("k", **{**parts, **changed})


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"xyxy": np.zeros((1, 4), np.float32)}, "shapes"),
        ({"probs": np.zeros((2,), np.float32)}, "shapes"),
        ({"probs": np.zeros((3, 3), np.float32)}, "shapes"),
        ({"class_index": np.zeros((2, 1), np.int64)}, "shapes"),
        ({"xyxy": np.full((2, 4), NAN, np.float32)}, "not finite"),
        ({"scores": np.full(2, 1.1, np.float32)}, "box scores"),
        ({"probs": np.full((2, 3), NAN, np.float32)}, "class probabilities"),
    ],
)
def test_wrong_predicted_boxes_are_refused(changed, fault):
    assert len(_boxes(2).scores) == 2
    assert len(_boxes(0).scores) == 0
    with pytest.raises(DataError, match=fault):
        _boxes(2, **changed)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_maps_have_three_dimensions_within_the_unit_interval(kind):
    assert MapPrediction("k", np.full((2, 3, 4), 0.5, kind), (40, 30)).size == (40, 30)
    with pytest.raises(DataError, match="shape"):
        MapPrediction("k", np.full((3, 4), 0.5, kind), (40, 30))
    with pytest.raises(DataError, match="pixel probabilities"):
        MapPrediction("k", np.full((2, 3, 4), NAN, kind), (40, 30))


def test_a_stated_failure_is_one_line():
    assert str(AlpipeError("first\n  second\t third")) == "first second third"
