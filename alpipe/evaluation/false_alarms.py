"""How many false alarms a recall costs: false positives per image (FPPI) against recall, as the confidence falls.

A box is true where it is matched, greedily by score and one-to-one, with a true box of its class by an IoU of 0.5 or
more, and else a false alarm. The curve runs over all classes together. The log-average miss rate is that of Dollár et
al. (2012, "Pedestrian detection: an evaluation of the state of the art", section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpipe import boxes
from alpipe.types import Boxes, BoxPrediction, Example, FloatArray

MATCHED = 0.5
"""IoU from which a box has found an object."""

REFERENCES = np.logspace(-2, 0, 9)
"""False alarms an image at which miss rates are averaged."""


@dataclass(frozen=True, slots=True, eq=False)
class AlarmCurve:
    """Of confidences falling from 1: ``scores`` (K,), every one that a box has, and with boxes of at least that score
    ``fppi`` (K,) false alarms an image and ``recall`` (K,) in [0, 1]. ``empty_scores`` are the scores, best first, of
    the boxes on the ``empty_images`` that hold no object.
    """

    scores: FloatArray
    fppi: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    empty_scores: FloatArray
    empty_images: int

    def score_at(self, recall: float) -> float | None:
        """The highest confidence from which this recall is reached; None where it never is."""
        at = self._at(recall)
        return None if at is None else float(self.scores[at])

    def fppi_at(self, recall: float) -> float | None:
        """False alarms an image at this recall; None where it is never reached."""
        at = self._at(recall)
        return None if at is None else float(self.fppi[at])

    def recall_at(self, fppi: float) -> float:
        """The highest recall with at most so many false alarms an image."""
        return float(self.recall[self.fppi <= fppi].max(initial=0))

    def empty_alarms_at(self, recall: float) -> float | None:
        """False alarms an image without object, at the confidence that gives this recall over all images; None where
        there is no such image, or this recall is never reached.
        """
        score = self.score_at(recall)
        if score is None or not self.empty_images:
            return None
        return float((self.empty_scores >= score).sum()) / self.empty_images

    def log_average_miss_rate(self) -> float:
        """The geometric mean of the miss rates at nine numbers of false alarms an image, evenly spaced in logarithm
        from 0.01 to 1; in [0, 1], lower is better.
        """
        misses = [max(1e-10, 1 - self.recall_at(float(fppi))) for fppi in REFERENCES]
        return float(np.exp(np.mean(np.log(misses))))

    def figures(self) -> dict[str, float]:
        """What a ledger keeps; a figure at a recall that is never reached is left out."""
        made: dict[str, float | None] = {f"FPPI@recall{recall}": self.fppi_at(recall) for recall in (0.8, 0.9)}
        made |= {f"recall@FPPI{fppi:g}": self.recall_at(fppi) for fppi in (0.1, 1.0)}
        made |= {"LAMR": self.log_average_miss_rate(), "empty_alarms@recall0.8": self.empty_alarms_at(0.8)}
        return {name: value for name, value in made.items() if value is not None}

    def _at(self, recall: float) -> int | None:
        reached = np.flatnonzero(self.recall >= recall - 1e-12)
        return int(reached[0]) if len(reached) else None


def alarm_curve(pairs: Iterable[tuple[BoxPrediction, Example]], classes: Sequence[str]) -> AlarmCurve:
    """The curve of predictions beside the truth, whose labels are boxes; images are read once and not kept."""
    scores: list[FloatArray] = []
    is_true: list[npt.NDArray[np.bool_]] = []
    empty: list[FloatArray] = []
    images = objects = empty_images = 0
    for prediction, example in pairs:
        assert isinstance(example.labels, Boxes)  # noqa: S101 - the caller's
        images += 1
        objects += len(example.labels.names)
        scores.append(prediction.scores)
        is_true.append(_found(prediction, example.labels, classes))
        if not example.labels.names:
            empty_images += 1
            empty.append(prediction.scores)
    every = np.concatenate([*scores, np.zeros(0, np.float32)])
    order = np.argsort(-every, kind="stable")
    ranked, true = every[order], np.concatenate([*is_true, np.zeros(0, bool)])[order]
    last = np.flatnonzero(np.diff(ranked, append=-1.0))  # boxes of one score come and go together
    hits, alarms = np.cumsum(true)[last], np.cumsum(~true)[last]
    return AlarmCurve(
        ranked[last],
        alarms / max(1, images),
        hits / max(1, objects),
        -np.sort(-np.concatenate([*empty, np.zeros(0, np.float32)])),
        empty_images,
    )


def _found(prediction: BoxPrediction, labels: Boxes, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(N,) whether each box has found an object."""
    found = np.zeros(len(prediction.scores), bool)
    order = np.argsort(-prediction.scores, kind="stable")
    names = np.array(labels.names)
    for index in np.unique(prediction.class_index):
        mine = order[prediction.class_index[order] == index]
        truths = labels.xyxy[names == classes[index]] if len(names) else labels.xyxy
        found[mine] = boxes.match(prediction.xyxy[mine], truths, MATCHED) >= 0
    return found
