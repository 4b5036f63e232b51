"""Objects that nobody marked, as models see them that were not trained on the image.

A finding (a predicted box; of a map a connected region) that lies on no label of any class, by less than 0.3, is one
where its score is 0.5 or more and not below the mean score of what was found on true objects of its class: a model that
is sure of everything has to be surer than that. The score is the finding's.

Tkachenko, Thyagarajan & Mueller 2023, ObjectLab: Automated Diagnosis of Mislabeled Images in Object Detection Data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from alpipe import boxes
from alpipe.mining.findings import findings
from alpipe.mining.label_errors import DOUBT, MIN_AREA, NEAR, SAME_OBJECT, Box, key_of
from alpipe.types import Example, FloatArray, Negative, Prediction, Question, QuestionKind, Task


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
        self._found: list[Negative] = []
        self._sure: dict[str, list[float]] = defaultdict(list)

    def watch(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions, looked at on their way."""
        for prediction in predictions:
            example = self._truths.get(prediction.item_key)
            if example is not None and self._task is not Task.CLASSIFY:
                self._look(prediction, example)
            yield prediction

    def questions(self, round_: int, model: str) -> list[Question]:
        """What nobody marked, the surest first; a place once, by its likeliest class."""
        means = {name: float(np.mean(scores)) for name, scores in self._sure.items()}
        sure = [one for one in self._found if one.score >= means.get(one.name, 1.0)]
        kept: list[Negative] = []
        places: dict[str, list[Box]] = defaultdict(list)
        for one in sorted(sure, key=lambda one: (-one.score, one.item_key, one.box)):
            same = places[one.item_key]
            if not same or boxes.best(_rows([one.box]), _rows(same)).iou[0] < SAME_OBJECT:
                same.append(one.box)
                kept.append(one)
        return [self._question(one, round_, model) for one in kept]

    def _look(self, prediction: Prediction, example: Example) -> None:
        found = findings(self._task, prediction, example, self._classes, MIN_AREA)
        key = example.item.key
        again = boxes.best(found.xyxy, _rows(self._known.get(key, []))).iou
        for row, score, index, iou, covered, twice in zip(
            found.xyxy.tolist(),
            found.scores.tolist(),
            found.class_index.tolist(),
            found.iou,
            found.covered,
            again,
            strict=True,
        ):
            name = self._classes[index]
            if iou >= SAME_OBJECT:
                self._sure[name].append(score)
            elif covered < NEAR and score >= DOUBT and twice < SAME_OBJECT:
                self._found.append(Negative(key, (row[0], row[1], row[2], row[3]), name, score, float(iou)))

    def _question(self, found: Negative, round_: int, model: str) -> Question:
        return Question(
            key=key_of(QuestionKind.MISSED, found.item_key, found.name, found.box),
            item=self._truths[found.item_key].item,
            kind=QuestionKind.MISSED,
            labels=self._truths[found.item_key].labels,
            box=found.box,
            given=None,
            proposed=found.name,
            score=found.score,
            round=round_,
            model=model,
            reason=f"nothing is labelled here, but the model sees {found.name} ({found.score:.2f})",
        )


def _rows(places: Sequence[Box]) -> FloatArray:
    return np.array(places, np.float32).reshape(-1, 4)
