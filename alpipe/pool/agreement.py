"""What several people's answers to one item come to, by a stated rule. Pure functions.

More than half of those who spoke decide; who skipped does not speak. Where nothing is decided the item is a question
still: an object that was marked by some and called different names is neither taken nor left out, since leaving it out
would teach that nothing is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from alpipe import boxes, rle
from alpipe.types import Annotation, AnswerState, Boxes, ImageClass, Labels, Masks, corners_of, is_empty


@dataclass(frozen=True, slots=True)
class Rule:
    """``policy``; how many people at least must have answered; the IoU in (0, 1] from which two marks are of one
    object.
    """

    policy: Literal["latest", "majority", "consensus"] = "latest"
    minimum: int = 1
    iou: float = 0.5


class Agreed(NamedTuple):
    """What counts."""

    state: AnswerState
    labels: Labels | None


class Open(NamedTuple):
    """Nothing counts yet, and why; ``disagree`` where more answers of the same kind would not settle it."""

    reason: str
    disagree: bool


Verdict: TypeAlias = Agreed | Open


class Mark(NamedTuple):
    """One person's box: the upright one, and its (4, 2) corners."""

    person: int
    name: str
    xyxy: npt.NDArray[np.float64]
    corners: npt.NDArray[np.float64]

    @property
    def turned(self) -> bool:
        return not np.array_equal(self.corners, _corners_of(self.xyxy))


def merge(answers: Sequence[Annotation], rule: Rule) -> Verdict:
    """What the answers to one item come to, whatever their order; of each person the newest counts. Drafts must not be
    among them. Raises ValueError where there is no answer.
    """
    voices = _newest_of_each(answers)
    if len(voices) < rule.minimum:
        return Open(f"{len(voices)} of {rule.minimum} answers are there", disagree=False)
    if rule.policy == "latest" or len(voices) == 1:
        return Agreed(voices[-1].state, voices[-1].labels)
    speaking = [voice for voice in voices if voice.state is not AnswerState.SKIPPED]
    skipped = len(voices) - len(speaking)
    everyone = rule.policy == "consensus"
    if not speaking or (skipped > len(voices) / 2 and not everyone):
        return Agreed(AnswerState.SKIPPED, None)
    if len(speaking) < rule.minimum or (skipped and everyone):
        return Open(f"people disagree: {skipped} of {len(voices)} skipped it", disagree=True)
    said = [voice.labels for voice in speaking]
    if all(isinstance(labels, Boxes) for labels in said):
        return _boxes([labels for labels in said if isinstance(labels, Boxes)], rule.iou, everyone)
    if all(isinstance(labels, Masks) for labels in said):
        return _masks([labels for labels in said if isinstance(labels, Masks)], rule.iou, everyone)
    if all(labels is None or isinstance(labels, ImageClass) for labels in said):
        return _classes([labels.name if isinstance(labels, ImageClass) else None for labels in said], everyone)
    return Open("people disagree: they gave labels of different kinds", disagree=True)


def _newest_of_each(answers: Sequence[Annotation]) -> list[Annotation]:
    if not answers:
        raise ValueError("no answers to merge")
    ordered = sorted(answers, key=lambda answer: (answer.at, answer.annotator, answer.external_id))
    newest = {answer.annotator: answer for answer in ordered}
    return sorted(newest.values(), key=lambda answer: (answer.at, answer.annotator))


def _needed(voices: int, everyone: bool) -> int:
    return voices if everyone else voices // 2 + 1


# ── classes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _classes(names: Sequence[str | None], everyone: bool) -> Verdict:
    name, count = Counter(names).most_common(1)[0]
    if count < _needed(len(names), everyone):
        votes = ", ".join(f"{word or 'nothing'} {n}" for word, n in sorted(Counter(names).items(), key=str))
        return Open(f"people disagree: {votes}", disagree=True)
    return Agreed(AnswerState.EMPTY, None) if name is None else Agreed(AnswerState.LABELLED, ImageClass(name))


