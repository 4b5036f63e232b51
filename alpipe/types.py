"""The spine: the values that every room knows.

Coordinates are pixels of the image as displayed (EXIF orientation applied), x to the right and y down, with the pixel
edges at whole numbers: a box over a whole image of width W and height H is (0, 0, W, H). Scores and probabilities lie
in [0, 1]. What a person says is in names of labels; what a model says is in indices into the model's ``classes``.

Values are checked where they are made, so that inner code need not check again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from alpipe.errors import DataError

FloatArray: TypeAlias = npt.NDArray[np.float32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]

KEY_LENGTH = 20
"""Characters of an item key: Label Studio filters on text fields of this size without trouble."""


class Task(StrEnum):
    """What the learner is to learn."""

    CLASSIFY = "classify"
    DETECT = "detect"
    SEGMENT = "segment"


class Split(StrEnum):
    """Which side of the frozen split an item is on. Nothing is ever trained on a hold-out item."""

    POOL = "pool"
    HOLDOUT = "holdout"


class ItemState(StrEnum):
    """Where an item stands in its life."""

    UNLABELLED = "unlabelled"
    SELECTED = "selected"
    PUSHED = "pushed"
    LABELLED = "labelled"
    EMPTY = "empty"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


class AnswerState(StrEnum):
    """The answers that a person can give; an untouched task has no answer and so no annotation."""

    LABELLED = "labelled"
    EMPTY = "empty"
    SKIPPED = "skipped"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Item:
    """One image of the pool.

    ``key`` is a hash of the file's bytes (KEY_LENGTH characters), ``uri`` the absolute path of the file, ``width`` and
    ``height`` pixels as displayed, ``group`` what must stay on one side of a split (video, patient, person).
    """

    key: str
    uri: str
    width: int
    height: int
    group: str | None = None
    split: Split = Split.POOL
    state: ItemState = ItemState.UNLABELLED

    @property
    def path(self) -> Path:
        return Path(self.uri)


class Rle(NamedTuple):
    """A binary mask of (height, width), run-length encoded as COCO does it (column-major, compressed, ASCII)."""

    height: int
    width: int
    counts: str


@dataclass(frozen=True, slots=True)
class ImageClass:
    """The class of a whole image."""

    name: str


def corners_of(xyxy: FloatArray) -> FloatArray:
    """(N, 4, 2) x and y of the corners of (N, 4) upright boxes, clockwise from the top left one."""
    return np.ascontiguousarray(xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes with names. ``xyxy`` is (N, 4) float32 with x1 < x2 and y1 < y2; N = 0 is a reviewed image without object.

    ``corners``, (N, 4, 2) float32 of x and y, is given where people turned a box: clockwise from its own top left
    corner. ``xyxy`` is then the upright box around it, cut at the image's edge, which learners and metrics use; of the
    boxes beside it that are upright, ``corners`` repeats ``xyxy``. Where all are upright it is None.

    Raises DataError for another shape, values that are not finite, or a box without area.
    """

    xyxy: FloatArray
    names: tuple[str, ...]
    corners: FloatArray | None = None

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, dtype=np.float32).reshape(-1, 4) if np.size(self.xyxy) == 0 else self.xyxy
        xyxy = np.ascontiguousarray(xyxy, dtype=np.float32)
        if xyxy.ndim != 2 or xyxy.shape[1] != 4 or len(xyxy) != len(self.names):
            raise DataError(f"boxes of shape {xyxy.shape} with {len(self.names)} names: expected (N, 4) and N names")
        if not np.isfinite(xyxy).all():
            raise DataError("a box has a coordinate that is not a finite number")
        if (xyxy[:, 2:] <= xyxy[:, :2]).any():
            at = int(np.argmax((xyxy[:, 2:] <= xyxy[:, :2]).any(axis=1)))
            raise DataError(f"box {at} has no area: {xyxy[at].tolist()}")
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "corners", self._checked_corners())

    def _checked_corners(self) -> FloatArray | None:
        if self.corners is None:
            return None
        corners = np.ascontiguousarray(self.corners, dtype=np.float32)
        if corners.shape != (len(self.xyxy), 4, 2) or not np.isfinite(corners).all():
            raise DataError(f"corners of shape {corners.shape} for {len(self.xyxy)} boxes: expected (N, 4, 2), finite")
        return None if np.array_equal(corners, corners_of(self.xyxy)) else corners

    @property
    def rotated(self) -> npt.NDArray[np.bool_]:
        """(N,) which of the boxes people turned."""
        if self.corners is None:
            return np.zeros(len(self.xyxy), np.bool_)
        turned: npt.NDArray[np.bool_] = (self.corners != corners_of(self.xyxy)).any(axis=(1, 2))
        return turned

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Boxes) or self.names != other.names or not np.array_equal(self.xyxy, other.xyxy):
            return False
        if self.corners is None or other.corners is None:
            return self.corners is other.corners
        return np.array_equal(self.corners, other.corners)

    __hash__ = None  # type: ignore[assignment]  # arrays inside

    @classmethod
    def none(cls) -> Boxes:
        return cls(np.zeros((0, 4), np.float32), ())


