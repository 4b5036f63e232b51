"""The training loop, augmentation, and saving that learners share."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alpipe.errors import ConfigError, DataError, TrainingError
from alpipe.learners.nets.cost import Memory
from alpipe.learners.training import data, memory, saving, trainer
from alpipe.learners.training.augment import MIN_VISIBLE, OUTSIDE, Augmentation, Augmenter, Flip
from alpipe.learners.training.device import Compute, resolve
from alpipe.learners.training.options import TrainingOptions, steps_for
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


def train(
    objective: Line,
    steps: int = 200,
    rate: float = 0.05,
    seed: int = 0,
    folder: Path | None = None,
    patience: int = 0,
    logs: Path | None = None,
) -> trainer.Trained[nn.Linear]:
    recipe = trainer.Recipe(steps, 16, rate, 0.0, patience)
    return trainer.train(
        lambda: nn.Linear(1, 1),
        objective,
        recipe,
        CPU,
        seed=seed,
        identity="line",
        progress=no_progress,
        resume_from=folder,
        logs=logs,
    )


def fit(objective: Line, steps: int = 200, folder: Path | None = None) -> nn.Linear:
    return train(objective, steps, folder=folder).net


def test_the_loop_solves_a_line() -> None:
    net = fit(Line())
    assert float(net.weight) == pytest.approx(2, abs=0.05)
    assert float(net.bias) == pytest.approx(-1, abs=0.05)
    assert not net.training


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    with pytest.raises(TrainingError, match="nan at step 1 of 200; lower learning_rate"):
        fit(Line(broken=True))


def test_the_weights_of_the_least_validation_loss_are_returned() -> None:
    unchosen, early = fit(Line(), steps=64), fit(Line([1.0] + [2.0] * 15), steps=64)
    late = fit(Line([2.0] * 15 + [1.0]), steps=64)
    assert float(late.weight) == float(unchosen.weight) != float(early.weight)


def test_a_training_whose_validation_gets_no_better_is_stopped() -> None:
    ended = train(Line([2.0, 1.0] + [3.0] * 14), steps=160, patience=3)
    assert (
        ended.steps == 70
    )  # the second is the best; of the validations after a third of the steps, three are waited for
    assert ended.validation_loss == 1.0
    assert train(Line([2.0, 1.0] + [3.0] * 14), steps=160, patience=0).steps == 160


def test_a_training_that_was_stopped_early_stays_so(tmp_path: Path) -> None:
    first = train(Line([1.0] + [3.0] * 15), steps=160, patience=3, folder=tmp_path)
    again = train(Line(broken=True), steps=160, patience=3, folder=tmp_path)  # a single step would raise
    assert again.steps == first.steps < 160
    assert float(first.net.weight) == float(again.net.weight)


def test_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Line([2.0] * 15 + [1.0]), steps=32, logs=tmp_path / "runs")
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    assert {"loss/train", "loss/validation", "learning rate", "images a second"} <= set(events.Tags()["scalars"])
    validations = events.Scalars("loss/validation")
    assert [event.step for event in validations] == list(range(2, 33, 2))
    assert validations[-1].value == 1.0


def test_memory_decides_the_batch_size_where_it_is_short() -> None:
    small, huge = Memory(10, 1000, 100), Memory(10, 10**12, 10**11)
    assert memory.batch_size(8, small, torch.device("cpu")) == 8
    assert memory.batch_size(8, huge, torch.device("cpu")) == 2


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


AUGMENTATIONS = st.builds(
    Augmentation,
    flip=st.sampled_from(Flip),
    scale=st.sampled_from([1.0, 1.5]),
    rotate=st.just(0.0),
    colour=st.sampled_from([0.0, 0.4]),
)
CANVASES = st.sampled_from([(48, 40), (24, 56), (64, 64)])


@given(st.integers(0, 10_000), AUGMENTATIONS, CANVASES)
@settings(max_examples=60)
def test_image_mask_and_boxes_move_together(seed: int, how: Augmentation, canvas: tuple[int, int]) -> None:
    how = replace(how, colour=0.0)  # so that the rectangle is known by its white
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, 40), rng.integers(0, 24)
    x2, y2 = x1 + rng.integers(8, 20), y1 + rng.integers(8, 20)
    image = np.zeros((44, 60, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    box = np.array([[x1, y1, x2, y2]], np.float32)
    made = Augmenter(how, canvas)(image, rng, classes=(image[:, :, 0] > 0).astype(np.uint8), xyxy=box)
    assert made.pixels.shape == (*canvas, 3)
    assert made.classes is not None
    assert made.classes.shape == canvas
    if not len(made.kept):
        return
    bright = (made.pixels.min(axis=2) > 170) & (made.classes != OUTSIDE)
    for seen in (bright, made.classes == 1):
        ys, xs = np.nonzero(seen)
        np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], made.xyxy[0], atol=1.6)


@given(st.integers(0, 10_000), AUGMENTATIONS, CANVASES)
@settings(max_examples=30)
def test_an_augmentation_repeats_with_its_seed_in_any_thread(
    seed: int, how: Augmentation, canvas: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 255, (44, 60, 3), dtype=np.uint8)
    augmenter = Augmenter(how, canvas)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: augmenter(image, np.random.default_rng(seed)).pixels, range(2))
    np.testing.assert_array_equal(first, second)


def test_boxes_of_which_little_is_left_are_dropped_and_the_others_named() -> None:
    image = np.zeros((40, 200, 3), np.uint8)
    boxes = np.array([[0, 0, 20, 20], [95, 10, 105, 30], [180, 0, 200, 20]], np.float32)
    for seed in range(20):
        made = Augmenter(Augmentation(), (40, 64))(image, np.random.default_rng(seed), xyxy=boxes)
        for kept, left in zip(made.kept, made.xyxy, strict=True):
            area = (left[2:] - left[:2]).prod() / (boxes[kept, 2:] - boxes[kept, :2]).prod()
            assert area >= MIN_VISIBLE - 1e-6
        assert (made.xyxy >= 0).all()
        assert (made.xyxy <= [64, 40, 64, 40]).all()


def test_without_flips_nothing_is_mirrored() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = 255
    for seed in range(30):
        made = Augmenter(Augmentation(Flip.NONE, 1.2, 10, 0), (32, 32))(image, np.random.default_rng(seed))
        assert made.pixels[12:20, :8].mean() > made.pixels[12:20, -8:].mean()


def test_an_image_that_fits_is_left_as_it_is_where_nothing_is_asked() -> None:
    image = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    made = Augmenter(Augmentation(), (16, 24))(image, np.random.default_rng(0), classes=image[:, :, 0])
    np.testing.assert_array_equal(made.pixels, image)
    np.testing.assert_array_equal(made.classes, image[:, :, 0])


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


def test_memory_that_does_not_suffice_is_said_in_words() -> None:
    class Greedy(Line):
        def loss(self, net: nn.Module, batch: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> torch.Tensor:
            raise torch.OutOfMemoryError

    with pytest.raises(TrainingError, match="too little memory for batches of 16 images; lower batch_size"):
        train(Greedy())


def test_a_validation_loss_that_is_not_finite_stops_the_training() -> None:
    with pytest.raises(TrainingError, match="the validation loss became nan at step 10; lower learning_rate"):
        train(Line([math.nan]), steps=160)


def test_a_seed_may_be_any_number() -> None:
    assert train(Line(), steps=2, seed=2**62).steps == 2


def test_samples_need_dropout() -> None:
    with pytest.raises(ValueError, match="samples are all alike without dropout"):
        TrainingOptions(samples=5, dropout=0)
