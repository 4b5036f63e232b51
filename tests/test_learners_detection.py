"""The detector's parts: assignment, losses, sampling, network, decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alpipe import boxes
from alpipe.learners import detector
from alpipe.learners.detection.assignment import PLACES, assign
from alpipe.learners.detection.decode import Limits, decode
from alpipe.learners.detection.labelled import gather
from alpipe.learners.detection.losses import hardest, overlaps, varifocal_loss
from alpipe.learners.detection.objective import BoxObjective, Weighting
from alpipe.learners.nets.pyramid import PyramidDetector, places
from alpipe.learners.training.augment import Augmentation
from alpipe.learners.training.balance import image_factors
from alpipe.learners.training.data import Frame
from alpipe.types import Boxes, Example, FloatArray, Item, Negative, Task
from tests.test_learners import CLASSES, Bench

STRIDES = (8, 16, 32)
HEIGHT, WIDTH = 96, 128
CENTRES, STEPS = places([(HEIGHT // s, WIDTH // s) for s in STRIDES], STRIDES, torch.device("cpu"))


@st.composite
def box_lists(draw: st.DrawFn) -> FloatArray:
    """Up to 5 boxes within the image, from 2 pixels a side to all of it."""
    found = []
    for _ in range(draw(st.integers(0, 5))):
        x, y = draw(st.integers(0, WIDTH - 2)), draw(st.integers(0, HEIGHT - 2))
        found.append((x, y, draw(st.integers(x + 2, WIDTH)), draw(st.integers(y + 2, HEIGHT))))
    return np.array(sorted(set(found)), np.float32).reshape(-1, 4)


def assigned(truth: FloatArray, found: torch.Tensor | None = None, probs: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
    """Assignment for boxes of two classes by turns; the places find nothing, unless told otherwise."""
    squares = torch.cat([CENTRES - STEPS[:, None] * 2, CENTRES + STEPS[:, None] * 2], dim=1)
    return assign(
        torch.full((len(CENTRES), 2), 0.01) if probs is None else probs,
        squares if found is None else found,
        CENTRES,
        STEPS,
        torch.from_numpy(truth),
        torch.arange(len(truth)) % 2,
    )


# Assignment


@given(box_lists())
def test_a_place_learns_an_object_that_it_lies_in_or_near(truth: FloatArray) -> None:
    owner, share = assigned(truth)
    assert share.min() >= 0
    assert share.max() <= 1
    for place in share.nonzero()[:, 0]:
        x1, y1, x2, y2 = truth[owner[place]]
        reach_x, reach_y = max((x2 - x1) / 2, STRIDES[0]), max((y2 - y1) / 2, STRIDES[0])
        assert abs(CENTRES[place, 0] - (x1 + x2) / 2) <= reach_x
        assert abs(CENTRES[place, 1] - (y1 + y2) / 2) <= reach_y


@pytest.mark.parametrize(
    "box", [(37, 41, 39, 43), (0, 0, 2, 2), (126, 94, 128, 96), (3, 40, 5, 44), (0, 0, 128, 96), (0, 47, 128, 49)]
)
def test_objects_of_any_size_are_learnt_somewhere_and_their_best_place_fully(box: tuple[int, ...]) -> None:
    _, share = assigned(np.array([box], np.float32))
    assert 1 <= (share > 0).sum() <= PLACES
    assert share.max() == 1


def test_an_object_that_no_box_overlaps_is_learnt_at_the_nearest_place() -> None:
    far = torch.full((len(CENTRES), 4), 1000.0) + torch.tensor([0.0, 0.0, 5.0, 5.0])
    _, share = assigned(np.array([[50, 42, 54, 46]], np.float32), far)
    assert CENTRES[share.argmax()].tolist() == [52, 44]


def test_an_object_is_learnt_where_score_and_box_are_best() -> None:
    truth = np.array([[32, 32, 64, 64]], np.float32)
    found = torch.from_numpy(truth).repeat(len(CENTRES), 1)
    probs = torch.full((len(CENTRES), 2), 0.01)
    # the four places around the middle on the level that suits the object: the prior is the same at each
    middle = (((CENTRES - 48).abs() == 4).all(dim=1) & (STEPS == 8)).nonzero()[:, 0]
    probs[middle[3], 0] = 0.9
    assert assigned(truth, found, probs).share.argmax() == middle[3]
    probs[middle[1], 1] = 0.99  # sure, but of the other class
    assert assigned(truth, found, probs).share.argmax() == middle[3]
    found[middle[3]] = torch.tensor([32.0, 32, 48, 64])  # half the box weighs more than a better score
    assert assigned(truth, found, probs).share.argmax() in middle[:3]


@pytest.mark.parametrize(("side", "stride"), [(16, 8), (32, 8), (64, 16), (120, 32)])
def test_where_nothing_is_known_an_object_is_learnt_in_its_middle_on_the_level_that_suits_its_size(
    side: int, stride: int
) -> None:
    away = torch.full((len(CENTRES), 4), 1000.0) + torch.tensor([0.0, 0.0, 5.0, 5.0])
    box = np.array([[52 - side / 2, 44 - side / 2, 52 + side / 2, 44 + side / 2]], np.float32)
    best = assigned(box, away).share.argmax()
    assert STEPS[best] == stride
    assert (CENTRES[best] - torch.tensor([52, 44])).abs().max() <= stride / 2


def test_objects_that_overlap_each_keep_their_best_place() -> None:
    truth = np.array([[8, 8, 72, 72], [30, 30, 50, 50], [40, 8, 120, 88]], np.float32)
    owner, share = assigned(truth)
    assert {int(owner[place]) for place in (share == 1).nonzero()} == {0, 1, 2}


def test_an_image_without_object_has_no_place_to_learn_one() -> None:
    assert not assigned(np.zeros((0, 4), np.float32)).share.any()


# Losses


def test_varifocal_loss_is_that_of_the_paper() -> None:
    logits = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * (torch.arange(50) % 3 == 0)
    p = torch.sigmoid(logits)
    expected = torch.where(q > 0, -q * (q * p.log() + (1 - q) * (1 - p).log()), -0.75 * p**2 * (1 - p).log())
    torch.testing.assert_close(varifocal_loss(logits, q), expected)
    assert torch.isfinite(varifocal_loss(logits * 1e4, q)).all()


def test_overlaps_are_those_of_the_paper() -> None:
    # Rezatofighi et al.: two unit squares side by side with a gap of one: IoU 0, hull 3, union 2
    first = torch.tensor([[0.0, 0, 1, 1], [0, 0, 4, 4], [0, 0, 2, 2]])
    second = torch.tensor([[2.0, 0, 3, 1], [0, 0, 4, 4], [1000, 1000, 1002, 1002]])
    iou, giou = overlaps(first, second)
    assert iou.tolist() == [0, 1, 0]
    assert giou.tolist() == pytest.approx([-1 / 3, 1, -1], abs=1e-4)


def test_hard_example_mining_keeps_the_positives_and_the_hardest_of_the_others() -> None:
    loss = torch.tensor([[0.1, 5.0, 3.0, 0.2, 4.0], [0.5, 0.1, 0.3, 0.2, 0.4]])
    positive = torch.tensor([[True, False, False, False, False], [False] * 5])
    assert hardest(loss, positive, 2, 1).tolist() == [[True, True, False, False, True], [True] + [False] * 4]
    assert hardest(loss, positive, 100, 5).all()


# Sampling


def test_images_of_rare_classes_are_drawn_more_often() -> None:
    # class 0 is in all ten images, class 1 in one: √(0.4 / 0.1) = 2; the last image is empty
    present = np.array([[True, True, False]] + [[True, False, False]] * 8 + [[False] * 3])
    assert image_factors(present, 0.4).tolist() == pytest.approx([2] + [1] * 9)
    assert (image_factors(present, 0.0) == 1).all()


# Objective


class Answer(nn.Module):
    """Stands for a network: finds the same everywhere, whatever the image."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        centres, steps = places([(images.shape[2] // s, images.shape[3] // s) for s in STRIDES], STRIDES, images.device)
        found = torch.cat([centres - steps[:, None], centres + steps[:, None]], dim=1)
        logits = self.logit.expand(len(images), len(centres), 2)
        return logits, found.expand(len(images), -1, 4), torch.zeros_like(logits[..., 0])