@dataclass(frozen=True, slots=True)
class Masks:
    """One mask a name, all of the image's size; a name that is absent covers no pixel; later names lie on top.

    No name at all is a reviewed image without object. Raises DataError for masks of different sizes.
    """

    by_name: Mapping[str, Rle]

    def __post_init__(self) -> None:
        sizes = {(rle.height, rle.width) for rle in self.by_name.values()}
        if len(sizes) > 1:
            raise DataError(f"masks of one image have different sizes: {sorted(sizes)}")


Labels: TypeAlias = ImageClass | Boxes | Masks


def is_empty(labels: Labels) -> bool:
    """Whether the labels say that the image holds no object."""
    match labels:
        case Boxes(names=names):
            return not names
        case Masks(by_name=by_name):
            return not by_name
        case _:
            return False


@dataclass(frozen=True, slots=True)
class Edits:
    """What a person made of the suggested objects of one class in one image; of masks, an object is a region.

    ``objects`` of this class are in the answer. Of those that were suggested as this class, ``accepted`` were left as
    they were, ``moved`` were moved or reshaped, ``relabelled`` were given another class, others ``deleted``; ``added``
    were drawn by the person. ``overlap`` is the sum of the IoU in [0, 1] of each moved one with what was suggested.
    """

    objects: int = 0
    accepted: int = 0
    moved: int = 0
    relabelled: int = 0
    deleted: int = 0
    added: int = 0
    overlap: float = 0.0

    @property
    def suggested(self) -> int:
        return self.accepted + self.moved + self.relabelled + self.deleted

    def __add__(self, other: Edits) -> Edits:
        return Edits(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a person, a file or an oracle said of one item.

    ``labels`` is None for a skip (and for a classification submitted without a class). ``annotator`` names who spoke
    (``labelstudio:3``, ``import:voc``, ``oracle``); ``external_id`` is the annotator's own id of this answer, stable
    over edits and unique within the annotator; ``lead_time`` is seconds of work; ``model`` the version whose
    pre-annotation was shown, if any; ``blind`` says that none was shown on purpose, to measure the bias of showing one.
    ``edits`` has what was done to the pre-annotation, by class (without one all is added); None: it is not known.
    """

    item_key: str
    state: AnswerState
    labels: Labels | None
    annotator: str
    external_id: str
    lead_time: float | None = None
    round: int | None = None
    model: str | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    blind: bool = False
    edits: Mapping[str, Edits] | None = None

    def __post_init__(self) -> None:
        if self.state is AnswerState.LABELLED and (self.labels is None or is_empty(self.labels)):
            raise DataError(f"annotation {self.external_id} of item {self.item_key} is 'labelled' but holds no label")
        if self.state is AnswerState.EMPTY and self.labels is not None and not is_empty(self.labels):
            raise DataError(f"annotation {self.external_id} of item {self.item_key} is 'empty' but holds labels")


@dataclass(frozen=True, slots=True)
class Example:
    """An item with its labels: what learners train on and evaluation compares with."""

    item: Item
    labels: Labels


@dataclass(frozen=True, slots=True)
class Negative:
    """A region of a labelled image that a model took for an object although none is there.

    ``box`` is xyxy in pixels, ``name`` the class that the model gave it, ``score`` its confidence, ``iou`` its best
    overlap with a true object.
    """

    item_key: str
    box: tuple[float, float, float, float]
    name: str
    score: float
    iou: float


class NegativeState(StrEnum):
    """Where an entry of the bank of hard negatives stands.

    ``hard``: learners train on it. ``easy``: the newest model no longer falls for it. ``question``: it may be an object
    that nobody marked; it waits for a person. ``confirmed``: a person said that no object is there; it stays.
    ``object``: a person said that there is one. ``stale``: the labels it was measured against no longer stand.
    """

    HARD = "hard"
    EASY = "easy"
    QUESTION = "question"
    CONFIRMED = "confirmed"
    OBJECT = "object"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class BankEntry:
    """A hard negative in the bank: the ``round`` and ``model`` that found it, the newest model's ``score`` of its
    region, and ``hard_round``, the last one whose model still fell for it. ``key`` names it for good; ``reason`` says
    why it became a question, ``settled_by`` who answered that.
    """

    key: str
    negative: Negative
    round: int
    model: str
    state: NegativeState
    score: float
    hard_round: int
    reason: str | None = None
    settled_by: str | None = None


def _check_probabilities(values: npt.NDArray[np.floating], what: str, key: str) -> None:
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # what is no number fails both
        raise DataError(f"{what} of item {key} are not all within [0, 1]; the model is broken: train it again")


@dataclass(frozen=True, slots=True, eq=False)
class ClassPrediction:
    """Class probabilities of one image: ``probs`` (C,) float32, summing to 1.

    ``members`` of a prediction, whatever its kind, are all the voices of an ensemble, each of the prediction's shape
    (boxes: each about the same boxes), or none where there is no ensemble. The prediction itself is what is reported:
    it is no further voice, and may be one of them or their mean. The ensemble's mean is that over ``members`` alone.
    """

    item_key: str
    probs: FloatArray
    members: tuple[ClassPrediction, ...] = ()

    def __post_init__(self) -> None:
        if self.probs.ndim != 1:
            raise DataError(f"class probabilities of item {self.item_key} have shape {self.probs.shape}, expected (C,)")
        _check_probabilities(self.probs, "class probabilities", self.item_key)


@dataclass(frozen=True, slots=True, eq=False)
class BoxPrediction:
    """Boxes of one image, best first.

    ``xyxy`` (N, 4) float32 within the image; ``scores`` (N,) confidence that the box is an object of its class;
    ``probs`` (N, C) probability of each class by itself (rows need not sum to 1). ``class_index`` (N,) is the class
    whose score is given: with class-wise suppression a place may stand here once for each of several classes.
    """

    item_key: str
    xyxy: FloatArray
    scores: FloatArray
    probs: FloatArray
    class_index: npt.NDArray[np.int64]
    members: tuple[BoxPrediction, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.xyxy.shape != (n, 4) or self.probs.ndim != 2 or len(self.probs) != n or self.class_index.shape != (n,):
            raise DataError(
                f"boxes of item {self.item_key} have shapes {self.xyxy.shape}, {self.scores.shape}, {self.probs.shape},"
                f" {self.class_index.shape}, expected (N, 4), (N,), (N, C), (N,)"
            )
        if not np.isfinite(self.xyxy).all():
            raise DataError(f"a predicted box of item {self.item_key} is not finite; the model is broken")
        _check_probabilities(self.scores, "box scores", self.item_key)
        _check_probabilities(self.probs, "box class probabilities", self.item_key)


@dataclass(frozen=True, slots=True, eq=False)
class MapPrediction:
    """Probability map of one image: ``probs`` (1 + C, h, w) float32 or float16, channel 0 is the background, the
    channels sum to 1. (h, w) may be smaller than the image; ``size`` is (width, height) of the image in pixels.
    """

    item_key: str
    probs: npt.NDArray[np.float32] | npt.NDArray[np.float16]
    size: tuple[int, int]
    members: tuple[MapPrediction, ...] = ()

    def __post_init__(self) -> None:
        if self.probs.ndim != 3:
            raise DataError(
                f"probability map of item {self.item_key} has shape {self.probs.shape}, expected (1 + C, h, w)"
            )
        _check_probabilities(self.probs, "pixel probabilities", self.item_key)


Prediction: TypeAlias = ClassPrediction | BoxPrediction | MapPrediction


@dataclass(frozen=True, slots=True)
class ImageFit:
    """How badly an image fits the density of the labelled images: ``nats``, the negative evidence lower bound in nats
    per dimension (pixel and channel). Larger is a worse fit.
    """

    item_key: str
    nats: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.nats):
            raise DataError(f"the fit of item {self.item_key} is {self.nats}; the model is broken: train it again")


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a model says of an image, and of its horizontal mirror image, the latter turned back: both are in the
    coordinates of the image as it is. Their boxes need not be the same ones.
    """

    item_key: str
    plain: Prediction
    mirrored: Prediction


class Score(NamedTuple):
    """How much an item is worth labelling: larger is always more."""

    key: str
    value: float


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A pre-annotation: labels that a model proposes, with a confidence for each box, mask or class in their order."""

    labels: Labels
    scores: tuple[float, ...]
    model: str


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """A question to a person: label this item.

    ``uncertainty`` in [0, 1] is the normalised score, or None where no model has scored the item; ``reason`` says in
    words why it was chosen; ``suggestion`` is None where nothing is to be shown (never for hold-out items), and
    ``blind`` says that this is on purpose, by lot. ``again``: people answered and disagree, ask once more.
    """

    item: Item
    round: int
    reason: str
    uncertainty: float | None = None
    suggestion: Suggestion | None = None
    blind: bool = False
    again: bool = False


class Receipt(NamedTuple):
    """That a request has arrived: the annotator's own id of the task for this item."""

    item_key: str
    external_id: str


@dataclass(frozen=True, slots=True)
class RegionQuestion:
    """A question to a person about one region of a labelled image: is there an object that nobody marked?

    ``key`` is the bank's name of the region, ``box`` xyxy in pixels, ``name`` the class that the model sees, ``score``
    its confidence, ``reason`` why it is asked, in words.
    """

    key: str
    item: Item
    box: tuple[float, float, float, float]
    name: str
    score: float
    round: int
    reason: str


class RegionAnswer(NamedTuple):
    """What a person said to a RegionQuestion: whether an object is there."""

    key: str
    is_object: bool
    annotator: str


class QuestionKind(StrEnum):
    """In which way a model contradicts the labels of an image.

    ``missed``: an object that nobody marked. ``unfounded``: a label where the model sees nothing. ``swapped``: a label
    where it sees another class.
    """

    MISSED = "missed"
    UNFOUNDED = "unfounded"
    SWAPPED = "swapped"


class QuestionState(StrEnum):
    """Where a question stands: ``open`` is not asked yet, ``asked`` waits for a person, who then found the labels
    ``right`` or ``wrong``, or skipped it (``unsure``); ``stale``: the labels it is about no longer stand.
    """

    OPEN = "open"
    ASKED = "asked"
    RIGHT = "right"
    WRONG = "wrong"
    UNSURE = "unsure"
    STALE = "stale"


OUT_OF_SAMPLE = "cross-validation"
"""``model`` of questions that came of several models, each asked about labels that it was not trained on."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A question to a person about labels that stand: are they right, or is the model that contradicts them?

    ``key`` names it for good, at most KEY_LENGTH characters; ``box`` is xyxy in pixels (None: the whole image),
    ``region`` its pixels where masks are meant. ``given`` is what the labels say there and ``proposed`` what the model
    says, None for nothing; ``score`` in [0, 1] how likely the labels are wrong, ``labels`` all labels of the image.
    """

    key: str
    item: Item
    kind: QuestionKind
    labels: Labels
    box: tuple[float, float, float, float] | None
    given: str | None
    proposed: str | None
    score: float
    round: int
    model: str
    reason: str
    region: Rle | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What a person said to a Question: whether the model is right (None: skipped), and the labels as they left them
    (None: as they were).
    """

    key: str
    model_is_right: bool | None
    labels: Labels | None
    annotator: str
    external_id: str
    at: datetime
    lead_time: float | None = None


class Refusal(NamedTuple):
    """A part of some input that was not taken: where it stands and why, in words."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came back: answers that are new or changed since the watermark, and the watermark for the next call.

    ``withdrawn`` holds the external ids of answers that people deleted; ``refused`` what cannot be understood, of
    earlier pulls too where it stands unchanged;
    ``gone`` the keys of items whose question is no longer there.
    """

    annotations: tuple[Annotation, ...]
    watermark: str
    withdrawn: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    gone: tuple[str, ...] = ()


class Progress(NamedTuple):
    """A sign of life from long work: ``done`` of ``total`` units, and what to show beside (losses, images/s)."""

    stage: str
    done: int
    total: int
    detail: str = ""
