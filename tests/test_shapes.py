"""Polygons along pixel edges, and Label Studio's brush strokes against its own code."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle

from alpipe import rle
from alpipe.errors import DataError
from alpipe.shapes import brush, outlines

MASKS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 1))


@given(MASKS)
def test_filling_the_traced_polygons_gives_the_mask_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    polygons = list(outlines.trace(mask))
    filled = [rle.decode(outlines.fill([polygon.ravel().tolist()], width, height)) for polygon in polygons]
    assert np.array_equal(sum(filled, start=np.zeros_like(mask)), mask)  # each region by itself, and none overlap


def test_a_hole_and_an_island_in_it_are_traced() -> None:
    mask = np.ones((200, 300), np.uint8)
    mask[20:180, 30:250] = 0
    mask[50:150, 60:200] = 1
    mask[90:91, 100:101] = 0
    polygons = [polygon.ravel().tolist() for polygon in outlines.trace(mask)]
    assert len(polygons) == 2
    assert np.array_equal(rle.decode(outlines.fill(polygons, 300, 200)), mask)


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:7] = 1
    (polygon,) = outlines.trace(mask)
    assert sorted(polygon.tolist()) == [[2, 1], [2, 4], [7, 1], [7, 4]]


@given(MASKS)
def test_run_lengths_of_both_kinds_are_read(mask: np.ndarray) -> None:
    height, width = mask.shape
    encoded = rle.encode(mask)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    if not mask.any():
        for empty in (encoded.counts, counts):
            with pytest.raises(DataError, match="no pixel"):
                outlines.from_counts(empty, width, height)
        return
    assert outlines.from_counts(encoded.counts, width, height) == encoded
    assert outlines.from_counts(counts, width, height) == encoded


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_no_text_of_run_lengths_does_harm(counts: str) -> None:
    with contextlib.suppress(DataError):
        mask = rle.decode(outlines.from_counts(counts, 5, 4))
        assert mask.shape == (4, 5)
        assert mask.any()


@given(MASKS)
def test_brush_strokes_are_encoded_as_label_studio_does(mask: np.ndarray) -> None:
    assert brush.encode(mask) == mask2rle(mask * np.uint8(255))


def test_a_long_run_is_encoded_as_label_studio_does() -> None:
    for pixels in (2**14, 2**14 + 1, 2**16 + 3):
        mask = np.ones((1, pixels), np.uint8)
        assert brush.encode(mask) == mask2rle(mask * np.uint8(255))
        assert np.array_equal(brush.decode(brush.encode(mask), pixels, 1), mask)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4))))
def test_any_image_of_brush_strokes_is_decoded_as_label_studio_does(rgba: np.ndarray) -> None:
    height, width, _ = rgba.shape
    encoded = encode_rle(rgba.ravel())
    alpha = decode_rle(encoded).reshape(height, width, 4)[:, :, 3]
    assert np.array_equal(brush.decode(encoded, width, height), alpha >= 128)


@given(st.lists(st.integers(0, 255), max_size=30))
def test_no_bytes_do_harm(noise: list[int]) -> None:
    header = brush.encode(np.zeros((4, 5), np.uint8))[:6]
    for data in (noise, [*header, *noise]):
        with contextlib.suppress(DataError):
            assert brush.decode(data, 5, 4).shape == (4, 5)


def test_brush_strokes_that_claim_to_be_huge_are_refused_before_they_take_memory() -> None:
    with pytest.raises(DataError, match="do not fill"):
        brush.decode([255, 255, 255, 252, *[0] * 20], 10, 10)


@given(MASKS, st.floats(0, 0.2))
def test_a_simplified_outline_fills_nearly_the_region_it_is_of(mask: np.ndarray, tolerance: float) -> None:
    height, width = mask.shape
    exact = [polygon.ravel().tolist() for polygon in outlines.trace(mask)]
    simple = [polygon.ravel().tolist() for polygon in outlines.simplify(mask, tolerance)]
    assert len(simple) == len(exact)
    for before, after in zip(exact, simple, strict=True):
        assert len(after) <= len(before)
        region, filled = (rle.decode(outlines.fill([points], width, height)) for points in (before, after))
        assert (region & filled).sum() >= (1 - tolerance) * (region | filled).sum()


def test_a_round_outline_needs_far_fewer_points_where_some_pixels_may_miss() -> None:
    disc = outlines.ellipse((60, 60), (50, 50), 0, 120, 120).astype(np.uint8)
    (exact,), (simple,) = outlines.trace(disc), outlines.simplify(disc, 0.01)
    assert len(simple) < len(exact) / 4


@given(
    st.floats(-20, 60), st.floats(-20, 60), st.floats(2, 30), st.floats(2, 30), st.floats(-360, 360)
)  # fmt: skip
def test_an_ellipse_covers_its_area_and_lies_in_the_box_around_it(
    x: float, y: float, across: float, down: float, degrees: float
) -> None:
    pixels = outlines.ellipse((x + 100, y + 100), (across, down), degrees, 300, 300)
    assert abs(pixels.sum() - np.pi * across * down) <= 4 * (across + down) ** 0.5 + 0.05 * np.pi * across * down
    rows, columns = np.nonzero(pixels)
    x1, y1, x2, y2 = outlines.around_ellipse((x + 100, y + 100), (across, down), degrees)
    assert x1 <= columns.min() + 0.5 <= x1 + 2.5
    assert x2 - 2.5 <= columns.max() + 0.5 <= x2
    assert y1 <= rows.min() + 0.5 <= y1 + 2.5
    assert y2 - 2.5 <= rows.max() + 0.5 <= y2


def test_an_ellipse_over_the_edge_is_cut_there() -> None:
    whole, cut = outlines.ellipse((50, 50), (20, 10), 30, 100, 100), outlines.ellipse((50, 50), (20, 10), 30, 55, 52)
    assert np.array_equal(cut, whole[:52, :55])
    assert not outlines.ellipse((500, 50), (20, 10), 30, 100, 100).any()
