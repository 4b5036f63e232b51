"""When to stop labelling: reasons, in words. They advise; nothing follows from them by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alpipe.evaluation.audit import CONTROLS, ROUNDS, Audited, compare

LAST = 3
"""Rounds over which a metric has to have stood still."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A model on the hold-out: the task's metric, and the model's error in [0, 1] on each image, by key."""

    round: int
    metric: str
    value: float
    errors: Mapping[str, float] = field(default_factory=dict)


def reasons_to_stop(
    labelled: int, budget: int | None, measured: Sequence[Measured], audited: Sequence[Audited]
) -> list[str]:
    """Every reason there is, each a clause; none is the rule.

    ``labelled`` counts images of the pool; ``measured`` are the models of all rounds on one and the same hold-out,
    ``audited`` the rounds with control images in which one strategy chose, both in their order.

    Budget: as many images are labelled as the project means to label.

    Plateau: the best metric of the last three rounds is higher by at most one standard error than the best before.
    The standard error is that of the mean difference between the two models' errors on the held-out images, image by
    image: sd / √n, what a bootstrap over images comes to. For accuracy that is the noise of the gain itself; for mAP
    and Dice, which are no means over images, it stands in for it. A metric of 0 is no plateau.

    Exhausted: in rounds before, what the strategy chose was more wrong than control images (the whole interval is over
    1); in the last rounds (three, and ten control images, at least) it no longer is, and control images are no more
    wrong than held-out ones, but for one standard error: the pool has nothing left that the strategy finds and the
    model does not know.
    """
    found = [_budget(labelled, budget), _plateau(measured), _exhausted(measured, audited)]
    return [reason for reason in found if reason is not None]


def _budget(labelled: int, budget: int | None) -> str | None:
    if budget is None or labelled < budget:
        return None
    return f"the budget of {budget} images is spent ({labelled} are labelled)"


def _plateau(measured: Sequence[Measured]) -> str | None:
    if len(measured) <= LAST:
        return None
    before, last = (max(some, key=lambda one: one.value) for some in (measured[:-LAST], measured[-LAST:]))
    both = sorted({*before.errors} & {*last.errors})
    if len(both) < 2 or last.value <= 0:
        return None
    gains = np.array([before.errors[key] - last.errors[key] for key in both])
    noise = float(gains.std(ddof=1) / np.sqrt(len(both)))
    if last.value - before.value > noise:
        return None
    return (
        f"{last.metric} stands still: {last.value:.3f} at best in the last {LAST} rounds, {before.value:.3f} before,"
        f" and one standard error is {noise:.3f} ({len(both)} held-out images)"
    )


def _exhausted(measured: Sequence[Measured], audited: Sequence[Audited]) -> str | None:
    start = len(audited)
    while start and (len(audited) - start < ROUNDS or sum(len(one.control) for one in audited[start:]) < CONTROLS):
        start -= 1
    if not start or not measured or len(measured[-1].errors) < 2:
        return None
    before, last = compare(audited[:start]), compare(audited[start:])
    held_out = np.array([*measured[-1].errors.values()])
    level, noise = float(held_out.mean()), float(held_out.std(ddof=1) / np.sqrt(len(held_out)))
    no_harder = last.ratio.value <= 1 or last.chosen.value == 0
    if not before.enough or before.ratio.low <= 1 or not no_harder or last.control.value > level + noise:
        return None
    return (
        f"the strategy no longer finds harder images than chance: error {last.chosen.value:.2f} on chosen,"
        f" {last.control.value:.2f} on control images of the last {last.rounds} rounds, {level:.2f} on held-out ones"
    )
