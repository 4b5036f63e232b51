"""The U-Net++: cut at any depth, depths chosen by validation, and what its training sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from alpipe import plugins, rle
from alpipe.acquisition import disagreement
from alpipe.errors import ConfigError
from alpipe.evaluation import segmentation
from alpipe.learners import unetpp
from alpipe.learners.nets.blocks import Conv
from alpipe.learners.nets.fold import folded
from alpipe.learners.nets.nested import Joint, NestedUNet, ThinJoint
from alpipe.learners.segmentation import objective as objectives
from alpipe.learners.segmentation.depth import dice_by_depth, smallest
from alpipe.learners.segmentation.labelled import Labelled, gather
from alpipe.learners.segmentation.objective import MapObjective, segmentation_loss, target_of
from alpipe.learners.segmentation.sampling import PartSampler, reach_of
from alpipe.learners.training.augment import OUTSIDE, Augmentation, Augmenter
from alpipe.learners.training.balance import class_factors
from alpipe.learners.training.learner import TrainedModel
from alpipe.plugins import Kind
from alpipe.types import Example, Item, MapPrediction, Masks, Negative, Task
from tests.test_learners import CLASSES, Bench

CPU = torch.device("cpu")


# ── cut at a depth ──────────────────────────────────────────────────────────────────────────────────────────────────


def net_of(features: tuple[int, ...] = (4, 8, 8, 8), **how: Any) -> NestedUNet:
    torch.manual_seed(0)
    return NestedUNet(2, features, **how).eval()


@pytest.mark.parametrize("make", [net_of, lambda: folded(net_of())], ids=["as trained", "folded"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_cut_at_a_depth_it_says_to_the_bit_what_that_head_says_in_the_whole(make: Any, depth: int) -> None:
    net, images = make(), torch.randn(2, 3, 32, 24)
    with torch.inference_mode():
        whole, cut = net(images), net(images, depth)
    assert len(whole) == 3
    assert len(cut) == depth
    for one, other in zip(whole, cut, strict=False):
        assert one.shape == (2, 2, 32, 24)
        assert torch.equal(one, other)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_nothing_beyond_a_depth_is_computed(depth: int) -> None:
    net = net_of()
    called: Counter[str] = Counter()
    for name, module in net.named_modules():
        if not isinstance(module, torch.nn.ModuleList):
            module.register_forward_hook(lambda *_, name=name: called.update([name]))
    with torch.inference_mode():
        net.columns(torch.zeros(1, 3, 16, 16), depth)
    nodes = {name for name, module in net.named_modules() if isinstance(module, Joint | ThinJoint)}
    nodes |= {f"encoder.levels.{level}" for level in range(net.depth + 1)}
    wanted = {f"encoder.levels.{level}" for level in range(depth + 1)}
    wanted |= {f"joints.x{level}_{column}" for column in range(1, depth + 1) for level in range(depth - column + 1)}
    assert {name for name in called if name in nodes} == wanted
    assert set(called.values()) == {1}
    assert not [name for name in called if name.startswith("heads")]


def test_every_head_is_trained_whatever_the_depth_that_predicts() -> None:
    net = net_of(dropout=0.5).train()
    torch.stack([logits.square().mean() for logits in net(torch.randn(2, 3, 16, 16))]).sum().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("kind", ["group", "separable"])
def test_other_convolutions_have_fewer_weights(kind: Any) -> None:
    features = (8, 16, 16)
    few, many = (
        sum(weight.numel() for weight in NestedUNet(2, features, conv).parameters()) for conv in (Conv(kind), Conv())
    )
    assert few < 0.6 * many


def test_embeddings_are_the_mean_of_the_deepest_map_of_the_encoder() -> None:
    net, images = net_of(), torch.randn(2, 3, 16, 16)
    assert net.embed(images).shape == (2, net.features)
    assert torch.equal(net.embed(images), net.encoder(images)[-1].mean(dim=(2, 3)))
    assert net.encoder(images)[-1].shape[1] == net.encoder_channels


# ── depths chosen by validation ─────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0, 1), st.integers(1, 2))
def test_the_smallest_depth_within_the_tolerance_is_chosen(scores: list[float], tolerance: float, least: int) -> None:
    chosen = smallest(scores, tolerance, least)
    good = [depth for depth, score in enumerate(scores, 1) if score >= max(scores) - tolerance and depth >= least]
    assert chosen == (good[0] if good else len(scores))


def test_with_no_tolerance_the_best_depth_is_chosen_and_with_all_the_shallowest() -> None:
    assert smallest([0.5, 0.9, 0.8], 0.0) == 2
    assert smallest([0.5, 0.895, 0.9], 0.01) == 2
    assert smallest([0.5, 0.9, 0.8], 1.0) == 1


def map_of(classes: npt.NDArray[Any], key: str, size: tuple[int, int], channels: int = 3) -> MapPrediction:
    return MapPrediction(key, np.eye(channels, dtype=np.float32)[classes].transpose(2, 0, 1).copy(), size)


@given(st.integers(0, 10_000))
def test_the_dice_of_a_head_is_that_of_the_evaluation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    examples, heads = [], []
    for index in range(3):
        truth = rng.integers(0, rng.integers(1, 4), (9, 13))
        item = Item(f"k{index}", "", 13, 9)
        examples.append(Example(item, rle.from_class_map(truth, CLASSES)))
        heads.append([map_of(rng.integers(0, 3, size), item.key, (13, 9)) for size in ((9, 13), (5, 7))])
    found = dice_by_depth(zip(heads, examples, strict=True), CLASSES)
    for depth in range(2):
        pairs = [(some[depth], example) for some, example in zip(heads, examples, strict=True)]
        assert found[depth] == pytest.approx(segmentation.evaluate(pairs, CLASSES).value)


@pytest.mark.parametrize(("option", "expected"), [({"depth": "auto"}, 2), ({"depth": "full"}, 2), ({"depth": 1}, 1)])
def test_without_validation_images_auto_is_full(tmp_path: Path, option: dict[str, Any], expected: int) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    model = fitted(bench, 0, **option)
    assert model.setting.facts["depth"] == expected
    assert model.setting.facts["scan_depth"] == 2
    assert model.setting.facts["chosen_on"] == 0


def fitted(bench: Bench, validation: int, **options: Any) -> TrainedModel[unetpp.Options]:
    examples = bench.examples(2 + validation)
    model = bench.learner(**options).fit(examples[:2], examples[2:], [], seed=0)
    assert isinstance(model, TrainedModel)
    return model


def test_the_choice_is_recorded_and_kept(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    model = fitted(bench, unetpp.ENOUGH, depth="auto", scan_depth=2, tolerance=1)
    model.save(tmp_path / "model")
    for one in (model, bench.load(tmp_path / "model")):
        facts = one.setting.facts  # type: ignore[attr-defined]
        assert (facts["depth"], facts["scan_depth"], facts["chosen_on"]) == (1, 2, unetpp.ENOUGH)
        assert len(facts["dice_by_depth"]) == 2
        assert all(0 <= dice <= 1 for dice in facts["dice_by_depth"])


def test_an_automatic_scan_keeps_members_where_they_are_wanted(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    assert fitted(bench, unetpp.ENOUGH, tolerance=1).setting.facts["scan_depth"] == 2
    assert fitted(bench, unetpp.ENOUGH, tolerance=1, members=False).setting.facts["scan_depth"] == 1
    assert fitted(bench, unetpp.ENOUGH, tolerance=1, samples=3).setting.facts["scan_depth"] == 1


def test_too_few_validation_images_choose_no_depth(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    facts = fitted(bench, unetpp.ENOUGH - 1, depth="auto", tolerance=1).setting.facts
    assert (facts["depth"], facts["scan_depth"], facts["chosen_on"]) == (2, 2, 0)


def test_validation_images_without_an_object_choose_no_depth(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    empty = [bench.example(number, None) for number in range(unetpp.ENOUGH)]
    model = bench.learner(depth="auto", tolerance=1).fit(bench.examples(2), empty, [], seed=0)
    assert isinstance(model, TrainedModel)
    assert model.setting.facts["depth"] == 2


@pytest.mark.parametrize("name", ["depth", "scan_depth"])
def test_a_depth_beyond_the_network_is_refused_with_the_largest(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 3, but 3 features give a depth of 2 at most"):
        plugins.options(Kind.LEARNER, "unetpp", unetpp, {"features": (8, 8, 8), name: 3})


def test_an_overlap_of_more_than_half_a_tile_is_refused() -> None:
    with pytest.raises(ConfigError, match="half a tile at most, 32"):
        plugins.options(Kind.LEARNER, "unetpp", unetpp, {"tile": 64, "overlap": 33})


def test_a_scan_gives_all_heads_as_members_and_a_prediction_gives_none(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    model = fitted(bench, 0, scan_depth="full")
    items = [example.item for example in bench.examples(3)]
    for depth in (1, 2):
        shallow = model.knowing(depth=depth)
        for cut, whole in zip(shallow.predict(items), model.scan(items), strict=True):
            assert cut.members == ()
            assert len(whole.members) == 2
            np.testing.assert_array_equal(cut.probs, whole.members[depth - 1].probs)
    (whole,) = model.scan(items[:1])
    np.testing.assert_array_equal(whole.probs, whole.members[-1].probs)
    assert disagreement.build(disagreement.Options()).score(whole) >= 0


def test_dropout_samples_take_the_place_of_the_heads(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    model = fitted(bench, 0, samples=5, dropout=0.5)
    (item,) = [example.item for example in bench.examples(1)]
    (first,), (again,) = model.scan([item]), model.scan([item])
    (predicted,) = model.predict([item])
    assert len(first.members) == 5
    np.testing.assert_array_equal(first.probs, predicted.probs)
    assert len({member.probs.tobytes() for member in first.members}) == 5
    for one, other in zip(first.members, again.members, strict=True):
        np.testing.assert_array_equal(one.probs, other.probs)


# ── what the training sees ──────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9), st.floats(0, 1))
def test_classes_are_repeated_as_lvis_does_it(rows: list[list[bool]], threshold: float) -> None:
    present = np.array(rows)
    factors = class_factors(present, threshold)
    for share, factor in zip(present.mean(axis=0), factors, strict=True):
        assert factor == pytest.approx(max(1, (threshold / share) ** 0.5) if share else 1)


def labelled(
    bench: Bench, colours: list[str | None], size: tuple[int, int] = (64, 48), negatives: Any = ()
) -> Labelled:
    examples = [bench.example(number, colour, size) for number, colour in enumerate(colours)]
    made = [Negative(examples[index].item.key, box, "red", 0.9, 0.0) for index, box in negatives]
    return gather(examples, made, CLASSES, 512)


def test_images_of_a_rare_class_are_drawn_more_often(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    sampler = PartSampler(labelled(bench, ["red"] * 15 + ["blue"]), 2, 64, 0.25)
    rng = np.random.default_rng(0)
    drawn = np.mean([(sampler.draw(rng)[1] == 2).any() for _ in range(1500)])
    assert drawn == pytest.approx(2 / 17, abs=0.03)  # √(0.25 · 16) = 2


def test_of_large_images_parts_are_seen_and_half_of_them_show_an_object(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    large = labelled(bench, [None], (400, 300), [(0, (100, 100, 180, 150))])
    large.maps[0][10:14, 20:24] = 1
    sampler = PartSampler(large, 2, 50, 0.0)
    rng = np.random.default_rng(0)
    parts = [sampler.draw(rng) for _ in range(400)]
    assert {classes.shape for _, classes, _ in parts} == {(50, 50)}
    assert np.mean([(classes == 1).any() for _, classes, _ in parts]) == pytest.approx(0.51, abs=0.08)
    for pixels, classes, negatives in parts:
        assert pixels.shape == (*classes.shape, 3)
        assert len(negatives) in (0, 1)
    assert any(len(negatives) for *_, negatives in parts)


@given(st.integers(8, 200), st.floats(1, 2), st.floats(0, 45))
def test_a_part_reaches_as_far_as_a_turned_and_enlarged_canvas_can_look(
    side: int, scale: float, degrees: float
) -> None:
    corner = side / 2 * scale * np.array([1, 1])
    turn = np.deg2rad(degrees)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ corner
    assert 2 * np.abs(turned).max() <= reach_of((side, side), scale, degrees) + 1e-6


def objective(train: Labelled, validation: Labelled) -> MapObjective:
    augmenter = Augmenter(Augmentation(), (48, 64))
    return MapObjective(PartSampler(train, 2, 64, 0.0), augmenter, validation, 64, 4, 2, 3.0, CPU)


def test_hard_negatives_weigh_more_and_nothing_else_does(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    made = objective(labelled(bench, ["red"], (64, 48), [(0, (10, 8, 30, 20))]), labelled(bench, []))
    batch = made.batch(np.random.default_rng(0))
    assert batch.pixels.shape == (2, 48, 64, 3)
    expected = np.ones((48, 64), np.float32)
    expected[8:20, 10:30] = 3
    np.testing.assert_array_equal(batch.focus, np.stack([expected] * 2))


def test_what_lies_outside_a_small_image_is_unknown(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    train = labelled(bench, ["red"], (40, 30))
    batch = objective(train, labelled(bench, [])).batch(np.random.default_rng(0))
    assert ((batch.maps == OUTSIDE).sum(axis=(1, 2)) == 48 * 64 - 40 * 30).all()


def test_of_many_or_large_validation_images_the_middle_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "VALIDATED_PIXELS", 2 * 80**2)
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    seen = []

    def net(images: torch.Tensor) -> list[torch.Tensor]:
        seen.append(tuple(images.shape[2:]))
        return [torch.zeros(1, 3, *images.shape[2:])]

    some = labelled(bench, ["red", "blue"], (150, 60))
    loss = objective(some, some).validation_loss(net)  # type: ignore[arg-type]
    assert seen == [(60, 80)] * 2
    assert loss is not None
    assert np.log(3) < loss < np.log(3) + 1
    assert objective(some, labelled(bench, [])).validation_loss(net) is None  # type: ignore[arg-type]


@given(st.integers(0, 1000))
def test_pixels_outside_the_image_cost_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    truth = torch.randint(0, 3, (2, 8, 8), generator=generator)
    truth[:, 5:] = OUTSIDE
    changed = logits.clone()
    changed[:, :, 5:] = torch.randn(2, 3, 3, 8, generator=generator)
    target = target_of(truth, torch.ones(2, 8, 8), 3)
    losses = [float(segmentation_loss(one, target)) for one in (logits, changed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_perfect_map_costs_almost_nothing_and_a_wrong_one_much() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.long)
    truth[0, 2:5, 2:5] = 1
    right = torch.stack([truth == 0, truth == 1], dim=1).float() * 40 - 20
    target = target_of(truth, torch.ones(1, 8, 8), 2)
    assert float(segmentation_loss(right, target)) < 0.01
    assert float(segmentation_loss(-right, target)) > 10


@given(st.integers(0, 1000))
def test_the_loss_is_weighted_cross_entropy_plus_dice(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 6, 7, generator=generator)
    truth = torch.randint(0, 3, (2, 6, 7), generator=generator)
    focus = torch.rand(2, 6, 7, generator=generator) + 1
    truth[:, 4:] = OUTSIDE
    entropy = functional.cross_entropy(logits, truth.where(truth != OUTSIDE, -100), reduction="none", ignore_index=-100)
    weight = focus * (truth != OUTSIDE)
    probs = torch.softmax(logits, dim=1)[:, :, :4]
    losses = []
    for name in (1, 2):
        one = (truth[:, :4] == name).float()
        sizes = probs[:, name].square().sum() + one.sum()
        losses.append(1 - (2 * (probs[:, name] * one).sum() + 1) / (sizes + 1))
    expected = (entropy * weight).sum() / weight.sum() + torch.stack(losses).mean()
    assert float(segmentation_loss(logits, target_of(truth, focus, 3))) == pytest.approx(float(expected), rel=1e-4)


def test_masks_at_network_size_keep_their_classes(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    example = bench.example(1, "blue", (64, 48))
    assert isinstance(example.labels, Masks)
    made = gather([example], [Negative(example.item.key, (8, 4, 32, 20), "red", 0.9, 0.0)], CLASSES, 32)
    assert made.maps[0].shape == (24, 32)
    assert set(np.unique(made.maps[0])) == {0, 2}
    np.testing.assert_allclose(made.negatives[0], [[4, 2, 16, 10]])
