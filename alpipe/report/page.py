"""The pages as values, and their HTML: one file without script and without any reference to something outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from alpipe.report.curve import Curve, Measured, learning_curve
from alpipe.report.draw import Chip, Thumbnail


@dataclass(frozen=True, slots=True)
class RoundRow:
    """A line of the ledger. ``step`` is what the round stands at, None once it is finished; ``timings`` are seconds
    by step; ``holdout_hash`` names the hold-out that ``value`` was measured on.
    """

    number: int
    step: str | None = None
    labelled: int = 0
    metric: str | None = None
    value: float | None = None
    pushed: int = 0
    preannotated: int = 0
    answered: int = 0
    empty: int = 0
    skipped: int = 0
    mined: int = 0
    evicted: int = 0
    questions: int = 0
    bank: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    model_hash: str | None = None
    holdout_count: int | None = None
    holdout_hash: str | None = None
    started_at: datetime | None = None

    @property
    def seconds(self) -> float:
        return sum(self.timings.values())


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a gallery; ``key`` may be only as much of it as finds the item.

    Without ``thumbnail``, ``problem`` says why it cannot be shown. ``suggested`` is true where the labels drawn are a
    model's and not a person's.
    """

    title: str
    thumbnail: Thumbnail | None = None
    problem: str = ""
    key: str = ""
    state: str = ""
    chips: tuple[Chip, ...] = ()
    lines: tuple[str, ...] = ()
    suggested: bool = False


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures under a heading. ``total`` is how many there were to choose from."""

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""
    total: int | None = None


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class: in how many labelled images it stands, hold-out included, and how often."""

    name: str
    colour: str
    images: int = 0
    objects: int = 0


@dataclass(frozen=True, slots=True)
class CostRow:
    """What some answers took: those of a ``title`` (a round, a class) of which ``shown`` says what people saw.

    ``seconds`` and ``objects`` are means an image. Of ``suggested`` objects so many were ``accepted`` as they were,
    ``moved`` (to a mean IoU of ``overlap`` with what was suggested), ``relabelled`` or ``deleted``.
    """

    title: str
    shown: str
    answers: int
    skipped: int = 0
    seconds: float | None = None
    objects: float | None = None
    suggested: int = 0
    accepted: int = 0
    moved: int = 0
    relabelled: int = 0
    deleted: int = 0
    added: int = 0
    overlap: float | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What labelling cost: by round, by class over all rounds, and by both (round → its classes)."""

    rounds: tuple[CostRow, ...] = ()
    classes: tuple[CostRow, ...] = ()
    both: Mapping[str, tuple[CostRow, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A round's batch: how many chosen and control images were audited, and how wrong the model was on them."""

    round: int
    strategy: str
    chosen: int = 0
    control: int = 0
    chosen_error: float | None = None
    control_error: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All that the report says. ``states`` counts items by split and state; ``details`` are the figures behind the last
    metric, those of one class named ``figure/class``; ``config`` is shown as it is, so it must hold no secret.
    """

    name: str
    task: str
    classes: tuple[ClassRow, ...]
    made_at: datetime
    states: Mapping[str, Mapping[str, int]]
    rounds: tuple[RoundRow, ...] = ()
    waiting_for: str | None = None
    advice: str | None = None
    audit: tuple[AuditRow, ...] = ()
    audit_says: str | None = None
    answers: int = 0
    answer_seconds: float | None = None
    costs: Costs = field(default_factory=Costs)
    details: Mapping[str, float] = field(default_factory=dict)
    batch: Gallery | None = None
    negatives: tuple[Gallery, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()
    quarantined_total: int = 0
    provenance: tuple[tuple[str, str], ...] = ()
    config: str = ""


@dataclass(frozen=True, slots=True)
class Details:
    """Metrics sorted for the page: single figures, and those by class (figure → class → value)."""

    single: Mapping[str, float]
    by_class: Mapping[str, Mapping[str, float]]


def render(report: Report) -> str:
    """The report as one HTML document. Every text is escaped; a rule in the page keeps it from loading anything."""
    measured = [row for row in report.rounds if row.value is not None and math.isfinite(row.value)]
    last = measured[-1] if measured else None
    alike = [row for row in measured if last and (row.metric, row.holdout_hash) == (last.metric, last.holdout_hash)]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            curve=curve_of(report.rounds),
            last=last,
            first=alike[0] if alike else None,
            total_seconds=sum(row.seconds for row in report.rounds),
            steps=list(dict.fromkeys(step for row in report.rounds for step in row.timings)),
            details=sort_details(report.details, [row.name for row in report.classes]),
        )
    )


def contact_sheet(name: str, gallery: Gallery, made_at: datetime) -> str:
    """A page of pictures with their labels, states and keys."""
    return _environment().get_template("contact_sheet.html").render(name=name, gallery=gallery, made_at=made_at)


def curve_of(rounds: Sequence[RoundRow]) -> Curve | None:
    """The learning curve of the metric that was measured last; a model that was measured twice is one point.

    Values on another hold-out than the last one's are marked as not comparable.
    """
    measured = [row for row in rounds if row.value is not None]
    if not measured:
        return None
    last = measured[-1]
    by_model = {
        (row.model or row.number, row.holdout_hash): row for row in reversed(measured) if row.metric == last.metric
    }
    return learning_curve(
        [
            Measured(row.number, row.labelled, row.value, row.holdout_hash == last.holdout_hash)
            for row in by_model.values()
            if row.value is not None
        ]
    )


def sort_details(details: Mapping[str, float], classes: Sequence[str]) -> Details:
    """Takes figures named ``figure/class`` apart; those of no class in ``classes`` stay single."""
    single: dict[str, float] = {}
    by_class: dict[str, dict[str, float]] = {}
    for name, value in details.items():
        figure, _, label = name.partition("/")
        if label in classes:
            by_class.setdefault(figure, {})[label] = value
        else:
            single[name] = value
    return Details(single, by_class)


def duration(seconds: float | None) -> str:
    """Seconds in words: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def number(value: float | None) -> str:
    """Counts with narrow gaps at the thousands, other numbers with three decimals, and a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.3f}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alpipe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration}
    return environment
