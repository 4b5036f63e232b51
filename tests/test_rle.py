"""Run-length masks: exact, and the same as COCO's."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from alpipe import rle
from alpipe.errors import DataError
from alpipe.types import Masks, Rle

masks = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


@given(masks)
@example(np.zeros((1, 1), np.uint8))
@example(np.ones((1, 1), np.uint8))
@example(np.ones((300, 700), np.uint8))
@example(np.eye(200, dtype=np.uint8))
def test_decoding_undoes_encoding(mask):
    decoded = rle.decode(rle.encode(mask))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, mask)


@given(masks)
def test_area_is_that_of_pycocotools_and_of_the_pixels(mask):
    encoded = rle.encode(mask)
    theirs = coco.area({"size": list(mask.shape), "counts": encoded.counts.encode()})
    assert rle.area(encoded) == theirs == mask.sum()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_counts_written_by_pycocotools_from_runs_are_read_as_those_runs(runs):
    width = sum(runs) or 1
    runs = runs if sum(runs) else [1]
    written = coco.frPyObjects({"size": [1, width], "counts": runs}, 1, width)
    expected = np.repeat(np.arange(len(runs)) % 2, runs)
    assert np.array_equal(rle.decode(Rle(1, width, written["counts"].decode()))[0], expected)


def test_every_value_but_zero_belongs_to_the_mask():
    assert rle.area(rle.encode(np.asarray([[0, 7], [255, 1]], np.uint8))) == 3


@given(st.text(max_size=30), st.integers(0, 50), st.integers(0, 50))
def test_damaged_counts_are_stated_or_give_a_mask_of_the_size(counts, height, width):
    try:
        decoded = rle.decode(Rle(height, width, counts))
    except DataError:
        return
    assert decoded.shape == (height, width)
    assert counts.isascii()


def test_counts_of_another_size_are_refused():
    encoded = rle.encode(np.ones((5, 6), np.uint8))
    with pytest.raises(DataError, match="damaged"):
        rle.decode(encoded._replace(width=7))


CLASSES = ("cell", "dust", "hair")


@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 3)))
def test_class_maps_come_back(image):
    given_masks = rle.from_class_map(image, CLASSES)
    assert np.array_equal(rle.class_map(given_masks, CLASSES, *image.shape), image)
    assert set(given_masks.by_name) == {CLASSES[value - 1] for value in np.unique(image) if value}


def test_later_names_lie_on_top():
    whole, part = np.ones((2, 2), np.uint8), np.asarray([[1, 0], [0, 0]], np.uint8)
    image = rle.class_map(Masks({"hair": rle.encode(whole), "cell": rle.encode(part)}), CLASSES, 2, 2)
    assert image.tolist() == [[1, 3], [3, 3]]


def test_wrong_masks_are_refused_by_name_and_size():
    encoded = rle.encode(np.ones((2, 3), np.uint8))
    with pytest.raises(DataError, match="unknown label 'car'"):
        rle.class_map(Masks({"car": encoded}), CLASSES, 2, 3)
    with pytest.raises(DataError, match="3×2 pixels for an image of 9×8"):
        rle.class_map(Masks({"cell": encoded}), CLASSES, 8, 9)
    with pytest.raises(DataError, match="value 4"):
        rle.from_class_map(np.asarray([[4]]), CLASSES)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 4), st.integers(0, 4), st.integers(0, 999))
def test_iou_of_masks_is_that_of_their_pixels(height, width, n, m, seed):
    drawn = np.random.default_rng(seed).random((n + m, height, width)) < 0.4
    a, b = drawn[:n], drawn[n:]
    shared = (a[:, None] & b[None]).sum(axis=(2, 3))
    union = (a[:, None] | b[None]).sum(axis=(2, 3))
    expected = np.divide(shared, union, out=np.zeros((n, m)), where=union > 0)
    found = rle.iou([rle.encode(mask) for mask in a], [rle.encode(mask) for mask in b])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_masks_that_cannot_be_compared_are_refused():
    encoded = rle.encode(np.ones((5, 6), np.uint8))
    with pytest.raises(DataError, match="different sizes"):
        rle.iou([encoded], [rle.encode(np.ones((6, 5), np.uint8))])
    with pytest.raises(DataError, match="damaged"):
        rle.iou([encoded], [encoded._replace(counts="5")])


@given(st.lists(st.sampled_from(["0", "1", "2", "4", "8", "D", "N", "O", "o", "\x7f", "X1"]), max_size=6).map("".join))
def test_one_damaged_mask_among_others_is_found_just_where_it_would_be_alone(counts):
    good, odd = rle.encode(np.eye(4, 6, dtype=np.uint8)), Rle(4, 6, counts)
    try:
        expected = rle.decode(odd)
    except DataError:
        with pytest.raises(DataError, match="damaged"):
            rle.iou([good, odd], [good])
    else:
        own = float(rle.iou([good, odd, good], [odd])[1, 0])
        assert own == (1 if expected.any() else 0)
