"""Arithmetic of boxes against pycocotools and against the definitions written out."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from alpipe import boxes
from alpipe.types import Boxes


@st.composite
def some_boxes(draw: st.DrawFn, most: int = 8) -> np.ndarray:
    """(N, 4) boxes with corners at quarters of pixels, some without area."""
    n = draw(st.integers(0, most))
    values = draw(npst.arrays(np.int64, (n, 4), elements=st.integers(0, 80)))
    return np.hstack([values[:, :2], values[:, :2] + values[:, 2:]]).astype(np.float32) / 4


def xywh(xyxy: np.ndarray) -> np.ndarray:
    return np.hstack([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]]).astype(np.float64)


@given(some_boxes(), some_boxes())
def test_iou_is_that_of_pycocotools(a, b):
    overlaps = boxes.iou(a, b)
    assert overlaps.shape == (len(a), len(b))
    if len(a) and len(b):
        theirs = np.nan_to_num(coco.iou(xywh(a), xywh(b), [0] * len(b)))
        assert overlaps == pytest.approx(theirs, abs=1e-6)


@given(some_boxes(4), some_boxes(4))
def test_iou_is_the_share_of_quarter_pixels_in_both(a, b):
    """Boxes drawn on a grid of quarters of pixels, and counted."""

    def draw(box: np.ndarray) -> np.ndarray:
        canvas = np.zeros((160, 160), bool)
        x1, y1, x2, y2 = (box * 4).astype(int)
        canvas[y1:y2, x1:x2] = True
        return canvas

    overlaps = boxes.iou(a, b)
    for row, one in enumerate(a):
        for column, other in enumerate(b):
            first, second = draw(one), draw(other)
            union = (first | second).sum()
            expected = (first & second).sum() / union if union else 0
            assert overlaps[row, column] == pytest.approx(expected, abs=1e-6)


@given(some_boxes(), some_boxes())
def test_iou_is_symmetric_and_one_with_itself(a, b):
    assert np.array_equal(boxes.iou(a, b), boxes.iou(b, a).T)
    assert (np.diagonal(boxes.iou(a, a)) == (boxes.areas(a) > 0)).all()


def test_a_box_turned_inside_out_has_no_area():
    assert boxes.areas(np.asarray([[5, 5, 1, 9], [0, 0, 2, 3]], np.float32)).tolist() == [0, 6]


@given(some_boxes(), some_boxes(), st.floats(0, 1))
def test_matching_is_one_to_one_and_only_above_the_threshold(candidates, truths, threshold):
    matched = boxes.match(candidates, truths, threshold)
    assert matched.shape == (len(candidates),)
    taken = matched[matched >= 0]
    assert len(set(taken.tolist())) == len(taken)
    overlaps = boxes.iou(candidates, truths)
    for row in np.flatnonzero(matched >= 0):
        assert overlaps[row, matched[row]] >= threshold
        assert overlaps[row, matched[row]] > 0


@given(some_boxes(), some_boxes(), st.floats(0, 1))
def test_matching_is_greedy_in_the_order_given(candidates, truths, threshold):
    """Each candidate has the best truth that those before it left; one without a match found none good enough."""
    matched = boxes.match(candidates, truths, threshold)
    overlaps = boxes.iou(candidates, truths)
    free = np.ones(len(truths), bool)
    for row in range(len(candidates)):
        best = overlaps[row][free].max(initial=0)
        if matched[row] >= 0:
            assert overlaps[row, matched[row]] == best
            free[matched[row]] = False
        else:
            assert best < threshold or best == 0


@given(some_boxes(most=12), st.floats(0, 1), st.data())
def test_suppression_keeps_the_best_no_two_of_which_overlap_too_much(xyxy, threshold, data):
    levels = data.draw(npst.arrays(np.int64, len(xyxy), elements=st.integers(0, 5)))
    scores = levels.astype(np.float32) / 5
    kept = boxes.suppress(xyxy, scores, threshold)
    assert (np.diff(scores[kept]) <= 0).all()
    overlaps = boxes.iou(xyxy, xyxy)
    for at in range(len(xyxy)):
        better = [k for k in kept if (-scores[k], k) < (-scores[at], at)]
        falls = any(overlaps[k, at] > threshold for k in better)
        assert falls == (at not in kept)


def test_nothing_to_match_and_nothing_to_suppress():
    none, one = np.zeros((0, 4), np.float32), np.asarray([[0, 0, 1, 1]], np.float32)
    assert boxes.match(none, one, 0.5).tolist() == []
    assert boxes.match(one, none, 0.5).tolist() == [-1]
    assert boxes.suppress(none, np.zeros(0, np.float32), 0.5).tolist() == []


@given(
    st.floats(-50, 500), st.floats(-50, 500), st.floats(1, 300), st.floats(1, 300), st.floats(0, 360, exclude_max=True)
)
def test_a_turned_box_is_told_by_its_corners_and_back(x, y, width, height, degrees):
    corners = boxes.turn(x, y, width, height, degrees)
    np.testing.assert_allclose(boxes.sides(corners)[:4], (x, y, width, height), atol=1e-9)
    turned = boxes.sides(corners)[4]
    assert min(abs(turned - degrees), 360 - abs(turned - degrees)) < 1e-6
    if not boxes.is_upright(corners):
        found = boxes.as_rectangle(corners)
        assert found is not None
        np.testing.assert_allclose(found, corners, atol=1e-3)
        mirrored = boxes.as_rectangle(corners[[0, 3, 2, 1]])
        np.testing.assert_allclose(mirrored, corners, atol=1e-3)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 360, -90])
def test_a_box_turned_by_right_angles_is_upright(degrees):
    corners = boxes.turn(100, 100, 30, 20, degrees)
    assert boxes.is_upright(corners)
    assert boxes.as_rectangle(corners) is None
    assert (corners == corners.round()).all(), "exactly"


@pytest.mark.parametrize(
    "points",
    [
        [[0, 0], [10, 3], [12, 12], [1, 9]],  # four sides, but no right angle
        [[0, 0], [10, 2], [13, 12], [3, 10]],  # leaning
        [[5, 5], [5, 5], [5, 5], [5, 5]],
        [[0, 0], [10, 5], [20, 10], [10, 5]],
        [[0, 0], [10, 10], [0, 10]],
        [[0, 0], [float("nan"), 1], [2, 2], [0, 1]],
    ],
)
def test_what_is_no_turned_rectangle_is_none(points):
    assert boxes.as_rectangle(np.asarray(points, float)) is None


def test_boxes_that_are_picked_keep_their_corners_where_they_are_turned():
    corners = np.stack([boxes.turn(10, 10, 8, 4, 0), boxes.turn(30, 30, 8, 4, 20)]).astype(np.float32)
    found = Boxes(np.asarray([[10, 10, 18, 14], [28, 30, 38, 37]], np.float32), ("a", "b"), corners)
    assert found.rotated.tolist() == [False, True]
    cut = boxes.pick(found, [1, 0], np.asarray([[28, 30, 35, 35], [10, 10, 16, 14]], np.float32))
    assert (cut.names, cut.rotated.tolist()) == (("b", "a"), [True, False])
    np.testing.assert_array_equal(cut.corners[0], corners[1])
    assert boxes.pick(found, [0], found.xyxy[:1]).corners is None
    assert boxes.pick(found, [], np.zeros((0, 4), np.float32)) == Boxes.none()


@given(some_boxes(), some_boxes())
def test_iou_of_doubles_is_that_of_pycocotools_to_the_bit(a, b):
    """Corners at quarters of pixels lose nothing in the change to width and height."""
    if len(a) and len(b):
        theirs = np.nan_to_num(coco.iou(xywh(a), xywh(b), [0] * len(b)))
        assert np.array_equal(boxes.iou(a.astype(np.float64), b.astype(np.float64)), theirs)


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, 7, 64, 1 << 15]), st.integers(0, 99))
def test_blocks_of_any_size_give_the_same_matrix_and_its_best(n, m, block, seed):
    rng = np.random.default_rng(seed)
    a, b = made(rng, n), made(rng, m)
    whole = boxes.iou(a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "BLOCK", block)
        assert np.array_equal(boxes.iou(a, b), whole)
        patch.setattr(boxes, "SORTED_FROM", 0 if n and m else 1)
        patch.setattr(boxes, "ROWS", 1 + block % 50)
        assert np.array_equal(boxes.iou(a, b), whole)
        best = boxes.best(a, b)
    assert np.array_equal(best.iou, whole.max(axis=1, initial=0))
    expected = np.where(best.iou > 0, whole.argmax(axis=1) if m else -1, -1)
    assert np.array_equal(best.which, expected)


def made(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 90, (count, 2))
    return np.hstack([corners, corners + rng.uniform(1, 30, corners.shape)]).astype(np.float32)


@given(some_boxes(12), some_boxes(12), st.sampled_from([0.1, 0.3, 0.5, 0.75]))
def test_matching_is_that_of_cocoeval(candidates, truths, threshold):
    """Of one image and one class, candidates best first; COCOeval leaves boxes without area to us."""
    candidates, truths = (side[(side[:, 2:] > side[:, :2]).all(axis=1)] for side in (candidates, truths))
    matched = boxes.match(candidates.astype(np.float64), truths.astype(np.float64), threshold)
    assert matched.tolist() == of_cocoeval(candidates, truths, threshold)


def of_cocoeval(candidates: np.ndarray, truths: np.ndarray, threshold: float) -> list[int]:
    if not len(candidates) or not len(truths):
        return [-1] * len(candidates)
    sides = []
    for side in (truths, candidates):
        rows = [
            {"id": at + 1, "image_id": 1, "category_id": 1, "bbox": box.tolist(), "area": box[2] * box[3], "iscrowd": 0}
            | {"score": 1 - at / 100}
            for at, box in enumerate(xywh(side))
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            one = COCO()
            one.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": rows}
            one.createIndex()
        sides.append(one)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.iouThrs = np.array([threshold])
        evaluation.evaluate()
    return [int(match) - 1 for match in evaluation.evalImgs[0]["dtMatches"][0]]
