"""Pictures of what mining does: curves of false alarms round by round, sheets of what was mined; part of
``benchmarks.mining``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alpipe import images
from alpipe.report.draw import colour_of
from alpipe.report.sheet import Group, cropped, sheet
from alpipe.types import BankEntry, Example, Negative

RECALLS = ("0.70", "0.80", "0.85", "0.90")
"""Recalls whose false alarms are drawn."""

OF_A_ROUND = 12
"""Crops of each round on a sheet."""


def curves(path: Path, seeds: Sequence[Sequence[Mapping[str, float | None]]]) -> None:
    """False alarms an image, by recall, of each round of each seed: the mean as a line, the seeds as points. Recalls
    that some round never reaches are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.add_subplot()
    for number, recall in enumerate(RECALLS):
        values = np.array([[one.get(recall) for one in rounds] for rounds in seeds], float)
        if np.isnan(values).any():
            continue
        numbers = np.arange(values.shape[1])
        panel.plot(numbers, values.mean(axis=0), color=f"C{number}", marker="o", label=f"at recall {float(recall):g}")
        if len(values) > 1:
            panel.plot(numbers, values.T, ".", color=f"C{number}", alpha=0.5, markersize=5)
    panel.set(xlabel="mining rounds behind the model", ylabel="false alarms an image", yscale="log")
    panel.set_xticks(range(max(map(len, seeds))))
    panel.grid(alpha=0.25, which="both")
    panel.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
    print(f"drawn in {path}")


def rounds_sheet(path: Path, bank: Sequence[BankEntry], train: Sequence[Example], classes: Sequence[str]) -> None:
    """A contact sheet: of each round the hardest that it found and that are in the bank still."""
    by_round: dict[str, list[Negative]] = {}
    for entry in sorted(bank, key=lambda one: (one.round, -one.negative.score)):
        by_round.setdefault(f"found with the model of round {entry.round}", []).append(entry.negative)
    write_sheet(path, by_round, train, classes, OF_A_ROUND)


def write_sheet(
    path: Path, groups: Mapping[str, Sequence[Negative]], examples: Sequence[Example], classes: Sequence[str], most: int
) -> None:
    """A PNG of 32 colours, which keeps it small, with up to ``most`` crops of each group."""
    import io

    from PIL import Image

    items = {one.item.key: one.item for one in examples}
    made = [
        Group(
            title,
            tuple(
                cropped(
                    images.read(items[one.item_key].path),
                    one.box,
                    f"{one.name} {one.score:.2f}",
                    colour_of(one.name, classes),
                )
                for one in found[:most]
            ),
        )
        for title, found in groups.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    page = Image.open(io.BytesIO(sheet(made))).quantize(32, dither=Image.Dither.NONE)
    page.save(path, "PNG", optimize=True)
    print(f"drawn in {path}")
