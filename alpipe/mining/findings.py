"""What a model finds in one labelled image, whatever the task: regions with a class, a score, and their overlap with
true objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from alpipe import boxes, rle
from alpipe.errors import DataError
from alpipe.labels import predicted_class_map
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    FloatArray,
    ImageClass,
    MapPrediction,
    Masks,
    Prediction,
    Task,
)

SAME_OBJECT, NEAR = 0.5, 0.3
"""IoU from which a finding speaks of a labelled object, and from which it could; below, it is on none."""


@dataclass(frozen=True, slots=True)
class Findings:
    """``xyxy`` (N, 4) pixels, ``scores`` (N,), ``class_index`` (N,), ``iou`` (N,) best overlap with a true object of
    any class, and ``covered`` (N,), by which a finding is told from an object: the IoU of boxes; the share of a mask's
    region that lies on objects, or of the box around it, which is what is trained on, if that is larger; 1 for a class
    that is right or not the most probable.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_index: npt.NDArray[np.int64]
    iou: FloatArray
    covered: FloatArray


def findings(task: Task, prediction: Prediction, example: Example, classes: Sequence[str], min_area: int) -> Findings:
    """All that the prediction finds; of a map the connected regions of each class of at least ``min_area`` pixels.

    Raises DataError for labels or a prediction that do not fit the task.
    """
    match task, prediction, example.labels:
        case Task.DETECT, BoxPrediction(), Boxes() as labels:
            iou = boxes.best(prediction.xyxy, labels.xyxy).iou
            covered = np.where(boxes.areas(prediction.xyxy) > 0, iou, 1).astype(np.float32)
            return Findings(prediction.xyxy, prediction.scores, prediction.class_index, iou, covered)
        case Task.SEGMENT, MapPrediction(), Masks() as labels:
            return _regions(prediction, labels, classes, min_area)
        case Task.CLASSIFY, ClassPrediction(), ImageClass() as labels:
            return _classes(prediction, labels, example, classes)
    raise DataError(
        f"item {prediction.item_key}: {type(prediction).__name__} and {type(example.labels).__name__} do not fit the"
        f" task {task}"
    )


def _regions(prediction: MapPrediction, labels: Masks, classes: Sequence[str], min_area: int) -> Findings:
    """Connected regions of each predicted class, with their mean probability."""
    width, height = prediction.size
    predicted = predicted_class_map(prediction)
    truth = rle.class_map(labels, classes, height, width) > 0
    _, true_regions, true_stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8))
    true_areas = true_stats[:, cv2.CC_STAT_AREA]
    rows: list[tuple[float, ...]] = []
    for value in np.unique(predicted[predicted > 0]).tolist():
        count, regions, stats, _ = cv2.connectedComponentsWithStats((predicted == value).astype(np.uint8))
        channel = prediction.probs[value].astype(np.float32)
        probs = cv2.resize(channel, (width, height), interpolation=cv2.INTER_LINEAR)
        for region in range(1, count):
            x, y, w, h, area = stats[region].tolist()
            if area < min_area:
                continue
            window = np.s_[y : y + h, x : x + w]
            inside = regions[window] == region
            score = min(1.0, float(probs[window][inside].mean()))
            under = np.bincount(true_regions[window][inside], minlength=len(true_areas))[1:]
            iou = float((under / (area + true_areas[1:] - under)).max(initial=0))
            covered = max(under.sum() / area, truth[window].mean())
            rows.append((x, y, x + w, y + h, score, value - 1, iou, covered))
    table = np.array(rows, np.float32).reshape(-1, 8)
    return Findings(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), table[:, 6], table[:, 7])


def _classes(prediction: ClassPrediction, labels: ImageClass, example: Example, classes: Sequence[str]) -> Findings:
    """The whole image once for each class: it is wrong only where it is the most probable one and not the truth."""
    count = len(prediction.probs)
    whole = np.array([[0, 0, example.item.width, example.item.height]], np.float32).repeat(count, axis=0)
    right = np.ones(count, np.float32)
    best = int(np.argmax(prediction.probs))
    if classes[best] != labels.name:
        right[best] = 0
    return Findings(whole, prediction.probs, np.arange(count), np.zeros(count, np.float32), right)
