"""Regions, windows and the pyramid of the sliding classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from alpipe import boxes as box_arithmetic
from alpipe.errors import ConfigError
from alpipe.learners import sliding
from alpipe.learners.detection.regions import AN_IMAGE, Drawing, draw, label
from alpipe.learners.detection.windows import CONTEXT, Level, crops, inner, pyramid, window_shapes
from alpipe.learners.training.data import FILL, Frame, to_input
from alpipe.learners.training.learner import Setting
from alpipe.protocols import LearnerContext
from alpipe.types import FloatArray, Item, Task

WINDOW, STEP = 32, 4
NONE = np.zeros((0, 4), np.float32)


@st.composite
def box_lists(draw: st.DrawFn, least: int = 0) -> FloatArray:
    """Boxes within 96×72, 8 pixels a side or more."""
    found = []
    for _ in range(draw(st.integers(least, 4))):
        x, y = draw(st.integers(0, 80)), draw(st.integers(0, 56))
        found.append((x, y, draw(st.integers(x + 8, 96)), draw(st.integers(y + 8, 72))))
    return np.array(found, np.float32).reshape(-1, 4)


# ── regions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(box_lists(), st.floats(0.1, 0.9), st.integers(0, 1000))
def test_a_region_is_of_the_class_it_overlaps_by_the_threshold_and_background_below(
    boxes: FloatArray, threshold: float, seed: int
) -> None:
    names = np.arange(len(boxes)) % 2
    regions = draw(boxes, names, NONE, (96, 72), 40, drawing(threshold), np.random.default_rng(seed))
    for region, found in zip(regions.xyxy, regions.class_index, strict=True):
        overlaps = [float(box_arithmetic.iou(region[None], box[None])[0, 0]) for box in boxes]
        best = max(overlaps, default=0.0)
        assert (found > 0) == (best >= np.float32(threshold) and best > 0)
        if found:
            assert overlaps[int(np.argmax(overlaps))] == best
            assert found == 1 + names[int(np.argmax(overlaps))]


def drawing(threshold: float = 0.5, hard_share: float = 0.25) -> Drawing:
    return Drawing(np.array([[16, 16], [30, 20]], np.float32), threshold, hard_share, np.ones(2, np.float32))


@given(box_lists(least=1), box_lists(), st.integers(0, 1000))
def test_the_regions_of_an_image_hold_positives_and_as_many_hard_negatives_as_asked(
    boxes: FloatArray, negatives: FloatArray, seed: int
) -> None:
    negatives = negatives[(box_arithmetic.iou(negatives, boxes).max(axis=1, initial=0)) < 0.1]
    names = np.zeros(len(boxes), np.int64)
    regions = draw(boxes, names, negatives, (96, 72), AN_IMAGE, drawing(), np.random.default_rng(seed))
    assert regions.xyxy.shape == (AN_IMAGE, 4)
    assert regions.xyxy.dtype == np.float32
    assert (regions.xyxy[:, 2:] > regions.xyxy[:, :2]).all()
    assert 1 <= (regions.class_index > 0).sum() < AN_IMAGE
    if len(negatives):
        at_negatives = box_arithmetic.iou(regions.xyxy[: AN_IMAGE // 4], negatives).max(axis=1)
        assert (at_negatives > 0.5).all()
        assert (regions.class_index[: AN_IMAGE // 4] == 0).all()


@pytest.mark.parametrize("hard_share", [0.25, 0.5, 1.0])
def test_hard_negatives_take_the_place_of_random_ones_not_of_positives(hard_share: float) -> None:
    boxes, negatives = np.array([[0, 0, 20, 20]], np.float32), np.array([[60, 30, 80, 50]], np.float32)
    how = drawing(hard_share=hard_share)
    regions = draw(boxes, np.zeros(1, np.int64), negatives, (96, 72), 40, how, np.random.default_rng(0))
    assert len(regions.xyxy) == 40
    assert (regions.class_index > 0).sum() == min(10, 40 - 40 * hard_share)
    assert (box_arithmetic.iou(regions.xyxy, negatives)[:, 0] > 0.5).sum() >= 40 * hard_share


def test_an_image_without_objects_is_background_everywhere() -> None:
    regions = draw(NONE, np.zeros(0, np.int64), NONE, (20, 10), AN_IMAGE, drawing(), np.random.default_rng(0))
    assert len(regions.xyxy) == AN_IMAGE
    assert not regions.class_index.any()


def test_rare_classes_are_drawn_as_often_as_common_ones() -> None:
    boxes = np.array([[0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 80, 20]], np.float32)
    names = np.array([0, 0, 1])
    how = Drawing(np.array([[20, 20]], np.float32), 0.5, 0.25, np.array([0.5, 1.0], np.float32))
    regions = draw(boxes, names, NONE, (96, 72), 4000, how, np.random.default_rng(0))
    counts = np.bincount(regions.class_index, minlength=3)
    assert counts[1] == pytest.approx(counts[2], rel=0.15)
    assert counts[1] + counts[2] >= 1000


def test_a_region_between_two_classes_takes_the_nearer() -> None:
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10]], np.float32)
    regions = np.array([[1, 0, 11, 10], [3, 0, 13, 10], [30, 30, 40, 40]], np.float32)
    assert label(regions, boxes, np.array([0, 1]), 0.5).tolist() == [1, 2, 0]


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_windows_are_the_shapes_of_the_boxes_where_these_fall_into_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.array([[16, 40], [30, 30], [80, 50]])
    sides = np.concatenate([group * np.exp(rng.normal(0, 0.05, (50, 2))) for group in groups]).astype(np.float32)
    np.testing.assert_allclose(window_shapes(sides, 3, WINDOW), groups, rtol=0.05)


@given(
    st.lists(st.tuples(st.floats(0.5, 500), st.floats(0.5, 500)), max_size=30),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_windows_lie_within_the_boxes_sides_whatever_their_order(
    sides: list[tuple[float, float]], count: int, order: object
) -> None:
    given_sides = np.array(sides, np.float32).reshape(-1, 2)
    shapes = window_shapes(given_sides, count, WINDOW)
    assert 1 <= len(shapes) <= count
    assert (np.diff(shapes.prod(axis=1)) >= -1e-2).all()
    if not len(sides):
        assert shapes.tolist() == [[inner(WINDOW), inner(WINDOW)]]
        return
    least = inner(WINDOW) / 4
    assert (shapes >= np.maximum(given_sides.min(axis=0), least) * 0.999).all()
    assert (shapes <= np.maximum(given_sides.max(axis=0), least) * 1.001).all()


@given(box_lists(least=1), st.integers(0, 100))
@example(
    np.array([[12, 0, 91, 8]], np.float32), 0
)  # shrinks across, grows down: the one grey column must not be skipped
def test_a_crop_holds_its_box_in_the_inner_part_and_grey_beyond_the_image(boxes: FloatArray, seed: int) -> None:
    image = np.zeros((72, 96, 3), np.uint8)
    for crop, (x1, y1, x2, y2) in zip(crops(image, boxes, WINDOW), boxes, strict=True):
        margin_x, margin_y = (x2 - x1) * CONTEXT / inner(WINDOW), (y2 - y1) * CONTEXT / inner(WINDOW)
        edge_x, edge_y = (CONTEXT + 1 + int(np.ceil(inner(WINDOW) / side)) for side in (x2 - x1, y2 - y1))
        assert (crop[edge_y:-edge_y, edge_x:-edge_x] == 0).all()  # within a pixel of the image, corners being rounded
        outside = [x1 - margin_x < -1, y1 - margin_y < -1, x2 + margin_x > 97, y2 + margin_y > 73]
        edges = [crop[WINDOW // 2, 0], crop[0, WINDOW // 2], crop[WINDOW // 2, -1], crop[-1, WINDOW // 2]]
        for is_outside, edge in zip(outside, edges, strict=True):
            assert not is_outside or edge[0] > 0


def test_a_crop_wholly_outside_the_image_is_grey() -> None:
    made = crops(np.zeros((10, 10, 3), np.uint8), np.array([[50, 50, 60, 70], [-40, -30, -20, -25]], np.float32), 32)
    assert (made == FILL).all()


# ── the pyramid ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 120), st.integers(1, 120), st.floats(8, 90), st.floats(8, 90))
def test_the_windows_of_a_level_cover_the_image_and_fit_the_networks_output(
    height: int, width: int, w: float, h: float
) -> None:
    (level,) = pyramid((height, width), np.array([[w, h]], np.float32), WINDOW, STEP)
    down, across = level.places
    boxes = level.boxes()
    assert boxes.shape == (down * across, 4)
    made = level.image(torch.zeros(3, height, width))
    assert made.shape[2:] == ((down - 1) * STEP + WINDOW, (across - 1) * STEP + WINDOW)
    assert boxes[0, :2].tolist() == [0, 0]
    assert boxes[-1, 2] >= width - 1e-3
    assert boxes[-1, 3] >= height - 1e-3
    sides = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(sides, sides[:1].repeat(len(sides), axis=0), rtol=1e-4)
    # the level's size is rounded to whole pixels: by half a pixel of the level at most
    for side, wanted, pixels, floor in zip(sides[0], (w, h), level.size[::-1], (width, height), strict=True):
        assert abs(side / wanted - 1) <= 0.5 / pixels + 1e-3 or floor * inner(WINDOW) / wanted < 0.5


class Brightness(nn.Module):
    """Stands in for a trained classifier: the second class, where a window is white inside and its context is not."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.full((1, 3, WINDOW, WINDOW), -1.0)
        weight[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT] = 1.0
        self.weight = nn.Parameter(weight / weight.numel(), requires_grad=False)
        self.head = nn.Conv2d(1, 3, 1, bias=True)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([0.0, 0.0, 10.0]).view(3, 1, 1, 1))
            assert self.head.bias is not None
            self.head.bias.copy_(torch.tensor([0.0, -40.0, -10.0]))

    def seen(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.weight, stride=STEP)


