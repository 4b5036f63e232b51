"""Labels to and from JSON, and what a prediction proposes to a person."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alpipe import labels, rle
from alpipe.errors import DataError
from alpipe.types import Boxes, BoxPrediction, ClassPrediction, ImageClass, MapPrediction, Masks, Rle

CLASSES = ("cat", "dog")
names = st.text(max_size=10)


@st.composite
def any_boxes(draw: st.DrawFn) -> Boxes:
    n = draw(st.integers(0, 5))
    corners = draw(npst.arrays(np.float32, (n, 2), elements=st.floats(-100, 1000, width=32)))
    sides = draw(npst.arrays(np.float32, (n, 2), elements=st.floats(0.5, 1000, width=32)))
    turned = None
    if draw(st.booleans()):
        turned = draw(npst.arrays(np.float32, (n, 4, 2), elements=st.floats(-100, 1000, width=32)))
    return Boxes(np.hstack([corners, corners + sides]), tuple(draw(st.lists(names, min_size=n, max_size=n))), turned)


@st.composite
def any_masks(draw: st.DrawFn) -> Masks:
    shape = draw(npst.array_shapes(min_dims=2, max_dims=2, max_side=12))
    images = st.lists(npst.arrays(np.uint8, shape, elements=st.integers(0, 1)), max_size=3)
    return Masks({f"{draw(names)}{n}": rle.encode(image) for n, image in enumerate(draw(images))})


@given(st.one_of(any_boxes(), any_masks(), names.map(ImageClass)))
def test_json_gives_the_same_labels_back_to_the_bit(given_labels):
    back = labels.from_json(json.loads(json.dumps(labels.to_json(given_labels))))
    assert back == given_labels
    assert type(back) is type(given_labels)
    if isinstance(back, Boxes):
        assert back.xyxy.tobytes() == given_labels.xyxy.tobytes()
        assert (back.corners is None) == (given_labels.corners is None)
        assert back.corners is None or back.corners.tobytes() == given_labels.corners.tobytes()
    if isinstance(back, Masks):
        assert list(back.by_name) == list(given_labels.by_name)
        assert all(isinstance(mask, Rle) for mask in back.by_name.values())


NOT_LABELS = (
    {},
    {"class": 3},
    {"boxes": [[0, 0, 1, 1]]},
    {"boxes": [[0, 0, 1]], "names": ["a"]},
    {"boxes": [[0, 0, 1, 1]], "names": ["a"], "corners": "none"},
    {"boxes": [["x", 0, 1, 1]], "names": ["a"]},
    {"masks": []},
    {"masks": {"a": [3, 4]}},
    {"polygon": []},
)


@pytest.mark.parametrize("value", NOT_LABELS)
def test_anything_else_is_refused(value):
    with pytest.raises(DataError, match="cannot be read"):
        labels.from_json(value)


def test_a_map_is_enlarged_to_the_image_before_its_classes_are_taken():
    """Probabilities are interpolated, not classes: the border lies where they cross."""
    probs = np.asarray([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32)
    enlarged = labels.predicted_class_map(MapPrediction("a", probs, (40, 20)))
    assert enlarged.shape == (20, 40)
    assert enlarged.dtype == np.uint8
    assert (enlarged[:, :20] == 0).all()
    assert (enlarged[:, 20:] == 1).all()


@given(npst.arrays(np.uint8, (6, 7), elements=st.integers(0, 2)))
def test_a_certain_map_of_the_size_of_the_image_is_its_class_map(image):
    probs = (np.arange(3)[:, None, None] == image).astype(np.float16)
    assert np.array_equal(labels.predicted_class_map(MapPrediction("a", probs, (7, 6))), image)


# ── suggestions ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_most_probable_class_is_proposed_where_it_reaches_the_threshold():
    prediction = ClassPrediction("a", np.asarray([0.25, 0.75], np.float32))
    proposed = labels.suggest(prediction, CLASSES, 0.75, "m1")
    assert proposed is not None
    assert (proposed.labels, proposed.scores, proposed.model) == (ImageClass("dog"), (0.75,), "m1")
    assert labels.suggest(prediction, CLASSES, 0.8, "m1") is None


def test_boxes_of_enough_confidence_and_area_are_proposed_with_their_scores():
    xyxy = np.asarray([[0, 0, 9, 9], [5, 5, 9, 9], [3, 3, 3.2, 9]], np.float32)
    scores = np.asarray([0.5, 0.125, 0.75], np.float32)
    prediction = BoxPrediction("a", xyxy, scores, np.tile(scores[:, None], 2), np.asarray([1, 0, 0]))
    proposed = labels.suggest(prediction, CLASSES, 0.3, "m1")
    assert proposed is not None
    assert proposed.labels == Boxes(xyxy[:1], ("dog",))
    assert proposed.scores == (0.5,)
    assert labels.suggest(prediction, CLASSES, 0.9, "m1") is None


def test_masks_are_proposed_by_the_mean_probability_of_their_pixels():
    probs = np.zeros((3, 8, 10), np.float32)
    probs[0] = 1
    probs[:, :4] = np.asarray([0.1, 0.9, 0.0])[:, None, None]
    probs[:, 6:] = np.asarray([0.4, 0.0, 0.6])[:, None, None]
    prediction = MapPrediction("a", probs, (10, 8))
    both = labels.suggest(prediction, CLASSES, 0.5, "m1")
    assert both is not None
    assert both.scores == pytest.approx((0.9, 0.6))
    assert [rle.area(mask) for mask in both.labels.by_name.values()] == [40, 20]
    sure = labels.suggest(prediction, CLASSES, 0.7, "m1")
    assert sure is not None
    assert list(sure.labels.by_name) == ["cat"]
    assert labels.suggest(prediction, CLASSES, 0.95, "m1") is None


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_what_is_proposed_has_a_score_for_each_part_at_least_the_threshold(seed, threshold):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([0.5, 0.3, 0.3], (3, 4)).transpose(2, 0, 1).astype(np.float32)
    probs = np.stack([cv2.resize(channel, (9, 7)) for channel in probs]).clip(0, 1)
    proposed = labels.suggest(MapPrediction("a", probs, (18, 14)), CLASSES, threshold, "m1")
    if proposed is not None:
        assert len(proposed.scores) == len(proposed.labels.by_name) > 0
        assert all(threshold <= score <= 1 for score in proposed.scores)
