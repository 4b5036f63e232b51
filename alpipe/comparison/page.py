"""The comparison as one HTML file without script, that says how each table is read."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

AXIS_NAMES = {"images": "images", "boxes": "objects", "seconds": "seconds of labelling"}


def page(title: str, summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The whole page; ``pictures`` are PNGs by axis. Everything from outside is escaped."""
    encoded = {axis: base64.b64encode(png).decode() for axis, png in pictures.items()}
    return (
        _environment()
        .get_template("summary.html")
        .render(title=title, summary=summary, pictures=encoded, axis_names=AXIS_NAMES)
    )


def saving_text(row: Mapping[str, Any]) -> str:
    """A row of ``saved`` in a few words: 2.1 [1.4, 3.0], ≥ 2.1, or why there is no figure."""
    if row["lsr"] is None or row["state"] == "both had it at the start":
        return str(row["state"])
    sign = {"at least": "≥ ", "at most": "≤ "}.get(row["state"], "")
    text = f"{sign}{row['lsr']:.2f}"
    if not row["resamples"]:
        return text
    high = "∞" if row["high"] is None else f"{row['high']:.2f}"
    return f"{text} [{row['low'] or 0:.2f}, {high}]"


def number(value: float | None, digits: int = 3) -> str:
    """A figure as people read it; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def with_spread(value: float | None, half: float | None) -> str:
    """A mean and half the width of its interval."""
    return number(value) if half is None else f"{number(value)} ± {half:.3f}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alpipe.comparison", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "saving": saving_text}
    environment.globals["spread"] = with_spread
    return environment
