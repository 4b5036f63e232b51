"""The convolutions that networks are made of, what they cost, folding, and dropout in the last layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alpipe.errors import ConfigError
from alpipe.learners.nets.blocks import ChannelShuffle, Conv, ConvNormAct, Residual, conv2d
from alpipe.learners.nets.cost import cost, memory
from alpipe.learners.nets.dropout import sample_last
from alpipe.learners.nets.fold import ConvReLU, folded
from tests.test_learners_cnn import KINDS, randomised

sides = st.integers(1, 4)
quadruples = st.integers(1, 5).map(lambda n: 4 * n)


def weights(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@given(sides, quadruples, quadruples, st.sampled_from([1, 2, 4]), st.booleans())
def test_weights_follow_the_formulas(k: int, c: int, d: int, groups: int, shuffle: bool) -> None:
    assert weights(conv2d(c, d, k)) == k * k * c * d
    if k > 1:
        assert weights(conv2d(c, d, k, conv=Conv("group", groups, shuffle))) == k * k * c * d // groups
        assert weights(conv2d(c, d, k, conv=Conv("separable"))) == k * k * c + c * d


@given(st.sampled_from(KINDS), st.sampled_from([3, 5]), st.integers(1, 3), quadruples)
def test_all_kinds_give_maps_of_one_size(conv: Conv, kernel: int, stride: int, channels: int) -> None:
    image = torch.randn(2, channels, 13, 11)
    with torch.inference_mode():
        expected = nn.Conv2d(channels, 8, kernel, stride, kernel // 2)(image).shape
        assert conv2d(channels, 8, kernel, stride, conv=conv)(image).shape == expected


def test_a_1x1_convolution_is_never_cut_up() -> None:
    assert all(isinstance(conv2d(8, 8, 1, conv=conv), nn.Conv2d) for conv in KINDS)
    assert weights(conv2d(8, 8, 1, conv=Conv("group", 4))) == 64


@given(sides, quadruples, quadruples)
def test_a_separable_block_is_one_dense_kernel_the_product_of_its_steps(k: int, c: int, d: int) -> None:
    block = conv2d(c, d, k + 1, padding=0, conv=Conv("separable"))
    assert isinstance(block, nn.Sequential)
    deep, point = block[0].weight, block[1].weight  # (C, 1, k, k) and (D, C, 1, 1)
    assert isinstance(deep, torch.Tensor)
    assert isinstance(point, torch.Tensor)
    dense = point[:, :, 0, 0, None, None] * deep[None, :, 0]
    image = torch.randn(1, c, 9, 9)
    torch.testing.assert_close(block(image), nn.functional.conv2d(image, dense), atol=1e-5, rtol=1e-4)


@given(st.integers(1, 4), st.integers(1, 4))
def test_the_shuffle_interleaves_the_groups(groups: int, each: int) -> None:
    channels = torch.arange(groups * each).float().view(1, -1, 1, 1).expand(1, -1, 3, 2)
    made = ChannelShuffle(groups)(channels)[0, :, 0, 0].int().tolist()
    for group in range(groups):
        for place in range(each):
            assert made[place * groups + group] == group * each + place


def reach(conv: Conv) -> torch.Tensor:
    """(outputs, inputs), which channels of the input two convolutions in a row let an output channel see."""
    torch.manual_seed(0)
    net = nn.Sequential(conv2d(8, 8, conv=conv), conv2d(8, 8, conv=conv))
    image = torch.randn(1, 8, 5, 5, requires_grad=True)
    rows = []
    for channel in range(8):
        (gradient,) = torch.autograd.grad(net(image)[0, channel].sum(), image)
        rows.append(gradient[0].abs().sum(dim=(1, 2)) > 0)
    return torch.stack(rows)


def test_groups_see_each_other_only_with_the_shuffle() -> None:
    apart = reach(Conv("group", 2, shuffle=False))
    assert torch.equal(apart, torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).bool())
    assert reach(Conv("group", 2)).all()
    assert reach(Conv()).all()


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 6 to 8 channels cannot be cut into 4 groups"):
        conv2d(6, 8, conv=Conv("group", 4))


@pytest.mark.parametrize("conv", KINDS)
def test_the_first_layer_stays_standard(conv: Conv) -> None:
    assert weights(ConvNormAct(3, 8, conv=conv)[0]) == 9 * 3 * 8


def test_a_residual_block_starts_as_the_identity() -> None:
    image = torch.rand(2, 8, 6, 6)
    assert torch.equal(Residual(8)(image), image)


@pytest.mark.parametrize("conv", KINDS)
def test_a_folded_network_computes_the_same_without_batch_norms(conv: Conv) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(ConvNormAct(3, 8), ConvNormAct(8, 8, conv=conv), Residual(8, conv), nn.Conv2d(8, 2, 1))
    randomised(net)
    small = folded(net)
    image = torch.randn(2, 3, 12, 10)
    with torch.inference_mode():
        torch.testing.assert_close(small(image), net(image), atol=1e-5, rtol=1e-5)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in small.modules())
    assert left == (3 if conv.kind == "group" and conv.shuffle else 0)  # behind a shuffle they stay
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == 4


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_convolution_with_its_relu_computes_what_both_do_one_after_the_other(precision: torch.dtype) -> None:
    both = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1, groups=2), nn.ReLU())
    image = torch.randn(2, 6, 11, 9)
    whole = ConvReLU(both[0])
    assert whole(image).requires_grad
    with torch.inference_mode(), torch.autocast("cpu", precision, enabled=precision is not torch.float32):
        torch.testing.assert_close(whole(image), both(image))
        assert whole(image).dtype is precision
        assert (whole(image) >= 0).all()


@given(st.integers(1, 5), st.floats(0, 0.9), st.integers(0, 100), st.booleans())
def test_samples_of_the_last_layer_are_those_of_explicit_masks(samples: int, p: float, seed: int, maps: bool) -> None:
    torch.manual_seed(seed)
    layer: nn.Linear | nn.Conv2d = nn.Conv2d(6, 3, 1) if maps else nn.Linear(6, 3)
    features = torch.randn(2, 6, 4, 5) if maps else torch.randn(2, 6)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(samples, 1, 6, generator=generator) >= p
    with torch.inference_mode():
        made = sample_last(layer, features, p, samples, seed)
        for sample in range(samples):
            mask = kept[sample, 0].view(1, 6, *[1] * (features.ndim - 2))
            thinned = torch.where(mask, features / (1 - p), torch.zeros(()))
            torch.testing.assert_close(made[sample], layer(thinned), atol=1e-4, rtol=1e-4)


def test_without_dropout_all_samples_are_the_layer_itself() -> None:
    layer, features = nn.Linear(6, 3), torch.randn(4, 6)
    with torch.inference_mode():
        torch.testing.assert_close(sample_last(layer, features, 0.0, 3), layer(features).expand(3, 4, 3))


def test_only_a_1x1_last_layer_can_be_sampled() -> None:
    with pytest.raises(ValueError, match=r"kernel of \(3, 3\)"):
        sample_last(nn.Conv2d(4, 2, 3), torch.zeros(1, 4, 5, 5), 0.5, 2)


@given(st.sampled_from([1, 3]), quadruples, quadruples, st.integers(1, 2), st.sampled_from(["standard", "group"]))
def test_cost_is_that_of_the_hand_formulas(k: int, c: int, d: int, stride: int, kind: str) -> None:
    groups = 2 if kind == "group" and k > 1 else 1
    net = nn.Sequential(
        nn.Conv2d(3, c, 1, bias=False),
        conv2d(c, d, k, stride, conv=Conv(kind, 2, shuffle=False)),  # type: ignore[arg-type]
        nn.Flatten(),
        nn.LazyLinear(5, bias=False),
    )
    height, width = 8, 6
    net(torch.zeros(1, 3, height, width))
    h, w = -(-height // stride), -(-width // stride)
    products = 3 * c * height * width + k * k * c * d * h * w // groups + d * h * w * 5
    held = 3 * c + k * k * c * d // groups + d * h * w * 5
    found = cost(net, height, width)
    assert found.parameters == held
    assert found.multiply_adds == products
    assert found.memory.weights == 4 * held
    outputs = (c * height * width, d * h * w, d * h * w, 5)
    assert found.memory.outputs == 4 * sum(outputs)
    assert found.memory.largest == 4 * max(outputs)


def test_counting_leaves_the_network_as_it_was() -> None:
    net = nn.Sequential(ConvNormAct(3, 4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    memory(net, 8, 8)
    cost(net, 8, 8)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net[0][0]._forward_hooks
