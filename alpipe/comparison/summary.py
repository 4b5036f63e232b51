"""Everything a comparison says, as plain values, from the table alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from alpipe.comparison import curves as areas
from alpipe.comparison import paired, savings, table
from alpipe.comparison.table import Curves, Floats

FEW_SEEDS = 5

NARROW = "Intervals of so few seeds are too narrow: of 95 % ones of 5 seeds a sixth missed the truth in a simulation."


def summarise(frame: pd.DataFrame, metric: str | None = None) -> dict[str, Any]:
    """The comparison of all arms of each learner, on each axis of cost. Only JSON's values: what is not finite is None.

    ``groups`` has an entry a learner; each of its ``axes`` holds ``aubc`` (with Holm's p against the random arm of the
    largest area), ``penalties``, ``saved`` (against whichever random arm is cheapest at the target) and
    ``saved_against`` (against each random arm by itself, where there are several). ``notes`` says what a reader must
    know to believe it or not. Raises DataError for a table that cannot be compared.
    """
    table.check(frame, "the table")
    metric = metric or table.headline(frame)
    by_axis = {axis: table.curves(frame, metric, axis) for axis in table.AXES}
    full = table.ceilings(frame, metric)
    learners = list(dict.fromkeys(curve.learner for curve in by_axis["images"]))
    left_out = table.incomplete(frame, metric)
    groups = [_group(learner, by_axis, full.get(learner, {})) for learner in learners]
    notes = _notes(by_axis["images"], full, left_out, frame) + [note for group in groups for note in _fewer(group)]
    return {
        "metric": metric,
        "test": str(frame["test"].iloc[0]),
        "versions": sorted(set(frame["versions"])),
        "rounds": table.last_round(frame),
        "left_out": left_out,
        "notes": notes,
        "groups": groups,
    }


def strongest_random(some: Sequence[Curves]) -> Curves | None:
    """The random arm of the highest mean area; None where there is none."""
    low, high = areas.common_range(some)
    random = [one for one in some if one.role == "random"]
    return max(random, key=lambda one: float(np.mean(areas.aubc(one, low, high))), default=None)


def _group(learner: str, by_axis: dict[str, list[Curves]], full: dict[int, float]) -> dict[str, Any]:
    mine = {axis: [curve for curve in some if curve.learner == learner] for axis, some in by_axis.items()}
    return {
        "learner": learner,
        "full": {"mean": _plain(float(np.mean([*full.values()]))) if full else None, "seeds": len(full)},
        "arms": [
            {
                "arm": curve.arm,
                "role": curve.role,
                "seeds": len(curve.seeds),
                "first": _plain(curve.value[:, 0].mean()),
                "last": _plain(curve.value[:, -1].mean()),
                "images": _plain(curve.cost[:, -1].mean()),
                "boxes": _plain(boxes.cost[:, -1].mean()),
                "seconds": _plain(seconds.cost[:, -1].mean()),
            }
            for curve, boxes, seconds in zip(mine["images"], mine["boxes"], mine["seconds"], strict=True)
        ],
        "axes": {axis: _axis(some, full) for axis, some in mine.items()},
    }


def _axis(some: list[Curves], full: dict[int, float]) -> dict[str, Any]:
    low, high = areas.common_range(some)
    baseline = strongest_random(some)
    randoms = [one for one in some if one.role == "random"]
    if not full and baseline is not None:
        full = dict(zip(baseline.seeds, baseline.value[:, -1].tolist(), strict=True))
    return {
        "range": [_plain(low), _plain(high)],
        "random": None if baseline is None else baseline.arm,
        "aubc": _areas(some, baseline, low, high),
        "penalties": _penalties(some),
        "saved": [row for one in some for row in _saved(one, [o for o in randoms if o is not one], full)],
        "saved_against": {
            other.arm: [row for one in some if one is not other for row in _saved(one, [other], full)]
            for other in (randoms if len(randoms) > 1 else ())
        },
    }


def _areas(some: list[Curves], baseline: Curves | None, low: float, high: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for one in some:
        area = areas.aubc(one, low, high)
        row: dict[str, Any] = {
            "arm": one.arm,
            "seeds": len(one.seeds),
            "mean": _plain(area.mean()),
            "half_width": _plain(areas.half_width(area)),
            "difference": None,
            "difference_half_width": None,
            "p": None,
        }
        if baseline is not None and one is not baseline and (pair := _paired(one, baseline)) is not None:
            mine, theirs = (areas.aubc(curve, low, high) for curve in pair)
            row["difference"] = _plain((mine - theirs).mean())
            row["difference_half_width"] = _plain(areas.half_width(mine - theirs))
            row["p"] = _plain(paired.paired_t(mine, theirs)[1])
        rows.append(row)
    adjusted = paired.holm([np.nan if row["p"] is None else row["p"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["p_holm"] = _plain(p)
    return rows


def _penalties(some: list[Curves]) -> dict[str, Any]:
    shared = _common_seeds(some)
    costs = areas.budgets(some)
    if not shared or not costs.size:
        return {"budgets": [], "seeds": len(shared), "matrix": {}, "beaten": {}}
    matrix = paired.penalties({one.arm: areas.at(one.only(shared), costs) for one in some})
    return {
        "budgets": [_plain(cost) for cost in costs],
        "seeds": len(shared),
        "matrix": matrix,
        "beaten": paired.mean_losses(matrix),
    }


def _saved(one: Curves, baselines: Sequence[Curves], full: dict[int, float]) -> list[dict[str, Any]]:
    """Of one arm a row a share, on the seeds that it, all baselines and the full-data model have."""
    seeds = _common_seeds([one, *baselines])
    seeds = tuple(seed for seed in seeds if not full or seed in full)
    if not baselines or not seeds:
        return []
    reference = np.asarray([full[seed] for seed in seeds], np.float64) if full else None
    mine, theirs = one.only(seeds), [other.only(seeds) for other in baselines]
    return [
        {
            "arm": one.arm,
            "seeds": len(seeds),
            "share": saved.share,
            "target": _plain(saved.target),
            "lsr": _plain(saved.saving.value),
            "state": str(saved.saving.state),
            "low": _plain(saved.low),
            "high": _plain(saved.high),
            "resamples": saved.states,
        }
        for saved in savings.labels_saved(theirs, mine, reference)
    ]


def _fewer(group: dict[str, Any]) -> list[str]:
    """Arms whose labels saved are of fewer seeds than the arm has, since another arm lacks some."""
    seeds = {arm["arm"]: arm["seeds"] for arm in group["arms"]}
    rows = group["axes"]["images"]["saved"]
    short = {row["arm"]: row["seeds"] for row in rows if row["seeds"] < seeds[row["arm"]]}
    return [
        f"Labels saved by {arm!r} are of the {count} seeds that the random arms and the full-data model have too."
        for arm, count in short.items()
    ]


def _paired(a: Curves, b: Curves) -> tuple[Curves, Curves] | None:
    seeds = _common_seeds([a, b])
    return (a.only(seeds), b.only(seeds)) if seeds else None


def _common_seeds(some: Sequence[Curves]) -> tuple[int, ...]:
    return tuple(seed for seed in some[0].seeds if all(seed in one.seeds for one in some))


def _notes(
    some: list[Curves], full: dict[str, dict[int, float]], left_out: list[str], frame: pd.DataFrame
) -> list[str]:
    notes = []
    seeds = min(len(one.seeds) for one in some)
    if seeds == 1:
        notes.append("One seed: no test and no interval is possible. Differences may be chance.")
    elif seeds < FEW_SEEDS:
        notes.append(f"{seeds} seeds: fit for development. A claim needs 10 and a headline 20. {NARROW}")
    elif seeds < 2 * FEW_SEEDS:
        notes.append(f"{seeds} seeds: fit for development, not for a claim, which needs 10. {NARROW}")
    if left_out:
        notes.append(f"Left out, since they lack rounds: {'; '.join(left_out)}.")
    if all(one.role != "random" for one in some):
        notes.append("No random arm: nothing says whether choosing helps at all.")
    elif not any("balanced" in one.arm for one in some if one.role == "random"):
        notes.append("No random arm that knows the classes: gains over plain random alone mostly vanish beside one.")
    if not full:
        notes.append("No full-data model: labels saved are at shares of the strongest random arm's last result.")
    if frame["versions"].nunique() > 1:
        notes.append("Models were made by different versions or numbers of threads: rounding may differ between them.")
    return notes


def _plain(value: float | Floats | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