def loss_of(
    folder: Path, colours: list[str | None], region: tuple[float, float, float, float] | None = None, **weighting: Any
) -> float:
    """Loss of the detector that finds everything everywhere with 0.5."""
    bench = Bench("detector", Task.DETECT, folder)
    examples = [bench.example(number, colour, (64, 64)) for number, colour in enumerate(colours)]
    negatives = [Negative(examples[0].item.key, region, "red", 0.9, 0.0)] if region else []
    labelled = gather(examples, negatives, CLASSES, 64)
    objective = BoxObjective(
        labelled, labelled, Augmentation(), 2, Weighting(**weighting), STRIDES, torch.device("cpu")
    )
    net = Answer(0.0)
    loss = objective.loss(net, objective.batch(np.random.default_rng(0)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert net.logit.grad is not None
    assert torch.isfinite(net.logit.grad)
    return float(loss.detach())


def test_hard_negatives_weigh_more_only_within_the_region(tmp_path: Path) -> None:
    plain, everywhere = loss_of(tmp_path, [None]), loss_of(tmp_path, [None], (0, 0, 64, 64), negatives=3)
    assert everywhere == pytest.approx(3 * plain)
    # 16 of the 64 + 16 + 4 places lie in a quarter of the image, at stride 8; 4 at 16, one at 32
    quarter = loss_of(tmp_path, [None], (0, 0, 32, 32), negatives=3)
    assert quarter == pytest.approx(plain * (84 + 2 * 21) / 84)


def test_mining_leaves_only_the_hardest_places_without_object(tmp_path: Path) -> None:
    everything, mined = loss_of(tmp_path, [None]), loss_of(tmp_path, [None], hardest=3)
    assert mined == pytest.approx(everything * PLACES / 84)
    assert loss_of(tmp_path, ["red", None], hardest=1) < loss_of(tmp_path, ["red", None])


@pytest.mark.parametrize("colours", [[None, None], ["red", None], ["red", "blue"]])
def test_the_loss_is_finite_with_and_without_objects(tmp_path: Path, colours: list[str | None]) -> None:
    assert np.isfinite(loss_of(tmp_path, colours))


# Size of the images


@pytest.mark.parametrize(
    ("side", "finest", "expected"), [(40, 8, 256), (80, 8, 160), (40, 4, 256), (10, 8, 640), (400, 8, 160)]
)
def test_images_are_as_large_as_the_class_of_smallest_boxes_needs(side: int, finest: int, expected: int) -> None:
    """Boxes of one class are large, those of the other have the side, in an image of 640×480."""
    labels = Boxes(np.array([[0, 0, 400, 400], [0, 0, side, side]], np.float32), ("red", "blue"))
    options = detector.Options.model_validate({"finest": finest})
    assert detector.DESIGN.image_size(options, [Example(Item("k", "k.png", 640, 480), labels)]) == expected


# Network


@pytest.mark.parametrize("finest", [4, 8, 16])
def test_the_network_says_little_before_it_is_trained_and_its_boxes_have_an_area(finest: int) -> None:
    net = PyramidDetector(3, 16, 1, finest).eval()
    with torch.inference_mode():
        logits, found, quality = net(torch.randn(2, 3, 64, 96))
    count = sum(64 * 96 // s**2 for s in (4, 8, 16, 32) if s >= finest)
    assert logits.shape == (2, count, 3)
    assert quality.shape == (2, count)
    assert float(torch.sigmoid(logits).mean()) == pytest.approx(0.01, abs=0.01)
    assert (found[..., 2:] > found[..., :2]).all()


def test_places_lie_amid_their_squares_level_by_level() -> None:
    assert CENTRES[:2].tolist() == [[4, 4], [12, 4]]
    assert CENTRES[-1].tolist() == [112, 80]
    assert STEPS.tolist() == [8.0] * (12 * 16) + [16.0] * (6 * 8) + [32.0] * (3 * 4)


def test_only_the_last_layer_of_the_classes_drops_out() -> None:
    net = PyramidDetector(2, 16, 1, dropout=0.5).eval()
    net.dropout.train()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        first, second = net.encode(images), net.encode(images)
        assert torch.equal(first.boxes, second.boxes)
        assert torch.equal(first.classes, second.classes)
        assert not torch.equal(net.classify(first.classes), net.classify(first.classes))
        net.eval()
        assert torch.equal(net.classify(first.classes), net(images)[0])


def test_the_encoder_gives_a_map_for_each_stride() -> None:
    net = PyramidDetector(2, 16, 1)
    maps = net.encoder(torch.randn(1, 3, 64, 96))
    assert [tuple(one.shape[2:]) for one in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [one.shape[1] for one in maps] == list(net.encoder.widths)


# Decoding


def test_boxes_are_brought_to_image_pixels_and_cut_at_its_edges() -> None:
    found = np.array([[2, 4, 22, 30], [-10, 6, 60, 100], [70, 0, 80, 10]], np.float32)
    probs = np.array([[0.9, 0.1], [0.0, 0.8], [0.7, 0.0]], np.float32)
    frame = Frame(np.zeros((48, 64, 3), np.uint8), (0.5, 0.25), (128, 192))
    prediction = decode("k", probs, found, frame, Limits(0.3, 0.6, 300))
    np.testing.assert_allclose(prediction.xyxy, [[4, 16, 44, 120], [0, 24, 120, 192]])
    assert prediction.class_index.tolist() == [0, 1]


def test_boxes_suppress_none_of_another_class() -> None:
    found = np.array([[2, 4, 22, 30]] * 3, np.float32)
    probs = np.array([[0.9, 0.1], [0.1, 0.8], [0.7, 0.1]], np.float32)
    frame = Frame(np.zeros((48, 64, 3), np.uint8), (1.0, 1.0), (64, 48))
    prediction = decode("k", probs, found, frame, Limits(0.3, 0.6, 300))
    assert prediction.class_index.tolist() == [0, 1]
    assert prediction.scores.tolist() == pytest.approx([0.9, 0.8])


@given(st.integers(0, 10_000))
def test_decoding_keeps_the_best_and_no_two_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-20, 60, (80, 2))
    xyxy = np.concatenate([corners, corners + rng.uniform(1, 40, (80, 2))], axis=1).astype(np.float32)
    probs = rng.uniform(0, 0.5, (80, 3)).astype(np.float32)
    frame = Frame(np.zeros((48, 64, 3), np.uint8), (1.0, 1.0), (64, 48))
    found = decode("k", probs, xyxy, frame, Limits(0.3, 0.5, 20))
    assert len(found.scores) <= 20
    assert (found.scores >= 0.3).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [64, 48, 64, 48]).all()
    for name in range(3):
        alike = boxes.iou(found.xyxy[found.class_index == name], found.xyxy[found.class_index == name])
        assert (np.triu(alike, 1) <= 0.5).all()
