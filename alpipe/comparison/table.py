"""The tidy table of a comparison, and the curves in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from alpipe.errors import DataError

COLUMNS = (
    *("arm", "role", "learner", "seed", "round", "images", "boxes", "seconds"),
    *("metric", "value", "train_s", "score_s", "test", "versions"),
)
"""One row is one figure of one model. ``role`` is strategy, random or ceiling; ``learner`` names how the arm trains,
and curves are compared only within it; ``images``, ``boxes`` and ``seconds`` are what the labels cost up to there;
``train_s`` and ``score_s`` are seconds of the machine, the only columns that differ when a run is repeated.
"""

AXES = ("images", "boxes", "seconds")
CLOCK = ("train_s", "score_s")
KEY = ["arm", "seed", "round"]

LESS_IS_BETTER = ("LAMR", "FPPI@", "empty_alarms@")
"""How the names of figures begin of which a good model has little."""

Floats = npt.NDArray[np.float64]


class Curves(NamedTuple):
    """The curves of one arm: ``cost`` and ``value`` are (S, R), a row a seed and a column a round."""

    arm: str
    role: str
    learner: str
    seeds: tuple[int, ...]
    cost: Floats
    value: Floats

    def only(self, seeds: tuple[int, ...]) -> Curves:
        """The curves of these seeds, in this order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return self._replace(seeds=seeds, cost=self.cost[rows], value=self.value[rows])


def write(frame: pd.DataFrame, path: Path) -> None:
    """Writes the table in a fixed order of rows and columns; the file appears whole."""
    temporary = path.with_name(f".{path.name}.new")
    frame.loc[:, list(COLUMNS)].to_csv(temporary, index=False, lineterminator="\n")
    temporary.replace(path)


def read(path: Path) -> pd.DataFrame:
    """The table in a file. Raises DataError where it is missing, lacks columns, or holds what is no number."""
    try:
        frame = pd.read_csv(
            path, dtype={"arm": str, "learner": str, "test": str, "versions": str}, keep_default_na=False
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such table; `alpipe bench` writes it") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if absent := [name for name in COLUMNS if name not in frame]:
        raise DataError(f"{path}: the columns {', '.join(absent)} are missing")
    for name in ("seed", "round", *AXES, "value", *CLOCK):
        try:
            frame[name] = pd.to_numeric(frame[name])
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: column {name} holds something that is no number: {error}") from error
    check(frame, str(path))
    return frame


def check(frame: pd.DataFrame, source: str) -> None:
    """Raises DataError for a figure given twice, a value that is not finite, and models judged on different tests."""
    if not (frame["role"] != "ceiling").any():
        raise DataError(f"{source}: holds no result of an arm that chooses images yet")
    if (twice := frame.duplicated([*KEY, "metric"])).any():
        row = frame[twice].iloc[0]
        raise DataError(f"{source}: {row['arm']}, seed {row['seed']}, round {row['round']} stands there twice")
    if not np.isfinite(frame[["value", *AXES]].to_numpy(float)).all():
        raise DataError(f"{source}: a value or a cost is not a finite number")
    if frame["test"].nunique() > 1:
        raise DataError(f"{source}: models were judged on {frame['test'].nunique()} different test sets: no comparison")


def headline(frame: pd.DataFrame) -> str:
    """The task's own metric: the one that stands first for each model."""
    return str(frame["metric"].iloc[0])


def last_round(frame: pd.DataFrame) -> int:
    """The highest round of any arm that chooses images."""
    rounds = frame.loc[frame["role"] != "ceiling", "round"]
    return int(rounds.max()) if len(rounds) else 0


def curves(frame: pd.DataFrame, metric: str, axis: str) -> list[Curves]:
    """The curves of each arm that chooses images, seeds that lack a round left out; see ``incomplete``.

    Raises DataError for a metric that the table does not have, has in no whole seed, or of which less is better: what
    is made of curves takes them to rise.
    """
    if metric.startswith(LESS_IS_BETTER):
        raise DataError(
            f"of {metric} less is better; labels saved are reckoned from figures that grow: take such a one"
        )
    rows = frame[(frame["metric"] == metric) & (frame["role"] != "ceiling")]
    if rows.empty:
        raise DataError(f"no figure named {metric!r}; there are {', '.join(dict.fromkeys(frame['metric']))}")
    rounds = range(last_round(frame) + 1)
    found = []
    for arm in dict.fromkeys(rows["arm"]):
        mine = rows[rows["arm"] == arm]
        by_seed = {int(str(seed)): some.sort_values("round") for seed, some in mine.groupby("seed")}
        whole = {seed: some for seed, some in by_seed.items() if list(some["round"]) == list(rounds)}
        if whole:
            cost, value = (
                np.stack([some[name].to_numpy(float) for some in whole.values()]) for name in (axis, "value")
            )
            first = mine.iloc[0]
            found.append(Curves(arm, str(first["role"]), str(first["learner"]), tuple(whole), cost, value))
    if not found:
        raise DataError(f"no seed of any arm has {metric} in all of the {len(rounds)} rounds yet")
    return found


def ceilings(frame: pd.DataFrame, metric: str) -> dict[str, dict[int, float]]:
    """learner → seed → the figure of the model that was trained on all labels."""
    found: dict[str, dict[int, float]] = {}
    for row in frame[(frame["metric"] == metric) & (frame["role"] == "ceiling")].itertuples():
        found.setdefault(str(row.learner), {})[int(str(row.seed))] = float(str(row.value))
    return found


def incomplete(frame: pd.DataFrame, metric: str) -> list[str]:
    """The arms and seeds that lack a round, in words."""
    wanted = last_round(frame) + 1
    rows = frame[(frame["metric"] == metric) & (frame["role"] != "ceiling")]
    counts = rows.groupby(["arm", "seed"], sort=False)["round"].nunique()
    short = counts[counts < wanted].reset_index()
    return [f"{row.arm}, seed {row.seed}: {row.round} of {wanted} rounds" for row in short.itertuples()]
