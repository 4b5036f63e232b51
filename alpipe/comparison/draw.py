"""The curves as pictures: means over seeds with a band, beside the full-data result."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alpipe.comparison import curves as areas
from alpipe.comparison import table
from alpipe.comparison.table import Curves

LABELS = {"images": "labelled images", "boxes": "labelled objects", "seconds": "seconds of labelling (modelled)"}
DASHED = {"random": "--", "strategy": "-"}
COLOURS = {"random": ["black", "0.5"], "strategy": [f"C{number}" for number in range(10) if number != 7]}
"""Grey is for what every strategy has to beat."""


def picture(frame: pd.DataFrame, metric: str, axis: str) -> bytes:
    """A PNG: a panel a learner, a curve an arm. Bands are 95 % t intervals of the mean over seeds."""
    some = table.curves(frame, metric, axis)
    full = table.ceilings(frame, metric)
    learners = list(dict.fromkeys(one.learner for one in some))
    figure = Figure(figsize=(7.5 * len(learners), 5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, learner in enumerate(learners, 1):
        panel = figure.add_subplot(1, len(learners), place)
        mine = [curve for curve in some if curve.learner == learner]
        colours = {role: iter(COLOURS[role] * len(mine)) for role in COLOURS}
        for one in mine:
            _draw(panel, one, next(colours.get(one.role, colours["strategy"])), min(0.12, 0.5 / len(mine)))
        if learner in full:
            panel.axhline(float(np.mean([*full[learner].values()])), color="0.4", linestyle=":", label="all labels")
        panel.set(title=_literal(learner), xlabel=LABELS[axis], ylabel=_literal(metric))
        panel.grid(alpha=0.25)
        panel.legend(fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _draw(panel, one: Curves, colour: str, shade: float) -> None:  # type: ignore[no-untyped-def]  # matplotlib has no types
    cost, value = one.cost.mean(axis=0), one.value.mean(axis=0)
    panel.plot(cost, value, DASHED.get(one.role, "-"), color=colour, marker="o", markersize=3, label=_literal(one.arm))
    half = areas.half_width(one.value)
    if np.isfinite(half).all():
        panel.fill_between(cost, value - half, value + half, color=colour, alpha=shade, linewidth=0)


def _literal(text: str) -> str:
    """The text without what matplotlib takes for formulas, and not hidden by a leading underscore."""
    return text.replace("$", r"\$").removeprefix("_") or "?"
