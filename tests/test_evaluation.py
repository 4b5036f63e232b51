"""The metrics against independent implementations."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn import metrics as sklearn_metrics

from alpipe import rle
from alpipe.errors import DataError
from alpipe.evaluation.metrics import evaluate
from alpipe.types import Boxes, BoxPrediction, ClassPrediction, Example, ImageClass, Item, MapPrediction, Masks, Task

CLASSES = ("cat", "dog", "cow")


def item(number: int, width: int = 40, height: int = 30) -> Item:
    return Item(f"item{number}", f"/images/{number}.png", width, height)


def by_key(examples: list[Example]) -> dict[str, Example]:
    return {example.item.key: example for example in examples}


# ── boxes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def box_prediction(key: str, xyxy, scores, classes) -> BoxPrediction:
    xyxy = np.asarray(xyxy, np.float32).reshape(-1, 4)
    scores, classes = np.asarray(scores, np.float32), np.asarray(classes, np.int64)
    probs = np.zeros((len(scores), len(CLASSES)), np.float32)
    probs[np.arange(len(scores)), classes] = scores
    return BoxPrediction(key, xyxy, scores, probs, classes)


def scene(seed: int, images: int = 12) -> tuple[list[BoxPrediction], dict[str, Example]]:
    """True boxes and predictions that are more or less near them, with doubles, misses and inventions."""
    rng = np.random.default_rng(seed)
    predictions, examples = [], []
    for number in range(images):
        n = int(rng.integers(0, 5))
        corner, side = rng.uniform(0, 60, (n, 2)), rng.uniform(8, 40, (n, 2))
        true = np.hstack([corner, corner + side])
        index = rng.choice(len(CLASSES), n, p=[0.7, 0.3, 0.0] if seed % 2 else [0.4, 0.3, 0.3])
        guessed = np.vstack([true, true[: n // 2], np.hstack([corner, corner + side])[::-1] + 25])
        guessed = guessed + rng.normal(0, 3, guessed.shape)
        guessed[:, 2:] = np.maximum(guessed[:, 2:], guessed[:, :2] + 1)
        guessed_index = np.concatenate([index, index[: n // 2], rng.integers(0, 3, n)])
        scores = np.round(rng.random(len(guessed)), 3)
        predictions.append(box_prediction(f"item{number}", guessed, scores, guessed_index))
        examples.append(Example(item(number), Boxes(true.astype(np.float32), tuple(CLASSES[i] for i in index))))
    return predictions, by_key(examples)


def coco_stats(predictions, truths, folder) -> np.ndarray:
    """COCO's summary through its own file format and loader."""
    keys = list(truths)
    annotations = []
    for key, example in truths.items():
        for (x1, y1, x2, y2), name in zip(example.labels.xyxy.tolist(), example.labels.names, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": keys.index(key),
                    "category_id": CLASSES.index(name),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    found = [
        {"image_id": keys.index(p.item_key), "category_id": int(c), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s}
        for p in predictions
        for (x1, y1, x2, y2), s, c in zip(p.xyxy.tolist(), p.scores.tolist(), p.class_index, strict=True)
    ]
    (folder / "true.json").write_text(
        json.dumps(
            {
                "images": [{"id": i} for i in range(len(keys))],
                "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
                "annotations": annotations,
            }
        )
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "true.json"))
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(6))
def test_map_is_what_coco_says_of_the_same_files(seed, tmp_path, capsys):
    predictions, truths = scene(seed)
    measured = evaluate(Task.DETECT, predictions, truths, CLASSES)
    theirs = coco_stats(predictions, truths, tmp_path)
    assert measured.name == "mAP50"
    assert measured.count == len(truths)
    assert measured.value == pytest.approx(theirs[1], abs=1e-12)
    assert measured.details["mAP50-95"] == pytest.approx(theirs[0], abs=1e-12)
    assert 0 < measured.value < 1
    assert capsys.readouterr().out == ""