@pytest.mark.parametrize("box", [(12, 20, 36, 44), (0, 0, 24, 24), (72, 48, 96, 72), (30, 10, 78, 34), (40, 8, 64, 64)])
def test_a_window_that_fits_an_object_comes_back_as_its_box(box: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = box
    image = np.full((72, 96, 3), 90, np.uint8)
    image[y1:y2, x1:x2] = 255
    shapes = [[24, 24], [48, 24], [24, 56]]
    options = sliding.Options(min_score=0.05)
    setting = Setting(options, ("dark", "bright"), 96, {"window_shapes": shapes})
    frame = Frame(image, (0.5, 0.25), (192, 288))
    item = Item("k", "k.png", 192, 288)
    with torch.inference_mode():
        (found,) = sliding.DESIGN.predict(
            Brightness(),  # type: ignore[arg-type]
            to_input(image[None], torch.device("cpu")),
            [(item, frame)],
            setting,
        )
    truth = np.array([[x1 * 2, y1 * 4, x2 * 2, y2 * 4]], np.float32)
    assert found.class_index[0] == 1
    assert box_arithmetic.iou(found.xyxy[:1], truth)[0, 0] > 0.7


def test_dropout_members_judge_the_boxes_of_the_prediction() -> None:
    options = sliding.Options(window=20, features=(4,), convs=1, hidden=(8,), samples=3, min_score=0.0, dropout=0.5)
    setting = Setting(options, ("a", "b"), 40, {"window_shapes": [[12, 12], [24, 30]]})
    torch.manual_seed(0)
    net = sliding.DESIGN.network(setting).eval()
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    batch = [(Item("k", "k.png", 30, 40), Frame(image, (1.0, 1.0), (30, 40)))]
    with torch.inference_mode():
        images = to_input(image[None], torch.device("cpu"))
        (plain,) = sliding.DESIGN.predict(net, images, batch, setting)
        (scanned,) = sliding.DESIGN.scan(net, images, batch, setting)
    np.testing.assert_allclose(plain.scores, scanned.scores, atol=1e-6)
    assert plain.members == ()
    assert len(scanned.members) == 3
    assert not np.array_equal(scanned.members[0].scores, scanned.members[1].scores)
    for member in scanned.members:
        np.testing.assert_array_equal(member.xyxy, scanned.xyxy)
        assert member.probs.shape == scanned.probs.shape


def test_a_window_that_the_layers_do_not_fit_is_refused() -> None:
    context = LearnerContext(Task.DETECT, ("a",), "cpu", "fp32")
    with pytest.raises(ConfigError, match=r"stage 2, pool: .* 30 pixels; .* 28 or 32"):
        sliding.build(sliding.Options(window=30), context)


def test_the_network_takes_images_of_any_size_from_its_window_on() -> None:
    net = sliding.network(sliding.Options(), 2, 100).eval()
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 1, 1)
        assert net(torch.zeros(1, 3, 50, 64)).shape == (1, 3, 5, 9)
        assert net.embed(torch.zeros(2, 3, 7, 64)).shape == (2, net.features)


def test_bands_of_a_level_hold_its_windows_each_once() -> None:
    level = Level((97, 61), (1.0, 1.0), 22, 4)
    image = torch.randn(1, 3, (level.places[0] - 1) * 4 + 22, (level.places[1] - 1) * 4 + 22)
    whole = torch.nn.functional.avg_pool2d(image, 22, 4)
    for pixels in (1, 3000, 10**6):
        bands = [torch.nn.functional.avg_pool2d(band, 22, 4) for band in level.bands(image, pixels)]
        torch.testing.assert_close(torch.cat(bands, dim=2), whole)


def test_boxes_that_are_alike_share_a_window() -> None:
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.normal(30, 0.3, (60, 2)), rng.normal(60, 0.5, (20, 2))]).astype(np.float32)
    shapes = window_shapes(sides, 8, 32)
    assert len(shapes) == 2
    np.testing.assert_allclose(shapes, [[30, 30], [60, 60]], atol=1)
