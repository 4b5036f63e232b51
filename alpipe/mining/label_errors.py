"""Likely label errors: labels of images that people have labelled, which the model contradicts with confidence.

How sure a model has to be is measured on the class itself, as Confident Learning does: t_j is the mean probability that
the model gives class j where the labels say j. A model that is rarely sure of a class has no say in it.

- classify: an image labelled i for which another class j has p_j ≥ t_j and p_j > p_i, the most probable of them.
- detect: ``swapped``, a label of class i that predicted boxes of another class j overlap by an IoU of 0.5 or more, with
  a score of at least t_j and above what they give class i; ``unfounded``, a label that no predicted box of any class
  with a score of 0.1 or more overlaps by 0.3. (Objects that nobody marked are found by ``mining.guard``.)
- segment: a connected region of a label of which half the pixels or more are given to another class, or to background,
  with a probability of 0.8 or more.

The score is the normalised margin turned round, (1 − (p_i − p_j)) / 2, for masks its sum over the contradicted pixels
of the region over all of its pixels; of an unfounded label 1 less the score of the best box there. That of classes and
boxes is multiplied by the share of the other labels of class i that are not contradicted in the same way (swapped, or
unfounded): where a model contradicts most labels of a class, it does not know the class. The score lies in [0, 1], and
0.5 or more is a question.

Northcutt, Jiang & Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70 (thresholds, the
normalised margin); Tkachenko, Thyagarajan & Mueller 2023, ObjectLab (overlooked and swapped boxes).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from alpipe import boxes, rle
from alpipe.mining.findings import NEAR, SAME_OBJECT
from alpipe.types import (
    KEY_LENGTH,
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    FloatArray,
    ImageClass,
    MapPrediction,
    Masks,
    Prediction,
    Question,
    QuestionKind,
    Rle,
)

FAINT = 0.1
"""Score below which a predicted box counts as none."""

CONFIDENT, MAJORITY = 0.8, 0.5
"""Probability of a pixel, and share of a region's pixels, from which a mask is contradicted."""

MIN_AREA = 16
"""Smallest labelled region of a mask that is looked at, in pixels."""

DOUBT = 0.5
"""Score from which labels are asked about."""

Box = tuple[float, float, float, float]


class Found(NamedTuple):
    """What a model says of one label: how probable the class given is (``support``), and what it sees instead
    (``against``; ``other`` is None for nothing). ``rivals`` are the classes that may be it, more probable than the one
    given, the most probable first: which of them it is, or whether none, is known once all labels were seen. ``score``
    is final where it is not None.
    """

    key: str
    box: Box | None
    given: str
    support: float
    other: str | None = None
    against: float = 0.0
    rivals: tuple[tuple[str, float], ...] | None = None
    score: float | None = None
    region: Rle | None = None


class LabelErrors:
    """Looks at predictions as they pass, and says at the end what they contradict.

    ``truths`` are the labelled images by key; predictions of others, and of another kind than the labels, are passed
    on unseen. Of each label a few numbers are kept.
    """

    def __init__(self, truths: Mapping[str, Example], classes: Sequence[str]) -> None:
        self._truths = truths
        self._classes = classes
        self._found: list[Found] = []
        self._support: dict[str, list[float]] = defaultdict(list)

    def watch(self, predictions: Iterable[Prediction], never_shown: Collection[str] = ()) -> Iterator[Prediction]:
        """The same predictions, looked at on their way. Labels of classes that the model was ``never_shown`` an example
        of are not judged. Streams of several models, each of other images, may be watched one after another.
        """
        for prediction in predictions:
            example = self._truths.get(prediction.item_key)
            if example is not None:
                for found in self._look(prediction, example):
                    if found.given in never_shown:
                        continue
                    self._support[found.given].append(found.support)
                    self._found.append(found)
            yield prediction

    def questions(self, round_: int, model: str) -> list[Question]:
        """What is contradicted, the likeliest errors first."""
        means = {name: float(np.mean(values)) for name, values in self._support.items()}
        against = [found for one in self._found if (found := _contradicted(one, means)) is not None]
        often = Counter((found.given, found.other is None) for found in against)
        asked = []
        for found in against:
            others = len(self._support[found.given]) - 1
            rate = (often[found.given, found.other is None] - 1) / max(1, others)
            score = found.score if found.score is not None else _margin(found) * (1 - rate)
            if score >= DOUBT:
                asked.append(self._question(found, min(score, 1.0), round_, model))
        return sorted(asked, key=lambda question: (-question.score, question.key))

    def _look(self, prediction: Prediction, example: Example) -> Iterator[Found]:
        match prediction, example.labels:
            case ClassPrediction(), ImageClass() as labels if labels.name in self._classes:
                yield _of_image(prediction, labels.name, self._classes)
            case BoxPrediction(), Boxes() as labels:
                yield from _of_boxes(prediction, labels, self._classes)
            case MapPrediction(), Masks() as labels:
                yield from _of_masks(prediction, labels, self._classes)
            case _:
                pass

    def _question(self, found: Found, score: float, round_: int, model: str) -> Question:
        kind = QuestionKind.UNFOUNDED if found.other is None else QuestionKind.SWAPPED
        seen = "the model sees " + ("nothing" if found.other is None else f"{found.other} ({found.against:.2f})")
        return Question(
            key=key_of(kind, found.key, found.given, found.box),
            item=self._truths[found.key].item,
            kind=kind,
            labels=self._truths[found.key].labels,
            box=found.box,
            given=found.given,
            proposed=found.other,
            score=score,
            round=round_,
            model=model,
            reason=f"labelled {found.given}, but {seen}",
            region=found.region,
        )


