"""The detector's targets, losses and decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpipe import boxes
from alpipe.learners.detection.decode import decode
from alpipe.learners.detection.losses import focal_loss, giou_loss, to_boxes
from alpipe.learners.detection.targets import targets
from alpipe.learners.nets.dense import DenseDetector
from alpipe.learners.training.data import Frame
from alpipe.types import FloatArray

STRIDE = 4


@st.composite
def box_lists(draw: st.DrawFn) -> FloatArray:
    """Up to 5 boxes within 64×48, at least 6 pixels a side."""
    count = draw(st.integers(0, 5))
    found = []
    for _ in range(count):
        x, y = draw(st.integers(0, 50)), draw(st.integers(0, 38))
        found.append((x, y, draw(st.integers(x + 6, 64)), draw(st.integers(y + 6, 48))))
    return np.array(found, np.float32).reshape(-1, 4)


def made(xyxy: FloatArray, negatives: FloatArray | None = None):  # type: ignore[no-untyped-def]
    names = np.arange(len(xyxy)) % 2
    regions = np.zeros((0, 4), np.float32) if negatives is None else negatives
    return targets(xyxy, names, regions, 3.0, 2, (12, 16), STRIDE)


@given(box_lists())
def test_each_object_has_a_peak_of_its_class_within_its_box(xyxy: FloatArray) -> None:
    result = made(xyxy)
    assert result.heat.min() >= 0
    assert result.heat.max(initial=0) <= 1
    for index, (x1, y1, x2, y2) in enumerate(xyxy):
        rows, columns = np.nonzero(result.heat[index % 2] == 1)
        ys, xs = (rows + 0.5) * STRIDE, (columns + 0.5) * STRIDE
        assert ((xs >= x1 - 2) & (xs <= x2 + 2) & (ys >= y1 - 2) & (ys <= y2 + 2)).any()
    assert not result.heat[1].any() or len(xyxy) > 1


@given(box_lists())
def test_boxes_are_learnt_where_there_is_weight_and_each_object_weighs_one_at_most(xyxy: FloatArray) -> None:
    result = made(xyxy)
    assert 0 <= result.weight.sum() <= len(xyxy) + 1e-4
    at = result.weight > 0
    assert {tuple(box) for box in result.boxes[:, at].T} <= {tuple(box) for box in xyxy}


def test_only_hard_negatives_weigh_more() -> None:
    focus = made(np.zeros((0, 4), np.float32), np.array([[8, 8, 24, 20]], np.float32)).focus
    assert (focus[2:5, 2:6] == 3).all()
    assert focus.sum() == focus.size + 2 * 12


def test_perfect_outputs_decode_to_the_truth() -> None:
    truth = np.array([[2, 4, 22, 30], [30, 6, 60, 40], [24, 30, 36, 46]], np.float32)
    result = made(truth)
    heat = np.where(result.heat == 1, 0.9, 0.0).astype(np.float32)
    probs = heat.reshape(2, -1).T
    xyxy = result.boxes.reshape(4, -1).T
    frame = Frame(np.zeros((48, 64, 3), np.uint8), (0.5, 0.25), (128, 192))
    prediction = decode("k", probs, xyxy, frame, 0.05, 0.6, 300)
    found = prediction.xyxy[np.lexsort(prediction.xyxy.T[::-1])]
    np.testing.assert_allclose(found, (truth / [0.5, 0.25, 0.5, 0.25])[[0, 2, 1]])
    assert sorted(prediction.class_index) == [0, 0, 1]


@given(st.integers(0, 10_000))
def test_decoding_keeps_the_best_and_no_two_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-20, 60, (80, 2))
    xyxy = np.concatenate([corners, corners + rng.uniform(1, 40, (80, 2))], axis=1).astype(np.float32)
    probs = rng.uniform(0, 0.5, (80, 3)).astype(np.float32)
    frame = Frame(np.zeros((48, 64, 3), np.uint8), (1.0, 1.0), (64, 48))
    found = decode("k", probs, xyxy, frame, 0.3, 0.5, 20)
    assert len(found.scores) <= 20
    assert (found.scores >= 0.3).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [64, 48, 64, 48]).all()
    for name in range(3):
        alike = boxes.iou(found.xyxy[found.class_index == name], found.xyxy[found.class_index == name])
        assert (np.triu(alike, 1) <= 0.5).all()


def test_giou_of_a_box_with_itself_costs_nothing_and_far_away_costs_almost_two() -> None:
    box = torch.tensor([0.0, 0.0, 4.0, 4.0]).view(1, 4, 1, 1)
    weight = torch.ones(1, 1, 1)
    assert float(giou_loss(box, box, weight)) == pytest.approx(0, abs=1e-6)
    assert float(giou_loss(box, box + 1000, weight)) == pytest.approx(2, abs=0.01)
    # Rezatofighi et al.: two unit squares side by side with a gap of one: IoU 0, hull 3, union 2
    left, right = (torch.tensor(v).view(1, 4, 1, 1) for v in ([0.0, 0, 1, 1], [2.0, 0, 3, 1]))
    assert float(giou_loss(left, right, weight)) == pytest.approx(1 + 1 / 3)


def test_focal_loss_is_that_of_cornernet() -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    heat = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    heat[0, 0, 0, 0] = 1
    p = torch.sigmoid(logits)
    expected = torch.where(heat == 1, -((1 - p) ** 2) * p.log(), -((1 - heat) ** 4) * p**2 * (1 - p).log()).sum()
    assert float(focal_loss(logits, heat, torch.ones(2, 4, 5))) == pytest.approx(float(expected))
    assert torch.isfinite(focal_loss(logits * 1e4, heat, torch.ones(2, 4, 5)))


def test_the_detector_says_little_before_it_is_trained_and_its_boxes_have_an_area() -> None:
    net = DenseDetector(3, 16, 1).eval()
    with torch.inference_mode():
        logits, distances = net(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 3, 16, 24)
    assert float(torch.sigmoid(logits).mean()) == pytest.approx(0.01, abs=0.01)
    found = to_boxes(distances, STRIDE)
    assert (found[:, 2:] > found[:, :2]).all()
