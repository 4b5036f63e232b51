"""Objects that nobody marked, as models see them that were not trained on the image.

Of what a model finds at a place (a predicted box; of a map a connected region) the surest counts. It is labelled if it
has an IoU of 0.5 or more with a label, of whatever class, and on none if labels cover less than 0.3 of it (of boxes:
IoU). In the order of their scores, one on none is a question where half or more of the 50 next to it are labelled: who
is so sure is mostly right. Its own score is the share of labelled ones, itself counted, among all that were found as
surely or more. So nothing depends on how high a learner's scores are, only on their order.

Tkachenko, Thyagarajan & Mueller 2023, ObjectLab: Automated Diagnosis of Mislabeled Images in Object Detection Data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alpipe import boxes
from alpipe.mining.findings import NEAR, SAME_OBJECT, findings
from alpipe.mining.label_errors import DOUBT, MIN_AREA, Box, key_of
from alpipe.mining.trust import shares
from alpipe.types import Example, FloatArray, Negative, Prediction, Question, QuestionKind, Task


class Found(NamedTuple):
    """What was found at a place: the surest class, whether a label is there, and whether it was asked about before."""

    key: str
    box: Box
    name: str
    score: float
    labelled: bool
    known: bool


class Overlooked:
    """Looks at predictions as they pass, and says at the end where objects are that nobody marked.

    ``truths`` are the labelled images by key; ``known`` are regions that are asked about, or were, by other means.
    """

    def __init__(
        self, task: Task, truths: Mapping[str, Example], classes: Sequence[str], known: Iterable[Negative] = ()
    ) -> None:
        self._task = task
        self._truths = truths
        self._classes = classes
        self._known: dict[str, list[Box]] = defaultdict(list)
        for region in known:
            self._known[region.item_key].append(region.box)
        self._found: list[Found] = []

    def watch(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions, looked at on their way."""
        for prediction in predictions:
            example = self._truths.get(prediction.item_key)
            if example is not None and self._task is not Task.CLASSIFY:
                self._found += self._look(prediction, example)
            yield prediction

    def questions(self, round_: int, model: str) -> list[Question]:
        """What nobody marked, the surest first."""
        ranked = sorted(self._found, key=lambda found: (-found.score, found.key, found.box))
        labelled = np.array([found.labelled for found in ranked], bool)
        before = np.cumsum([0, *labelled])
        asked = []
        for at, (found, near) in enumerate(zip(ranked, shares(labelled), strict=True)):
            if near >= DOUBT and not found.labelled and not found.known:
                asked.append(self._question(found, float(before[at] + 1) / (at + 1), round_, model))
        return sorted(asked, key=lambda question: (-question.score, question.key))

    def _look(self, prediction: Prediction, example: Example) -> Iterator[Found]:
        seen = findings(self._task, prediction, example, self._classes, MIN_AREA)
        known = boxes.best(seen.xyxy, _rows(self._known.get(example.item.key, []))).iou
        places: list[Box] = []
        for row in np.argsort(-seen.scores, kind="stable").tolist():
            x0, y0, x1, y1 = seen.xyxy[row].tolist()
            box, labelled = (x0, y0, x1, y1), bool(seen.iou[row] >= SAME_OBJECT)
            if places and boxes.best(_rows([box]), _rows(places)).iou[0] >= SAME_OBJECT:
                continue
            places.append(box)
            if labelled or seen.covered[row] < NEAR:
                name, twice = self._classes[int(seen.class_index[row])], bool(known[row] >= SAME_OBJECT)
                yield Found(example.item.key, box, name, float(seen.scores[row]), labelled, twice)

    def _question(self, found: Found, score: float, round_: int, model: str) -> Question:
        return Question(
            key=key_of(QuestionKind.MISSED, found.key, found.name, found.box),
            item=self._truths[found.key].item,
            kind=QuestionKind.MISSED,
            labels=self._truths[found.key].labels,
            box=found.box,
            given=None,
            proposed=found.name,
            score=score,
            round=round_,
            model=model,
            reason=f"nothing is labelled here, but the model sees {found.name} ({found.score:.2f})",
        )


def _rows(places: Sequence[Box]) -> FloatArray:
    return np.array(places, np.float32).reshape(-1, 4)
