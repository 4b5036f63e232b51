"""Mean average precision of boxes, by COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from alpipe.errors import DataError
from alpipe.evaluation.false_alarms import alarm_curve
from alpipe.evaluation.result import Metrics
from alpipe.types import Boxes, BoxPrediction, Example, FloatArray

ALL_AREAS, HUNDRED_BOXES = 0, 2  # positions in COCOeval's results: of any size, and at most 100 boxes an image


def evaluate(pairs: Iterable[tuple[BoxPrediction, Example]], classes: Sequence[str]) -> Metrics:
    """mAP at IoU 0.5, with ``mAP50-95``, ``recall`` at IoU 0.5, ``AP50/class`` for each class in the truths, and the
    false alarms of ``false_alarms.AlarmCurve.figures``.

    As COCO does it: average precision is the mean of interpolated precision at 101 recalls, with at most 100 boxes an
    image and class; boxes on images without object count as false. Classes without a true box are left out of the
    means; without any true box every figure is 0. ``boxes`` is how many true ones there are.
    """
    kept = list(pairs)
    images: list[dict[str, Any]] = []
    true: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, (prediction, example) in enumerate(kept, 1):
        if not isinstance(example.labels, Boxes):
            raise DataError(f"item {example.item.key} has {type(example.labels).__name__}, where the task needs boxes")
        images.append({"id": image})
        indices = [_index(name, classes, example) for name in example.labels.names]
        true += _annotations(image, example.labels.xyxy, indices, None, len(true))
        found += _annotations(
            image, prediction.xyxy, prediction.class_index.tolist(), prediction.scores.tolist(), len(found)
        )
    if not true:
        return Metrics("mAP50", 0.0, {"mAP50-95": 0.0, "recall": 0.0, "boxes": 0.0}, len(images))
    precision, recall = _coco(images, true, found, len(classes))
    present = sorted({annotation["category_id"] for annotation in true})
    by_class = precision[0].mean(axis=0)
    details = {
        "mAP50-95": float(precision[:, :, present].mean()),
        "recall": float(recall[0, present].mean()),
        "boxes": float(len(true)),
    }
    details |= alarm_curve(kept, classes).figures()
    details |= {f"AP50/{classes[index]}": float(by_class[index]) for index in present}
    return Metrics("mAP50", float(by_class[present].mean()), details, len(images))


def _index(name: str, classes: Sequence[str], example: Example) -> int:
    if name not in classes:
        raise DataError(f"item {example.item.key} has a box {name!r}; the labels are {', '.join(classes)}")
    return list(classes).index(name)


def _annotations(
    image: int, xyxy: FloatArray, indices: Sequence[int], scores: Sequence[float] | None, before: int
) -> list[dict[str, Any]]:
    """COCO's annotations; ids begin with 1, since COCOeval takes the id 0 for "not matched"."""
    rows = []
    for at, ((x1, y1, x2, y2), index) in enumerate(zip(xyxy.tolist(), indices, strict=True)):
        row: dict[str, Any] = {
            "id": before + at + 1,
            "image_id": image,
            "category_id": index,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        if scores is not None:
            row["score"] = scores[at]
        rows.append(row)
    return rows


def _coco(
    images: list[dict[str, Any]], true: list[dict[str, Any]], found: list[dict[str, Any]], classes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """COCOeval's precision (10 IoUs, 101 recalls, classes) and recall (10, classes); −1 for absent classes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    categories = [{"id": index} for index in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress, with no way to ask it not to
        sides = []
        for annotations in (true, found):
            side = COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, ALL_AREAS, HUNDRED_BOXES]
    recall = evaluation.eval["recall"][:, :, ALL_AREAS, HUNDRED_BOXES]
    return np.asarray(precision, np.float64), np.asarray(recall, np.float64)
