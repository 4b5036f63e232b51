"""The training loop, augmentation, and saving that learners share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alpipe.errors import ConfigError, DataError, TrainingError
from alpipe.learners.training import augment, data, saving, trainer
from alpipe.learners.training.augment import Augmentation, Flip
from alpipe.learners.training.device import Compute, resolve
from alpipe.learners.training.options import steps_for
from alpipe.protocols import LearnerContext, no_progress
from alpipe.types import Task

CPU = Compute(torch.device("cpu"), torch.float32)


class Line:
    """y = 2x − 1 from noisy points; validation losses can be prescribed."""

    def __init__(self, validation: list[float] | None = None, *, broken: bool = False) -> None:
        self.validation, self.broken = validation, broken

    def batch(self, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.uniform(-1, 1, (16, 1)).astype(np.float32)

    def loss(self, net: nn.Module, batch: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> torch.Tensor:
        x = torch.from_numpy(batch)
        loss = (net(x) - (2 * x - 1)).square().mean()
        return torch.as_tensor(loss * math.nan if self.broken else loss)

    def validation_loss(self, net: nn.Module) -> float | None:
        return self.validation.pop(0) if self.validation else None


def fit(objective: Line, steps: int = 200, rate: float = 0.05, seed: int = 0, folder: Path | None = None) -> nn.Linear:
    recipe = trainer.Recipe(steps, 16, rate, 0.0)
    return trainer.train(
        lambda: nn.Linear(1, 1),
        objective,
        recipe,
        CPU,
        seed=seed,
        identity="line",
        progress=no_progress,
        resume_from=folder,
    )


def test_the_loop_solves_a_line() -> None:
    net = fit(Line())
    assert float(net.weight) == pytest.approx(2, abs=0.05)
    assert float(net.bias) == pytest.approx(-1, abs=0.05)
    assert not net.training


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    with pytest.raises(TrainingError, match="nan at step 1 of 200; lower learning_rate"):
        fit(Line(broken=True))


def test_the_weights_of_the_least_validation_loss_are_returned() -> None:
    unchosen, early = fit(Line(), steps=64), fit(Line([1.0] + [2.0] * 7), steps=64)
    late = fit(Line([2.0] * 7 + [1.0]), steps=64)
    assert float(late.weight) == float(unchosen.weight) != float(early.weight)


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first = fit(Line(), folder=tmp_path)
    again = fit(Line(broken=True), folder=tmp_path)  # a single step would raise
    assert float(first.weight) == float(again.weight)


@given(st.integers(1, 500))
def test_the_learning_rate_rises_to_its_peak_and_falls_towards_zero(steps: int) -> None:
    recipe = trainer.Recipe(steps, 1, 0.1, 0.0)
    rates = [trainer.learning_rate_at(step, recipe) for step in range(steps)]
    assert all(0 < rate < 0.1 + 1e-9 for rate in rates)
    assert max(rates) == pytest.approx(0.1)
    peak = int(np.argmax(rates))
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()


@given(st.integers(1, 10_000), st.integers(2, 64))
def test_steps_grow_with_the_training_set_up_to_a_limit(images: int, batch: int) -> None:
    few, more = (steps_for(count, batch, passes=1000, passes_an_image=10, most=5000) for count in (images, images + 50))
    assert 1 <= few <= more <= 5000 // batch


def test_norms_and_biases_are_not_decayed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, free = trainer.parameter_groups(net, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)]
    assert len(free["params"]) == 3
    assert free["weight_decay"] == 0


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(Flip), st.sampled_from([(48, 40), (24, 56), (64, 64)]))
def test_image_mask_and_boxes_move_together(seed: int, flip: Flip, canvas: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    how = Augmentation(flip, scale=1.5, stretch=1.3, shift=0.1)
    affine = augment.random_affine((60, 44), canvas, how, rng)
    x1, y1 = rng.integers(0, 40), rng.integers(0, 24)
    x2, y2 = x1 + rng.integers(8, 20), y1 + rng.integers(8, 20)
    image = np.zeros((44, 60, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    moved = augment.warp(image, affine, canvas, nearest=False, fill=0)[:, :, 0] > 127
    mask = augment.warp(image[:, :, 0], affine, canvas, nearest=True, fill=0) > 0
    boxes, kept = augment.warp_boxes(np.array([[x1, y1, x2, y2]], np.float32), affine, canvas)
    if not kept[0]:
        return
    assert (moved != mask).sum() <= 2 * (moved.shape[0] + moved.shape[1])
    for seen in (moved, mask):
        ys, xs = np.nonzero(seen)
        np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], boxes[0], atol=1.01)


def test_without_flips_nothing_is_mirrored() -> None:
    for seed in range(50):
        how = Augmentation(Flip.NONE, 2, 2, 0.3, 20)
        affine = augment.random_affine((30, 20), (32, 32), how, np.random.default_rng(seed))
        assert np.linalg.det(affine[:, :2]) > 0
        assert affine[0, 0] > 0


def test_centring_moves_by_whole_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 255, (11, 18, 3), dtype=np.uint8)
    moved = augment.warp(image, augment.centring((18, 11), (32, 64)), (32, 64), nearest=False)
    np.testing.assert_array_equal(moved[10:21, 23:41], image)


def test_colour_changes_each_image_by_itself_and_repeats_with_its_seed() -> None:
    images = torch.ones(4, 3, 8, 8)
    one, same = (augment.jitter_colour(images, 0.5, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(one, same)
    assert len({float(image.mean()) for image in one}) == 4
    assert augment.jitter_colour(images, 0.0, np.random.default_rng(1)) is images


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 200))
def test_a_frame_keeps_the_shape_and_never_grows(width: int, height: int, long_side: int) -> None:
    made = data.frame(np.zeros((height, width, 3), np.uint8), long_side)
    h, w = made.pixels.shape[:2]
    assert max(h, w) == min(max(height, width), long_side)
    assert made.scale == (w / width, h / height)
    assert abs(w - width * min(1, long_side / max(width, height))) <= 1


def test_a_network_is_restored_to_the_bit(tmp_path: Path) -> None:
    net, other = (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
    saving.save(tmp_path, net, saving.Description("x", 1, "detect", ("a",), 64, {}))
    saving.restore(tmp_path, other)
    assert torch.equal(net.weight, other.weight)
    assert saving.describe(tmp_path, "x", 1).classes == ("a",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize(("learner", "version", "reason"), [("y", 1, "made by learner 'x'"), ("x", 2, "of format 1")])
def test_a_model_of_another_kind_is_refused(tmp_path: Path, learner: str, version: int, reason: str) -> None:
    saving.save(tmp_path, nn.Linear(1, 1), saving.Description("x", 1, "detect", ("a",), 64, {}))
    with pytest.raises(DataError, match=reason):
        saving.describe(tmp_path, learner, version)


@pytest.mark.parametrize(
    ("device", "precision", "reason"),
    [("tpu9", "auto", "unknown device"), ("meta", "auto", "not supported"), ("cpu", "fp8", "unknown precision")],
)
def test_devices_and_precisions_that_are_unknown_are_refused(device: str, precision: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        resolve(LearnerContext(Task.DETECT, ("a",), device, precision))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_absent_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch sees 0 CUDA devices"):
        resolve(LearnerContext(Task.DETECT, ("a",), "cuda"))
