"""IoU and matching on any device of PyTorch: the same figures as those of arrays and of pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alpipe import boxes, rle, torch_iou
from alpipe.errors import DataError
from alpipe.types import Rle

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")),
]
on_each_device = pytest.mark.parametrize("device", DEVICES)

coordinates = st.one_of(st.integers(-20, 60).map(float), st.floats(-20, 60, width=32))
dtypes = st.sampled_from([np.float32, np.float64])


def box_arrays(most=12):
    return npst.arrays(np.float32, st.tuples(st.integers(0, most), st.just(4)), elements=coordinates)


@on_each_device
@given(box_arrays(), box_arrays(), dtypes, dtypes)
def test_iou_of_boxes_is_that_of_arrays_bit_for_bit(device, a, b, one, other):
    a, b = a.astype(one), b.astype(other)
    found = torch_iou.iou(torch.from_numpy(a).to(device), torch.from_numpy(b).to(device))
    assert found.device.type == device
    np.testing.assert_array_equal(found.cpu().numpy(), boxes.iou(a, b))


@on_each_device
@given(box_arrays(), box_arrays(), st.sampled_from([1, 7, 1 << 24]))
def test_the_best_box_is_that_of_arrays_however_few_pairs_are_held(device, a, b, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_iou, "BLOCK", block)
        value, which = torch_iou.best(torch.from_numpy(a).to(device), torch.from_numpy(b).to(device))
    expected = boxes.best(a, b)
    np.testing.assert_array_equal(value.cpu().numpy(), expected.iou)
    np.testing.assert_array_equal(which.cpu().numpy(), expected.which)


@on_each_device
@given(box_arrays(), box_arrays(), st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([1, 7, 1 << 24]))
def test_matching_is_that_of_arrays_however_few_pairs_are_held(device, candidates, truths, threshold, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_iou, "BLOCK", block)
        matched = torch_iou.match(
            torch.from_numpy(candidates).to(device), torch.from_numpy(truths).to(device), threshold
        )
    assert matched.device.type == device
    assert matched.tolist() == boxes.match(candidates, truths, threshold).tolist()


@st.composite
def mask_lists(draw):
    size = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    masks = st.lists(npst.arrays(np.uint8, size, elements=st.integers(0, 1)), max_size=6)
    return [[rle.encode(mask) for mask in draw(masks)] for _ in range(2)]


@on_each_device
@given(mask_lists(), st.sampled_from([1, 50, 1 << 24]))
def test_iou_of_masks_is_that_of_pycocotools_however_little_is_held(device, sides, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_iou, "BLOCK", block)
        found = torch_iou.mask_iou(*sides, device=device)
    assert found.device.type == device
    np.testing.assert_array_equal(found.cpu().numpy(), rle.iou(*sides))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_runs_of_no_length_change_nothing(runs):
    runs = runs if sum(runs) else [*runs, 1]
    mask = np.repeat(np.arange(len(runs)) % 2, runs)[None]
    written = "".join(_counted(runs))
    found = torch_iou.mask_iou([Rle(1, sum(runs), written)], [rle.encode(mask.astype(np.uint8))])
    assert found.item() == (1 if mask.any() else 0)


def _counted(runs):
    """COCO's characters for runs of up to 3 pixels: from the fourth on, the difference to the last but one."""
    for at, run in enumerate(runs):
        yield chr(48 + ((run - runs[at - 2] if at > 2 else run) & 31))


def test_masks_of_two_sizes_and_damaged_ones_are_refused_with_what_is_wrong():
    small, large = rle.encode(np.ones((3, 4), np.uint8)), rle.encode(np.ones((5, 6), np.uint8))
    with pytest.raises(DataError, match="different sizes"):
        torch_iou.mask_iou([small], [large])
    with pytest.raises(DataError, match="damaged"):
        torch_iou.mask_iou([Rle(5, 6, small.counts)], [large])
