"""The ConvNet's arithmetic, and that it says of a crop what it says when it slides over a larger image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from alpipe.errors import ConfigError
from alpipe.learners import cnn
from alpipe.learners.nets.blocks import Conv
from alpipe.learners.nets.convnet import ConvNet, Layout, convolutional
from alpipe.learners.nets.fold import folded
from alpipe.learners.training.data import Frame
from alpipe.learners.training.learner import Setting
from alpipe.protocols import LearnerContext
from alpipe.types import Item, Task

KINDS = [Conv(), Conv("group", 2), Conv("group", 4, shuffle=False), Conv("separable")]


@st.composite
def layouts(draw: st.DrawFn, padding: int | None = None) -> Layout:
    """Small networks of every kind."""
    kernel = draw(st.integers(1, 5))
    return Layout(
        features=tuple(draw(st.lists(st.sampled_from((4, 8)), min_size=1, max_size=3))),
        convs=draw(st.integers(1, 3)),
        kernel=kernel,
        stride=draw(st.integers(1, 3)),
        padding=draw(st.integers(0, kernel // 2)) if padding is None else padding,
        pool=draw(st.sampled_from(("max", "none"))),
        last_pool=draw(st.sampled_from(("average", "none"))),
        hidden=tuple(draw(st.lists(st.sampled_from((4, 6)), max_size=2))),
    )


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with weights and running statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
    return net.eval()


@given(layouts(), st.integers(1, 40))
def test_the_arithmetic_is_that_of_the_layers_themselves(layout: Layout, size: int) -> None:
    side, whole = size, True
    for layer in layout.layers():
        span = side + 2 * layer.padding - layer.kernel
        whole = whole and span >= 0 and span % layer.stride == 0
        if not whole:
            break
        side = span // layer.stride + 1
    if not whole:
        with pytest.raises(ConfigError, match="is not a whole, positive number"):
            layout.last_map(size)
        return
    assert layout.last_map(size) == side
    with torch.inference_mode():
        deepest = ConvNet(layout, 2, size).eval().encoder(torch.zeros(1, 3, size, size))[-1]
    assert deepest.shape == (1, layout.features[-1], side, side)


@given(layouts(), st.integers(1, 80))
def test_the_fitting_size_fits_and_is_the_largest_that_does(layout: Layout, wanted: int) -> None:
    found = layout.fitting_size(wanted)
    layout.last_map(found)
    between = range(found + 1, wanted + 1) if found <= wanted else range(1, found)
    for other in between:
        with pytest.raises(ConfigError):
            layout.last_map(other)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 4), st.integers(1, 30))
def test_one_convolution_follows_the_formula_of_the_notes(f: int, s: int, p: int, w: int) -> None:
    assume(w + 2 * p >= f)
    with torch.inference_mode():
        real = nn.Conv2d(1, 1, f, s, p)(torch.zeros(1, 1, w, w)).shape[-1]
    layout = Layout((4,), kernel=f, stride=s, padding=p, pool="none")
    expected = (w - f + 2 * p) / s + 1
    if expected == int(expected):
        assert layout.last_map(w) == expected == real
    else:
        with pytest.raises(ConfigError, match=rf"stage 1, conv 1: .*\({w} − {f} \+ 2·{p}\)/{s} \+ 1 = {expected:g} is"):
            layout.last_map(w)


def test_alexnet_as_published_does_not_fit_224_pixels_but_227() -> None:
    # the notes' own example: Krizhevsky et al. 2012 state 224, (224 − 11)/4 + 1 is not whole
    layout = Layout((96,), kernel=11, stride=4, padding=0, pool="none")
    with pytest.raises(ConfigError, match=r"\(224 − 11 \+ 2·0\)/4 \+ 1 = 54\.25 .* may be 223 or 227"):
        layout.last_map(224)
    assert layout.last_map(227) == 55


@pytest.mark.parametrize(
    ("layout", "size", "layer"),
    [
        (Layout((4, 4, 4)), 44, "stage 3, pool"),
        (Layout((4, 4), convs=2, padding=0), 6, "stage 2, conv 1"),
        (Layout((4, 4), convs=3, padding=0, pool="none"), 12, "stage 2, conv 3"),
        (Layout((4, 4), stride=2, pool="none"), 11, "stage 2, conv 1"),
    ],
)
def test_the_error_names_the_layer(layout: Layout, size: int, layer: str) -> None:
    with pytest.raises(ConfigError, match=f"^{layer}: "):
        ConvNet(layout, 2, size)


def test_a_size_that_does_not_fit_is_refused_before_anything_is_read() -> None:
    context = LearnerContext(Task.CLASSIFY, ("a", "b"), "cpu", "fp32")
    with pytest.raises(ConfigError, match=r"stage 1, pool: .* it may be 80 or 96"):
        cnn.build(cnn.Options(image_size=91), context)


@given(
    layouts(padding=0), st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 20), st.integers(0, 20), st.booleans()
)
def test_sliding_is_cropping(layout: Layout, conv: Conv, more: int, right: int, below: int, fold: bool) -> None:
    size = layout.fitting_size(1) + more * layout.step
    assume(size <= 60)
    torch.manual_seed(0)
    net = randomised(ConvNet(layout, 3, size, 0.5, conv))
    assert isinstance(net, ConvNet)
    if fold:
        net = folded(net)
    step = layout.step
    image = torch.randn(2, 3, size + below, size + right)
    with torch.inference_mode():
        slid = convolutional(net)(image)
        assert slid.shape == (2, 3, below // step + 1, right // step + 1)
        for row in range(slid.shape[2]):
            for column in range(slid.shape[3]):
                y, x = row * step, column * step
                cropped = net(image[:, :, y : y + size, x : x + size])
                torch.testing.assert_close(slid[:, :, row, column], cropped, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conv", KINDS)
@pytest.mark.parametrize("last_pool", ["average", "none"])
def test_conversion_keeps_every_weight_and_shares_it(conv: Conv, last_pool: str) -> None:
    layout = Layout((4, 8), padding=0, hidden=(6, 5), last_pool=last_pool)  # type: ignore[arg-type]
    net = ConvNet(layout, 3, layout.fitting_size(30), conv=conv)
    converted = convolutional(net)
    before, after = ({p.data_ptr(): p.numel() for p in one.parameters()} for one in (net, converted))
    assert before == after
    assert all(isinstance(layer, nn.Conv2d | nn.ReLU) for layer in (*converted.hidden, converted.head))


def test_a_network_that_pads_cannot_slide() -> None:
    with pytest.raises(ConfigError, match="stage 1, conv 1 pads by 1"):
        convolutional(ConvNet(Layout((4,)), 2, 16))


def test_channels_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 10 to 10 channels cannot be cut into 4 groups"):
        ConvNet(Layout((10,), convs=2), 2, 16, conv=Conv("group", 4))


@given(layouts())
def test_embeddings_have_the_length_that_is_stated_and_lead_to_the_logits(layout: Layout) -> None:
    size = layout.fitting_size(20)
    net = ConvNet(layout, 3, size, dropout=0.5).eval()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        seen = net.embed(images)
        assert seen.shape == (2, net.features)
        assert torch.equal(net.head(seen), net(images))
        assert net.encoder(images)[-1].shape[1] == net.encoder_channels
        assert len(net.encoder(images)) == len(layout.features)


def test_dropout_members_are_distributions_around_the_prediction() -> None:
    options = cnn.Options(image_size=16, features=(8,), hidden=(16,), samples=200, dropout=0.3)
    setting = Setting(options, ("a", "b", "c"), 16)
    net = cnn.DESIGN.network(setting).eval()
    item = Item("k", "k.png", 16, 16)
    frame = Frame(np.zeros((16, 16, 3), np.uint8), (1.0, 1.0), (16, 16))
    with torch.inference_mode():
        images = torch.randn(2, 3, 16, 16)
        batch = [(item, frame), (replace(item, key="l"), frame)]
        plain = cnn.DESIGN.predict(net, images, batch, setting)
        scanned = cnn.DESIGN.scan(net, images, batch, setting)
    for one, other in zip(plain, scanned, strict=True):
        assert one.members == ()
        assert one.item_key == other.item_key
        np.testing.assert_allclose(one.probs, other.probs, atol=1e-6)
        assert len(other.members) == 200
        members = np.stack([member.probs for member in other.members])
        np.testing.assert_allclose(members.sum(axis=1), 1, atol=1e-5)
        assert members.std(axis=0).max() > 0
        np.testing.assert_allclose(members.mean(axis=0), one.probs, atol=0.02)


def test_rare_classes_are_drawn_as_often_as_common_ones(tmp_path: Path) -> None:
    from PIL import Image

    from alpipe.learners.classification.objective import ClassObjective, gather
    from alpipe.learners.training.augment import Augmentation
    from alpipe.types import Example, ImageClass

    examples = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8)).save(path)
        examples.append(Example(Item(str(number), str(path), 8, 8), ImageClass("rare" if number == 0 else "common")))
    given = gather(examples, ("common", "rare", "absent"), 8)
    objective = ClassObjective(given, gather([], ("common",), 8), Augmentation(), 400, 8, 0.0, torch.device("cpu"))
    _, drawn = objective.batch(np.random.default_rng(0))
    assert np.bincount(drawn, minlength=3)[1] == pytest.approx(200, abs=40)
    assert objective.validation_loss(nn.Identity()) is None
