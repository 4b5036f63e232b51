"""What labelling costs people, and what pre-annotations save them. Pure functions over answers.

An answer is counted once for each person who gave it, whatever several people's answers come to. Images with a
pre-annotation are compared with those that lots left blind, and with nothing else: the first batch, the hold-out and
images of which the model said nothing are other kinds of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from alpipe.effort import Effort, TimeModel
from alpipe.types import AnswerState, Edits

ENOUGH = 5
"""Answers with a time, of either kind, from which a difference is told."""

CONFIDENCE = 0.95


class Work(NamedTuple):
    """One person's answer to one item, without its labels. The fields are those of ``Annotation``."""

    item_key: str
    state: AnswerState
    round: int | None
    model: str | None
    blind: bool
    lead_time: float | None
    edits: Mapping[str, Edits] | None


class Shown(StrEnum):
    """What a person saw: a pre-annotation, none by lot (``blind``), or none for another reason."""

    SUGGESTION = "suggestion"
    BLIND = "blind"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Cost:
    """What some answers took. Lead times are in seconds and span pauses; of skips none are in ``times``.

    ``answers`` are submitted ones, ``skipped`` stand beside them. ``times`` has the lead times of those submitted
    answers that have one, ``spent`` is the sum of all, skips included; ``known`` is how many tell what was done, which
    ``edits`` sums up.
    """

    answers: int = 0
    skipped: int = 0
    spent: float = 0.0
    times: tuple[float, ...] = ()
    known: int = 0
    edits: Edits = field(default_factory=Edits)

    @property
    def seconds(self) -> float | None:
        """Mean lead time."""
        return float(np.mean(self.times)) if self.times else None

    @property
    def objects(self) -> float | None:
        """Mean number of objects an answer."""
        return self.edits.objects / self.known if self.known else None


class Basis(StrEnum):
    """What an estimate rests on: the blind share, a model of people's time, or too few answers for either."""

    MEASURED = "measured"
    MODEL = "model"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Saved:
    """Seconds that pre-annotations saved: ``each`` an image, and ``total`` over the ``answers`` that had one; None
    where there is too little to say.

    ``low`` and ``high`` are the ends of the interval of ``each``, where it was measured. ``blind`` and ``suggested``
    answers with a lead time could be compared.
    """

    basis: Basis
    blind: int
    suggested: int
    answers: int
    each: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def total(self) -> float | None:
        return None if self.each is None else self.each * self.answers


def shown(work: Work) -> Shown:
    """What the person saw."""
    return Shown.SUGGESTION if work.model else Shown.BLIND if work.blind else Shown.NOTHING


def cost(answers: Iterable[Work], name: str | None = None) -> Cost:
    """What answers took together. With ``name``, those in which objects of that class were suggested or given: their
    lead times are those of whole images, and edits are of that class alone.
    """
    meant = [one for one in answers if name is None or (one.edits is not None and name in one.edits)]
    submitted = [one for one in meant if one.state is not AnswerState.SKIPPED]
    told = [one.edits for one in submitted if one.edits is not None]
    return Cost(
        answers=len(submitted),
        skipped=len(meant) - len(submitted),
        spent=sum(one.lead_time or 0.0 for one in meant),
        times=tuple(one.lead_time for one in submitted if one.lead_time is not None),
        known=len(told),
        edits=sum((done for edits in told for label, done in edits.items() if name in (None, label)), Edits()),
    )


def by_round(answers: Iterable[Work]) -> dict[int | None, dict[Shown, list[Work]]]:
    """The answers by the round in which their item was chosen, and by what was shown; rounds in order, None last."""
    found: dict[int | None, dict[Shown, list[Work]]] = {}
    for answer in sorted(answers, key=lambda answer: math.inf if answer.round is None else answer.round):
        found.setdefault(answer.round, {kind: [] for kind in Shown})[shown(answer)].append(answer)
    return found


def saved(answers: Sequence[Work], seconds: TimeModel | None = None) -> Saved:
    """What pre-annotations saved in these answers.

    Measured: mean lead time of the blind ones less that of those with a pre-annotation, both of the rounds that have
    either, with Welch's interval of 95 % (Welch 1947, "The generalization of 'Student's' problem when several
    different population variances are involved"). Where either kind has fewer than ENOUGH: by the model of
    ``effort``, all objects drawn by hand, less those drawn or changed and all suggested ones looked at.
    """
    rounds = [kinds for kinds in by_round(answers).values() if kinds[Shown.SUGGESTION] and kinds[Shown.BLIND]]
    blind = cost(answer for kinds in rounds for answer in kinds[Shown.BLIND]).times
    with_one = cost(answer for kinds in rounds for answer in kinds[Shown.SUGGESTION]).times
    every = cost(answer for answer in answers if shown(answer) is Shown.SUGGESTION)
    if min(len(blind), len(with_one)) >= ENOUGH:
        each, half = _welch(blind, with_one)
        return Saved(Basis.MEASURED, len(blind), len(with_one), every.answers, each, each - half, each + half)
    if every.known:
        each = _modelled(every.edits, seconds or TimeModel()) / every.known
        return Saved(Basis.MODEL, len(blind), len(with_one), every.known, each)
    return Saved(Basis.NOTHING, len(blind), len(with_one), every.answers)


def _modelled(edits: Edits, model: TimeModel) -> float:
    by_hand = model.seconds(Effort(edits.objects, 0))
    corrected = model.seconds(Effort(edits.added + edits.moved + edits.relabelled, edits.suggested))
    return by_hand - corrected


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The difference of the means, and half the width of its interval."""
    from scipy import special  # slow to import, and the store imports this module

    first, second = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    spread = first + second
    difference = float(np.mean(a) - np.mean(b))
    if not spread > 0:
        return difference, 0.0
    freedom = spread**2 / (first**2 / (len(a) - 1) + second**2 / (len(b) - 1))
    return difference, float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * math.sqrt(spread))