def _contradicted(found: Found, means: Mapping[str, float]) -> Found | None:
    """The label with the class that is seen instead: of the rivals that are as probable as that class is on average
    where the labels say it (``means``), the most probable; None where there is none.
    """
    if found.rivals is None:
        return found
    for other, against in found.rivals:
        if against >= means.get(other, np.inf) > 0:
            return found._replace(other=other, against=against)
    return None


def _margin(found: Found) -> float:
    """In [0, 1]; where the model sees nothing, what the score of what is near leaves speaks against the label."""
    return 1 - found.against if found.other is None else (1 - (found.support - found.against)) / 2


def key_of(kind: QuestionKind, item_key: str, given: str, box: Box | None) -> str:
    """The name of a question: the same doubt about the same label gives the same one, whichever model has it."""
    place = "" if box is None else ",".join(f"{side:.1f}" for side in box)
    text = f"{kind}:{item_key}:{given}:{place}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_LENGTH // 2).hexdigest()


def _of_image(prediction: ClassPrediction, given: str, classes: Sequence[str]) -> Found:
    at = classes.index(given)
    known = len(prediction.probs)  # fewer than now, of a model of before a class was added
    support = float(prediction.probs[at]) if at < known else 0.0
    rivals = _rivals(prediction.probs, at, support, classes) if at < known else ()
    return Found(prediction.item_key, None, given, support, rivals=rivals)


def _rivals(probs: FloatArray, given: int, support: float, classes: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The other classes more probable than the one given, the most probable first, of (C,) probabilities."""
    order = np.argsort(-probs, kind="stable").tolist()
    return tuple((classes[index], float(probs[index])) for index in order if index != given and probs[index] > support)


def _of_boxes(prediction: BoxPrediction, labels: Boxes, classes: Sequence[str]) -> Iterator[Found]:
    overlaps = boxes.iou(labels.xyxy, prediction.xyxy)
    for row, given, overlap in zip(labels.xyxy.tolist(), labels.names, overlaps, strict=True):
        box: Box = (row[0], row[1], row[2], row[3])
        index = classes.index(given) if given in classes else -1
        same = overlap >= SAME_OBJECT
        support = 0.0
        if same.any() and 0 <= index < prediction.probs.shape[1]:
            support = float(prediction.probs[same, index].max())
        near = float(np.where(overlap >= NEAR, prediction.scores, 0).max(initial=0))
        if near < FAINT:
            yield Found(prediction.item_key, box, given, support, None, near)
            continue
        best = np.zeros(len(classes), np.float32)
        np.maximum.at(best, prediction.class_index[same], prediction.scores[same])
        yield Found(prediction.item_key, box, given, support, rivals=_rivals(best, index, support, classes))


def _of_masks(prediction: MapPrediction, labels: Masks, classes: Sequence[str]) -> Iterator[Found]:
    width, height = prediction.size
    truth = rle.class_map(labels, classes, height, width)
    for value in np.unique(truth[truth > 0]).tolist():
        count, regions, stats, _ = cv2.connectedComponentsWithStats((truth == value).astype(np.uint8))
        for region in range(1, count):
            x, y, w, h, area = stats[region].tolist()
            if area < MIN_AREA:
                continue
            window = np.s_[y : y + h, x : x + w]
            inside = regions[window] == region
            probs = _window(prediction, (x, y, w, h))[:, inside]
            found = _of_region(probs, value)
            if found is None:
                continue
            score, other, contradicted = found
            pixels = np.zeros((height, width), bool)
            pixels[window][inside] = contradicted
            name = None if other == 0 else classes[other - 1]
            box = (float(x), float(y), float(x + w), float(y + h))
            against = float(probs[other][contradicted].mean())
            support = float(probs[value].mean()) if value < len(probs) else 0.0
            given = classes[value - 1]
            yield Found(prediction.item_key, box, given, support, name, against, None, score, rle.encode(pixels))


def _of_region(probs: FloatArray, value: int) -> tuple[float, int, npt.NDArray[np.bool_]] | None:
    """Of (C, N) probabilities of a region's pixels: the score, the class that most of those contradicted are given to,
    and (N,) which pixels that are; None where too few are contradicted.
    """
    others = probs.copy()
    if value < len(others):
        others[value] = -1
    best = others.argmax(axis=0)
    against = others.max(axis=0)
    sure = against >= CONFIDENT
    if sure.mean() < MAJORITY:
        return None
    other = int(np.bincount(best[sure]).argmax())
    contradicted = sure & (best == other)
    support = probs[value] if value < len(probs) else np.zeros_like(against)
    margin = (1 - (support - against)) / 2
    return float(margin[sure].sum() / len(sure)), other, contradicted


def _window(prediction: MapPrediction, window: tuple[int, int, int, int]) -> FloatArray:
    """(1 + C, h, w) probabilities of a part (x, y, w, h) of the whole image."""
    x, y, w, h = window
    width, height = prediction.size
    if prediction.probs.shape[1:] == (height, width):
        return prediction.probs[:, y : y + h, x : x + w].astype(np.float32)
    whole = [
        cv2.resize(channel.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)[y : y + h, x : x + w]
        for channel in prediction.probs
    ]
    return np.stack(whole).astype(np.float32)
