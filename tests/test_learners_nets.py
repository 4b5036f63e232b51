"""The U-Net++ that can be cut at any depth, and its loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alpipe.learners.nets.nested import NestedUNet
from alpipe.learners.segmentation.objective import OUTSIDE, segmentation_loss


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_unetpp_cut_at_a_depth_says_what_that_head_says_in_the_whole(depth: int) -> None:
    net = NestedUNet(2, (4, 8, 8, 8)).eval()
    images = torch.randn(1, 3, 32, 24)
    with torch.inference_mode():
        whole, cut = net(images), net(images, depth)
    assert len(whole) == 3
    assert len(cut) == depth
    for one, other in zip(whole, cut, strict=False):
        assert one.shape == (1, 2, 32, 24)
        assert torch.equal(one, other)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_pixels_outside_the_image_cost_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    truth = torch.randint(0, 3, (2, 8, 8), generator=generator)
    truth[:, 5:] = OUTSIDE
    changed = logits.clone()
    changed[:, :, 5:] = torch.randn(2, 3, 3, 8, generator=generator)
    focus = torch.ones(2, 8, 8)
    assert float(segmentation_loss(logits, truth, focus)) == pytest.approx(
        float(segmentation_loss(changed, truth, focus)), abs=1e-5
    )


def test_a_perfect_map_costs_almost_nothing_and_a_wrong_one_much() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.long)
    truth[0, 2:5, 2:5] = 1
    right = torch.stack([truth == 0, truth == 1], dim=1).float() * 40 - 20
    assert float(segmentation_loss(right, truth, torch.ones(1, 8, 8))) < 0.01
    assert float(segmentation_loss(-right, truth, torch.ones(1, 8, 8))) > 10