# ── boxes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _boxes(said: Sequence[Boxes], threshold: float, everyone: bool) -> Verdict:
    needed = _needed(len(said), everyone)
    marks = [
        Mark(person, name, box.astype(np.float64), corners.astype(np.float64))
        for person, labels in enumerate(said)
        for name, box, corners in zip(
            labels.names,
            labels.xyxy,
            corners_of(labels.xyxy) if labels.corners is None else labels.corners,
            strict=True,
        )
    ]
    objects = _group(marks, threshold, same_name=True)
    kept = [group for group in objects if len(group) >= needed]
    rest = [mark for group in objects if len(group) < needed for mark in group]
    if everyone and rest:
        return Open(f"people disagree: {len(rest)} boxes are not everyone's", disagree=True)
    if any(len(group) >= needed for group in _group(rest, threshold, same_name=False)):
        return Open("people disagree: they call the same object by different names", disagree=True)
    if not kept and sum(is_empty(labels) for labels in said) < needed:
        return Open("people disagree: no box is marked by more than half of them", disagree=True)
    means = sorted((_mean(group) for group in kept), key=lambda mark: (tuple(mark.xyxy), mark.name))
    xyxy = np.asarray([mark.xyxy for mark in means], np.float32).reshape(-1, 4)
    turned = np.asarray([mark.turned for mark in means], np.bool_)[:, None, None]
    corners = np.asarray([mark.corners for mark in means], np.float32).reshape(-1, 4, 2)
    labels = Boxes(xyxy, tuple(mark.name for mark in means), np.where(turned, corners, corners_of(xyxy)))
    return Agreed(AnswerState.LABELLED if kept else AnswerState.EMPTY, labels)


def _mean(group: Sequence[Mark]) -> Mark:
    """The average of one object's marks. Where people turned it, that is the one among theirs whose corners lie nearest
    to the average of all, turned ones first: the average itself would be no rectangle.
    """
    if not any(mark.turned for mark in group):
        xyxy = np.mean([mark.xyxy for mark in group], axis=0)
        return Mark(0, group[0].name, xyxy, _corners_of(xyxy))
    # by value: in which order people answered must not count
    ordered = sorted(group, key=lambda mark: (not mark.turned, mark.corners.tolist()))
    aligned = [_aligned(mark.corners, ordered[0].corners) for mark in ordered]
    far = np.linalg.norm(np.asarray(aligned) - np.mean(aligned, axis=0), axis=(1, 2))
    return ordered[int(np.argmax(far <= far.min() + 1e-6))]


def _aligned(corners: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The corners, told from that one from which they fit the others best: a box may be turned there by either side."""
    ways = [np.roll(corners, -first, axis=0) for first in range(4)]
    return min(ways, key=lambda way: float(np.linalg.norm(way - others)))


def _corners_of(xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(corners_of(xyxy.astype(np.float32)[None])[0], np.float64)


def _group(marks: Sequence[Mark], threshold: float, *, same_name: bool) -> list[list[Mark]]:
    """Marks of one object: at most one a person, and each pair overlaps. The best overlaps are joined first."""
    if not marks:
        return []
    ordered = sorted(marks, key=lambda mark: (mark.name, tuple(mark.xyxy), mark.corners.tolist()))  # not by person
    xyxy = np.asarray([mark.xyxy for mark in ordered], np.float32)
    overlaps = boxes.iou(xyxy, xyxy)
    pairs = [
        (a, b)
        for a, b in zip(*np.nonzero(overlaps >= threshold), strict=True)
        if a < b and ordered[a].person != ordered[b].person and (not same_name or ordered[a].name == ordered[b].name)
    ]
    group_of = [[at] for at in range(len(ordered))]
    for a, b in sorted(pairs, key=lambda pair: (-float(overlaps[pair]), pair)):
        one, other = group_of[a], group_of[b]
        apart = {ordered[at].person for at in one}.isdisjoint(ordered[at].person for at in other)
        if apart and all(overlaps[i, j] >= threshold for i in one for j in other):
            one += other
            for at in other:
                group_of[at] = one
    distinct = {id(group): group for group in group_of}
    return [[ordered[at] for at in group] for group in distinct.values()]


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _masks(said: Sequence[Masks], threshold: float, everyone: bool) -> Verdict:
    needed = _needed(len(said), everyone=False)
    if len({(mask.height, mask.width) for labels in said for mask in labels.by_name.values()}) > 1:
        return Open("people disagree: their masks are of different sizes", disagree=True)
    names = sorted({name for labels in said for name in labels.by_name})
    kept = {}
    for name in names:
        painted = [rle.decode(labels.by_name[name]) for labels in said if name in labels.by_name]
        if everyone and (len(painted) < len(said) or _worst_overlap(painted) < threshold):
            return Open(f"people disagree about where {name} is", disagree=True)
        pixels = np.asarray(np.sum(painted, axis=0, dtype=np.int64) >= needed)
        if pixels.any():
            kept[name] = rle.encode(pixels)
    if not kept and sum(is_empty(labels) for labels in said) < needed:
        return Open("people disagree: no pixel is painted by more than half of them", disagree=True)
    return Agreed(AnswerState.LABELLED if kept else AnswerState.EMPTY, Masks(kept))


def _worst_overlap(painted: Sequence[npt.NDArray[np.uint8]]) -> float:
    return min((float((a & b).sum() / max((a | b).sum(), 1)) for a, b in combinations(painted, 2)), default=1.0)
