"""Hard negatives: what is one, what is none, how many are kept."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alpipe import boxes as box_arithmetic
from alpipe import rle
from alpipe.errors import DataError
from alpipe.mining.hard import MiningOptions, mine
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    ImageClass,
    Item,
    MapPrediction,
    Masks,
    Negative,
    Split,
    Task,
)

CLASSES = ("cat", "dog")
OPTIONS = MiningOptions()
MANY = MiningOptions(ratio=1000, per_image=1000)


def mine_new(*given) -> list[Negative]:
    return mine(*given).new


def example(key: str, labels, width: int = 100, height: int = 80, split: Split = Split.POOL) -> Example:
    return Example(Item(key, f"/images/{key}.png", width, height, split=split), labels)


def truths(*examples: Example) -> dict[str, Example]:
    return {each.item.key: each for each in examples}


def true_boxes(*xyxy: tuple[float, ...]) -> Boxes:
    return Boxes(np.asarray(xyxy, np.float32).reshape(-1, 4), ("cat",) * len(xyxy))


def predicted(key: str, xyxy, scores, classes=None) -> BoxPrediction:
    scores = np.asarray(scores, np.float32)
    index = np.zeros(len(scores), np.int64) if classes is None else np.asarray(classes, np.int64)
    probs = np.zeros((len(scores), 2), np.float32)
    probs[np.arange(len(scores)), index] = scores
    return BoxPrediction(key, np.asarray(xyxy, np.float32).reshape(-1, 4), scores, probs, index)


# ── boxes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_confident_box_on_nothing_is_a_hard_negative():
    negatives = mine_new(
        Task.DETECT,
        [predicted("a", [[0, 0, 10, 10], [50, 50, 60, 70]], [0.9, 0.625], [0, 1])],
        truths(example("a", true_boxes((0, 0, 10, 10)))),
        CLASSES,
        OPTIONS,
    )
    assert negatives == [Negative("a", (50.0, 50.0, 60.0, 70.0), "dog", 0.625, 0.0)]


def test_a_box_of_the_wrong_class_on_an_object_is_none():
    found = predicted("a", [[0, 0, 10, 10]], [0.9], [1])
    assert mine_new(Task.DETECT, [found], truths(example("a", true_boxes((0, 0, 10, 10)))), CLASSES, OPTIONS) == []


@st.composite
def scenes(draw: st.DrawFn):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    given_truths, predictions = {}, []
    for number in range(draw(st.integers(1, 4))):
        sides = [rng.integers(0, 60, (rng.integers(0, n), 2)) for n in (5, 12)]
        true, guessed = (np.hstack([at, at + rng.integers(5, 40, at.shape)]).astype(np.float32) for at in sides)
        guessed = np.vstack([guessed, true + rng.normal(0, 4, true.shape).astype(np.float32)])
        scores = np.round(rng.random(len(guessed)), 1)
        given_truths[f"k{number}"] = example(f"k{number}", Boxes(true, ("cat",) * len(true)))
        predictions.append(predicted(f"k{number}", guessed, scores, rng.integers(0, 2, len(guessed))))
    return predictions, given_truths


def brute_force(predictions, given_truths, options) -> set[tuple[str, tuple[float, ...]]]:
    """Which boxes may be hard negatives at all, one by one by the words of the rule."""
    may = set()
    for prediction in predictions:
        true = given_truths[prediction.item_key].labels.xyxy
        for box, score in zip(prediction.xyxy, prediction.scores, strict=True):
            area = max(0, box[2] - box[0]) * max(0, box[3] - box[1])
            if score < options.min_score or area <= 0:
                continue
            if all(box_arithmetic.iou(box[None], one[None])[0, 0] < options.max_iou for one in true):
                may.add((prediction.item_key, tuple(box.tolist())))
    return may


@settings(deadline=None)
@given(scenes())
def test_mined_boxes_are_those_of_the_rule_without_doubles(scene):
    predictions, given_truths = scene
    negatives = mine_new(Task.DETECT, predictions, given_truths, CLASSES, MANY)
    may = brute_force(predictions, given_truths, MANY)
    kept = {(negative.item_key, negative.box) for negative in negatives}
    assert kept <= may
    for key in given_truths:
        inside = np.asarray([n.box for n in negatives if n.item_key == key], np.float32).reshape(-1, 4)
        overlaps = box_arithmetic.iou(inside, inside)
        np.fill_diagonal(overlaps, 0)
        assert (overlaps <= MANY.nms_iou).all()
        for other, box in may - kept:  # what fell, fell to a better one that stayed
            if other == key:
                assert box_arithmetic.iou(np.asarray([box], np.float32), inside).max() > MANY.nms_iou
    assert all(negative.iou < MANY.max_iou <= 1 for negative in negatives)


@settings(deadline=None)
@given(scenes(), st.integers(1, 3), st.floats(0.1, 3), st.integers(0, 9))
def test_limits_hold_the_best_stay_and_the_order_of_predictions_has_no_influence(scene, per_image, ratio, seed):
    predictions, given_truths = scene
    options = MiningOptions(per_image=per_image, ratio=ratio)
    negatives = mine_new(Task.DETECT, predictions, given_truths, CLASSES, options)
    positives = sum(len(each.labels.names) for each in given_truths.values())
    assert len(negatives) <= ratio * max(1, positives)
    assert all(first.score >= second.score for first, second in pairwise(negatives))
    for key in given_truths:
        assert sum(negative.item_key == key for negative in negatives) <= per_image
    everything = mine_new(Task.DETECT, predictions, given_truths, CLASSES, MANY)
    assert set(negatives) <= set(everything)
    shuffled = [predictions[at] for at in np.random.default_rng(seed).permutation(len(predictions))]
    assert mine_new(Task.DETECT, iter(shuffled), given_truths, CLASSES, options) == negatives


def test_without_any_object_as_many_are_kept_as_for_one():
    found = predicted("a", [[n * 10, 0, n * 10 + 8, 8] for n in range(8)], np.linspace(0.9, 0.4, 8))
    negatives = mine_new(Task.DETECT, [found], truths(example("a", Boxes.none())), CLASSES, OPTIONS)
    assert [negative.box[0] for negative in negatives] == [0, 10, 20]


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def map_of(key: str, class_map: np.ndarray, confidence: float = 0.9) -> MapPrediction:
    rest = (1 - confidence) / len(CLASSES)
    probs = np.where(np.arange(len(CLASSES) + 1)[:, None, None] == class_map, confidence, rest).astype(np.float32)
    return MapPrediction(key, probs, (class_map.shape[1], class_map.shape[0]))


def drawn(*regions: tuple[int, int, int, int, int]) -> np.ndarray:
    """(80, 100) class map with rectangles x1, y1, x2, y2, class."""
    image = np.zeros((80, 100), np.uint8)
    for x1, y1, x2, y2, value in regions:
        image[y1:y2, x1:x2] = value
    return image


def regions_mined(truth: np.ndarray, guess: np.ndarray, **options: float) -> list[Negative]:
    given_truths = truths(example("a", rle.from_class_map(truth, CLASSES)))
    return mine_new(Task.SEGMENT, [map_of("a", guess)], given_truths, CLASSES, MiningOptions(**options))


def test_a_region_on_nothing_is_a_hard_negative_with_its_box_and_mean_probability():
    (negative,) = regions_mined(drawn((0, 0, 20, 20, 1)), drawn((0, 0, 20, 20, 1), (50, 40, 60, 70, 2)))
    assert negative.box == (50, 40, 60, 70)
    assert (negative.name, negative.iou) == ("dog", 0)
    assert negative.score == pytest.approx(0.9)


def test_a_part_of_an_object_or_the_wrong_class_on_it_is_none():
    truth = drawn((0, 0, 40, 40, 1))
    assert regions_mined(truth, drawn((5, 5, 12, 12, 1))) == []
    assert regions_mined(truth, drawn((0, 0, 40, 40, 2))) == []


def test_a_region_that_touches_an_object_a_little_is_one_and_says_how_much():
    (negative,) = regions_mined(drawn((0, 0, 20, 20, 1)), drawn((18, 0, 38, 20, 1)))
    assert negative.iou == pytest.approx(40 / (400 + 400 - 40))
    assert regions_mined(drawn((0, 0, 20, 20, 1)), drawn((10, 0, 30, 20, 1))) == []


def test_specks_and_doubtful_regions_are_left_out():
    guess = drawn((0, 0, 3, 5, 1), (50, 50, 54, 54, 1))
    assert [negative.box for negative in regions_mined(drawn(), guess)] == [(50, 50, 54, 54)]
    assert regions_mined(drawn(), guess, min_score=0.95) == []


def test_regions_that_do_not_touch_are_apart_and_the_ratio_counts_true_regions():
    guess = drawn(*((n * 9, 40, n * 9 + 5, 60, 1) for n in range(10)))
    assert len(regions_mined(drawn(), guess)) == 3
    assert len(regions_mined(drawn((0, 0, 9, 9, 1), (20, 0, 29, 9, 1)), guess)) == 6


# ── classes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_confident_wrong_class_is_a_negative_of_the_whole_image():
    given_truths = truths(*(example(key, ImageClass("cat")) for key in "abc"))
    probs = {"a": (0.1, 0.9), "b": (0.9, 0.1), "c": (0.45, 0.55)}
    predictions = [ClassPrediction(key, np.asarray(row, np.float32)) for key, row in probs.items()]
    negatives = mine_new(Task.CLASSIFY, predictions, given_truths, CLASSES, MiningOptions(min_score=0.6))
    assert [(n.item_key, n.box, n.name) for n in negatives] == [("a", (0, 0, 100, 80), "dog")]


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_labelled_images_of_the_pool_are_mined():
    found = predicted("a", [[0, 0, 9, 9]], [0.9])
    with pytest.raises(DataError, match="item a has no labels"):
        mine_new(Task.DETECT, [found], {}, CLASSES, OPTIONS)
    held_out = truths(example("a", Boxes.none(), split=Split.HOLDOUT))
    with pytest.raises(DataError, match="item a is held out"):
        mine_new(Task.DETECT, [found], held_out, CLASSES, OPTIONS)


def test_labels_of_another_task_are_refused():
    found = predicted("a", [[0, 0, 9, 9]], [0.9])
    with pytest.raises(DataError, match="BoxPrediction and Masks do not fit the task detect"):
        mine_new(Task.DETECT, [found], truths(example("a", Masks({}))), CLASSES, OPTIONS)


@pytest.mark.parametrize("wrong", [{"min_score": 1.5}, {"ratio": 0}, {"per_image": 0}, {"max_iou": 0}, {"tau": 0.3}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        MiningOptions(**wrong)