def average_precision(scores, hits, positives: int) -> float:
    """COCO's 101-point interpolated average precision, written out for one class."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    hit = np.asarray(hits)[order]
    true_positives = np.cumsum(hit)
    recall, precision = true_positives / positives, true_positives / np.arange(1, len(hit) + 1)
    return float(
        np.mean([max((p for r, p in zip(recall, precision, strict=True) if r >= at), default=0) for at in RECALLS])
    )


RECALLS = np.linspace(0, 1, 101)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=25), st.integers(0, 5))
def test_ap_of_one_class_is_the_formula(hits, missed):
    """Boxes far apart, so that matching is plain: a hit lies on its truth exactly, a miss nowhere."""
    scores = np.linspace(0.9, 0.1, len(hits))
    places = np.arange(len(hits) + missed) * 20.0
    at = np.stack([places, places * 0, places + 10, places * 0 + 10], axis=1)
    true = np.vstack([at[: len(hits)][np.asarray(hits, bool)], at[len(hits) :]])
    if not len(true):
        return
    truths = by_key([Example(item(0), Boxes(true.astype(np.float32), ("cat",) * len(true)))])
    prediction = box_prediction("item0", at[: len(hits)], scores, [0] * len(hits))
    measured = evaluate(Task.DETECT, [prediction], truths, CLASSES)
    assert measured.value == pytest.approx(average_precision(scores, hits, len(true)), abs=1e-12)
    assert measured.details["recall"] == pytest.approx(sum(hits) / len(true))


def test_perfect_boxes_give_one_and_absent_classes_are_left_out():
    truths = by_key([Example(item(0), Boxes(np.asarray([[0, 0, 10, 10]], np.float32), ("dog",)))])
    predicted = box_prediction("item0", [[0, 0, 10, 10], [20, 20, 30, 30]], [0.6, 0.9], [1, 0])
    measured = evaluate(Task.DETECT, [predicted], truths, CLASSES)
    assert measured.value == pytest.approx(1)
    alarms = {name for name in measured.details if "FPPI" in name} | {"LAMR"}
    assert set(measured.details) - alarms == {"mAP50-95", "recall", "boxes", "AP50/dog"}


def test_boxes_on_images_without_object_count_as_false():
    examples = [
        Example(item(0), Boxes(np.asarray([[0, 0, 10, 10]], np.float32), ("dog",))),
        Example(item(1), Boxes.none()),
    ]
    good = box_prediction("item0", [[0, 0, 10, 10]], [0.5], [1])
    values = [
        evaluate(Task.DETECT, [good, other], by_key(examples), CLASSES).value
        for other in (box_prediction("item1", [], [], []), box_prediction("item1", [[0, 0, 9, 9]], [0.8], [1]))
    ]
    assert values == pytest.approx([1, 0.5])


def test_without_any_box_map_is_zero():
    nothing = box_prediction("item0", [], [], [])
    empty = by_key([Example(item(0), Boxes.none())])
    assert evaluate(Task.DETECT, [nothing], empty, CLASSES).value == 0
    one = by_key([Example(item(0), Boxes(np.asarray([[0, 0, 5, 5]], np.float32), ("cat",)))])
    assert evaluate(Task.DETECT, [nothing], one, CLASSES).value == 0
    assert evaluate(Task.DETECT, [], {}, CLASSES).count == 0


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def map_prediction(key: str, class_map: np.ndarray) -> MapPrediction:
    probs = (np.arange(len(CLASSES) + 1)[:, None, None] == class_map).astype(np.float32)
    return MapPrediction(key, probs, (class_map.shape[1], class_map.shape[0]))


@pytest.mark.parametrize("seed", range(5))
def test_dice_and_iou_are_those_of_scikit_learn_over_all_pixels(seed):
    rng = np.random.default_rng(seed)
    most = 3 if seed % 2 else 4
    maps = [(rng.integers(0, most, (30, 40)), rng.integers(0, most, (30, 40))) for _ in range(4)]
    for truth, guess in maps:
        guess[:15] = truth[:15]
    examples = [Example(item(n), rle.from_class_map(truth, CLASSES)) for n, (truth, _) in enumerate(maps)]
    predictions = (map_prediction(f"item{n}", guess) for n, (_, guess) in enumerate(maps))
    measured = evaluate(Task.SEGMENT, predictions, by_key(examples), CLASSES)
    truth, guess = (np.concatenate([pair[side].ravel() for pair in maps]) for side in (0, 1))
    present = list(range(1, most))
    dice = sklearn_metrics.f1_score(truth, guess, labels=present, average=None)
    iou = sklearn_metrics.jaccard_score(truth, guess, labels=present, average=None)
    assert measured.value == pytest.approx(dice.mean())
    assert measured.details["IoU"] == pytest.approx(iou.mean())
    assert [measured.details[f"Dice/{CLASSES[i - 1]}"] for i in present] == pytest.approx(dice)
    assert (f"Dice/{CLASSES[2]}" in measured.details) == (most == 4)


def test_a_class_that_is_predicted_but_nowhere_true_counts():
    truth = np.zeros((30, 40), int)
    truth[:10] = 1
    guess = truth.copy()
    guess[20:] = 2
    examples = by_key([Example(item(0), rle.from_class_map(truth, CLASSES))])
    assert evaluate(Task.SEGMENT, [map_prediction("item0", guess)], examples, CLASSES).value == 0.5


def test_maps_smaller_than_the_image_are_judged_at_the_size_of_the_image():
    truth = np.zeros((30, 40), int)
    truth[:, 20:] = 1
    small = map_prediction("item0", truth[::5, ::5])
    prediction = MapPrediction("item0", small.probs.astype(np.float16), (40, 30))
    examples = by_key([Example(item(0), rle.from_class_map(truth, CLASSES))])
    assert evaluate(Task.SEGMENT, [prediction], examples, CLASSES).value > 0.95


def test_nothing_true_and_nothing_predicted_is_zero_not_an_error():
    examples = by_key([Example(item(0), Masks({}))])
    blank = map_prediction("item0", np.zeros((30, 40), int))
    assert evaluate(Task.SEGMENT, [blank], examples, CLASSES).value == 0


# ── classes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_accuracy_and_balanced_accuracy_are_those_of_scikit_learn(pairs):
    examples = [Example(item(n), ImageClass(CLASSES[true])) for n, (true, _) in enumerate(pairs)]
    predictions = [
        ClassPrediction(f"item{n}", np.eye(3, dtype=np.float32)[guess]) for n, (_, guess) in enumerate(pairs)
    ]
    measured = evaluate(Task.CLASSIFY, predictions, by_key(examples), CLASSES)
    true, guessed = (np.asarray([pair[side] for pair in pairs]) for side in (0, 1))
    assert measured.value == pytest.approx(sklearn_metrics.accuracy_score(true, guessed))
    recalls = sklearn_metrics.recall_score(true, guessed, labels=np.unique(true), average=None)
    assert measured.details["balanced accuracy"] == pytest.approx(recalls.mean())
    for name in np.unique(true):
        assert measured.details[f"recall/{CLASSES[name]}"] == pytest.approx(recalls[list(np.unique(true)).index(name)])


@pytest.mark.parametrize("nothing", [None, Boxes.none(), Masks({})])
def test_images_whose_truth_names_no_class_are_left_out_and_counted(nothing):
    examples = by_key([Example(item(0), ImageClass("cat")), Example(item(1), nothing)])
    predictions = [ClassPrediction(key, np.asarray([1, 0, 0], np.float32)) for key in examples]
    measured = evaluate(Task.CLASSIFY, predictions, examples, CLASSES)
    assert (measured.value, measured.count, measured.details["left out"]) == (1, 1, 1)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_a_double_and_a_foreign_prediction_are_refused():
    examples = by_key([Example(item(n), ImageClass("cat")) for n in range(2)])
    first, second, third = (ClassPrediction(f"item{n}", np.asarray([1, 0, 0], np.float32)) for n in range(3))
    with pytest.raises(DataError, match="no prediction for 1 of 2 items, item1"):
        evaluate(Task.CLASSIFY, [first], examples, CLASSES)
    with pytest.raises(DataError, match="item0 was predicted twice"):
        evaluate(Task.CLASSIFY, [first, first], examples, CLASSES)
    with pytest.raises(DataError, match="item2 was predicted but has no truth"):
        evaluate(Task.CLASSIFY, [first, second, third], examples, CLASSES)


def test_labels_and_predictions_of_another_task_or_class_are_refused():
    cat = ClassPrediction("item0", np.asarray([1, 0, 0], np.float32))
    wrong = by_key([Example(item(0), ImageClass("horse"))])
    with pytest.raises(DataError, match="'horse'"):
        evaluate(Task.CLASSIFY, [cat], wrong, CLASSES)
    with pytest.raises(DataError, match="ClassPrediction where the task needs a BoxPrediction"):
        evaluate(Task.DETECT, [cat], wrong, CLASSES)
    with pytest.raises(DataError, match="needs boxes"):
        evaluate(Task.DETECT, [box_prediction("item0", [], [], [])], wrong, CLASSES)
    with pytest.raises(DataError, match="needs masks"):
        evaluate(Task.SEGMENT, [map_prediction("item0", np.zeros((30, 40), int))], wrong, CLASSES)
    blank = by_key([Example(item(0), Masks({}))])
    with pytest.raises(DataError, match="40×30, 4 channels"):
        evaluate(Task.SEGMENT, [map_prediction("item0", np.zeros((8, 9), int))], blank, CLASSES)
    horse = by_key([Example(item(0), Boxes(np.asarray([[0, 0, 1, 1]], np.float32), ("horse",)))])
    with pytest.raises(DataError, match="a box 'horse'"):
        evaluate(Task.DETECT, [box_prediction("item0", [], [], [])], horse, CLASSES)
