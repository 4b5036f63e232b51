"""The statistics of the bench: against reference implementations, known values and properties."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alpipe.comparison import curves, draw, paired, savings, table
from alpipe.comparison.page import page, saving_text
from alpipe.comparison.savings import Crossing, State
from alpipe.comparison.summary import strongest_random, summarise
from alpipe.comparison.table import Curves
from alpipe.errors import DataError

numbers = st.floats(-100, 100, allow_nan=False, width=32)


def curve(value: Any, cost: Any = None, arm: str = "a", role: str = "strategy") -> Curves:
    rows = np.atleast_2d(np.asarray(value, float))
    costs = np.arange(1, rows.shape[1] + 1, dtype=float) * 10 if cost is None else np.asarray(cost, float)
    return Curves(arm, role, "l", tuple(range(len(rows))), np.broadcast_to(costs, rows.shape).copy(), rows)


def frame_of(*arms: Curves, full: list[float] | None = None) -> pd.DataFrame:
    rows = [
        {
            "arm": one.arm,
            "role": one.role,
            "seed": seed,
            "round": r,
            "images": one.cost[at, r],
            "value": one.value[at, r],
        }
        for one in arms
        for at, seed in enumerate(one.seeds)
        for r in range(one.value.shape[1])
    ]
    rows += [
        {"arm": "all labels", "role": "ceiling", "seed": seed, "round": 0, "images": 99.0, "value": value}
        for seed, value in enumerate(full or [])
    ]
    frame = pd.DataFrame(rows).assign(
        learner="l", metric="accuracy", train_s=1.0, score_s=1.0, test="abc", versions="v"
    )
    return frame.assign(boxes=frame["images"] * 3, seconds=frame["images"] * 9.5)


# ── paired tests ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12))
def test_the_paired_t_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.asarray(column, float) for column in zip(*pairs, strict=True))
    if np.std(a - b, ddof=1) < 1e-6:
        return
    t, p = paired.paired_t(a, b)
    reference = stats.ttest_rel(a, b)
    assert t == pytest.approx(reference.statistic, rel=1e-9)
    assert p == pytest.approx(reference.pvalue, rel=1e-9, abs=1e-15)


def test_one_seed_gives_no_test() -> None:
    assert np.isnan(paired.paired_t(np.array([1.0]), np.array([0.0]))).all()


def test_equal_arms_do_not_differ_and_constant_differences_do() -> None:
    a = np.array([[0.5, 0.5], [0.7, 0.7]])
    t, p = paired.paired_t(a, a - np.array([0.0, 0.25]))
    assert p.tolist() == [1.0, 0.0]
    assert t.tolist() == [0.0, math.inf]


def test_holm_on_known_values() -> None:
    """The example of R's p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm"), shuffled, with a test that was not done."""
    assert paired.holm([0.03, 0.01, math.nan, 0.04, 0.02])[[0, 1, 3, 4]].tolist() == pytest.approx(
        [0.06, 0.04, 0.06, 0.06]
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_keeps_the_order_and_is_at_most_bonferroni(p: list[float]) -> None:
    given_p = np.asarray(p)
    adjusted = paired.holm(p)
    assert (adjusted >= given_p).all()
    assert (adjusted <= np.minimum(given_p * len(p), 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(given_p, kind="stable")]) >= 0).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], level: float) -> None:
    order = sorted(range(len(p)), key=p.__getitem__)
    rejected = set()
    for place, at in enumerate(order):
        if p[at] * (len(p) - place) > level:
            break
        rejected.add(at)
    assert {at for at, value in enumerate(paired.holm(p)) if value <= level} == rejected


def test_in_the_penalty_matrix_the_column_loses() -> None:
    noise = np.array([[0.0, 0.01], [0.01, 0.0], [0.0, 0.02], [0.02, 0.01]])
    strong, weak = 0.8 + noise, 0.5 + noise[::-1]
    weak[:, 1] = strong[:, 1]
    matrix = paired.penalties({"strong": strong, "weak": weak})
    assert matrix == {"strong": {"strong": 0, "weak": 0.5}, "weak": {"strong": 0, "weak": 0}}
    assert paired.mean_losses(matrix) == {"strong": 0, "weak": 0.5}


# ── areas ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_area_of_a_flat_curve_is_its_height_and_of_a_ramp_its_middle() -> None:
    both = curve([[0.4, 0.4, 0.4], [0.0, 0.5, 1.0]])
    assert curves.aubc(both, 10, 30).tolist() == pytest.approx([0.4, 0.5])
    assert curves.aubc(both, 10, 20).tolist() == pytest.approx([0.4, 0.25])
    assert np.isnan(curves.aubc(both, 30, 30)).all()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0, 1))
def test_an_area_lies_between_the_extremes_and_moves_with_the_curve(values: list[float], up: float) -> None:
    (area,) = curves.aubc(curve(values), 10, 10 * len(values))
    assert min(values) - 1e-9 <= area <= max(values) + 1e-9
    assert curves.aubc(curve([v + up for v in values]), 10, 10 * len(values))[0] == pytest.approx(area + up)


def test_budgets_are_the_rounds_after_the_start_where_costs_agree_and_a_grid_elsewhere() -> None:
    same, other = curve([0.1, 0.2, 0.3]), curve([0.1, 0.2, 0.3], cost=[10, 14, 20])
    assert curves.budgets([same, same]).tolist() == [20, 30]
    assert curves.budgets([same, other]).tolist() == [15, 20]


def test_the_band_is_the_t_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(7, 1))
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values, axis=0))
    assert (high - low) / 2 == pytest.approx(curves.half_width(values))
    assert np.isnan(curves.half_width(values[:1])).all()


# ── labels saved ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crossing_lies_on_the_line_between_two_rounds() -> None:
    cost = np.array([10.0, 20.0, 30.0])
    assert savings.crossing(cost, np.array([0.2, 0.4, 0.8]), 0.6) == Crossing(25.0, 0)
    assert savings.crossing(cost, np.array([0.2, 0.4, 0.8]), 0.9) == Crossing(30.0, 1)
    assert savings.crossing(cost, np.array([0.2, 0.4, 0.8]), 0.2) == Crossing(10.0, -1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10), st.floats(0, 1))
def test_a_monotone_curve_crosses_where_it_has_the_target(values: list[float], target: float) -> None:
    cost = np.arange(len(values), dtype=float) + 1
    fitted = savings.monotone(np.asarray(values))
    assert (np.diff(fitted) >= -1e-12).all()
    assert fitted.mean() == pytest.approx(np.mean(values))
    found = savings.crossing(cost, fitted, target)
    if found.beyond == 0:
        assert np.interp(found.cost, cost, fitted) == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize(
    ("baseline", "other", "state"),
    [
        (0, 0, State.EXACT),
        (1, 0, State.AT_LEAST),
        (0, 1, State.AT_MOST),
        (0, -1, State.AT_LEAST),
        (-1, 0, State.AT_MOST),
        (1, -1, State.AT_LEAST),
        (-1, 1, State.AT_MOST),
        (1, 1, State.NEITHER),
        (-1, -1, State.START),
    ],
)
def test_a_ratio_of_bounded_costs_is_bounded(baseline: int, other: int, state: State) -> None:
    assert savings.saving(Crossing(40, baseline), Crossing(20, other)).state is state


def test_half_the_cost_is_a_saving_of_two() -> None:
    slow = curve([[0.0, 0.25, 0.5, 0.75, 1.0]] * 3, cost=[0, 10, 20, 30, 40])
    quick = curve([[0.0, 0.5, 1.0, 1.0, 1.0]] * 3, cost=[0, 10, 20, 30, 40])
    for saved in savings.labels_saved([slow], quick, np.ones(3), resamples=50):
        assert saved.saving == (pytest.approx(2.0), State.EXACT)
        assert saved.low == pytest.approx(2.0)
        assert saved.high == pytest.approx(2.0)
        assert saved.states == {"exact": 50}


def test_a_target_that_random_never_reaches_bounds_the_saving_and_drops_nothing() -> None:
    slow = curve([[0.1, 0.2, 0.3], [0.1, 0.2, 0.95]])
    quick = curve([[0.1, 0.9, 0.95], [0.1, 0.9, 0.95]])
    saved = savings.labels_saved([slow], quick, np.ones(2), shares=[0.9], resamples=200)[0]
    assert saved.saving.state is State.AT_LEAST
    assert saved.saving.value == pytest.approx(30 / 20)
    assert saved.high == math.inf
    assert sum(saved.states.values()) == 200
    assert set(saved.states) == {"exact", "at least"}


def test_of_several_baselines_the_cheapest_at_each_target_counts() -> None:
    """One is cheaper at 50 %, the other at 90 %; a third never gets there."""
    cost = [0, 10, 20, 30, 40]
    early = curve([[0.0, 0.5, 0.6, 0.7, 0.9]] * 3, cost=cost)
    late = curve([[0.0, 0.1, 0.3, 0.9, 1.0]] * 3, cost=cost)
    never = curve([[0.0, 0.1, 0.1, 0.1, 0.2]] * 3, cost=cost)
    quick = curve([[0.0, 1.0, 1.0, 1.0, 1.0]] * 3, cost=cost)
    for baselines in ([early, late, never], [never, late, early]):
        at_50, at_90 = savings.labels_saved(baselines, quick, np.ones(3), shares=[0.5, 0.9], resamples=20)
        assert at_50.saving == (pytest.approx(10 / 5), State.EXACT)
        assert at_90.saving == (pytest.approx(30 / 9), State.EXACT)
    short = curve([[0.0, 0.1, 0.1, 0.1, 0.2]] * 3, cost=[0, 5, 10, 12, 15])
    (sooner,) = savings.labels_saved([late, short], quick, np.ones(3), shares=[0.9], resamples=20)
    assert sooner.saving == (pytest.approx(15 / 9), State.AT_LEAST), "one that ended sooner may have been cheaper"
    had_it = curve([[0.95, 0.96, 0.97, 0.98, 1.0]] * 3, cost=[20, 25, 30, 35, 40])
    (bounded,) = savings.labels_saved([late, had_it], quick, np.ones(3), shares=[0.9], resamples=20)
    assert bounded.saving == (pytest.approx(20 / 9), State.AT_MOST)
    (bound,) = savings.labels_saved([never], quick, np.ones(3), shares=[0.5], resamples=20)
    assert bound.saving == (pytest.approx(40 / 5), State.AT_LEAST)


def test_the_bootstrap_is_deterministic_and_one_seed_has_no_interval() -> None:
    rng = np.random.default_rng(1)
    a, b = (curve(np.sort(rng.random((5, 6)), axis=1)) for _ in range(2))
    full = np.full(5, 0.9)
    assert savings.labels_saved([a], b, full, resamples=100) == savings.labels_saved([a], b, full, resamples=100)
    one = savings.labels_saved([a.only((0,))], b.only((0,)), full[:1])[0]
    assert (one.low, one.high) == (None, None)


def test_an_arm_beside_itself_saves_nothing() -> None:
    values = np.sort(np.random.default_rng(2).random((4, 6)), axis=1)
    for saved in savings.labels_saved([curve(values)], curve(values), values[:, -1], resamples=50):
        assert saved.saving.value == pytest.approx(1.0)
        assert saved.low == pytest.approx(1.0)


# ── the table and the summary ───────────────────────────────────────────────────────────────────────────────────────


def arms(seeds: int = 4) -> list[Curves]:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.01, (3, seeds, 4))
    start = rng.normal(0.3, 0.02, (seeds, 1))
    rise = {"random": [0, 0.1, 0.2, 0.3], "balanced_random": [0, 0.15, 0.3, 0.4], "entropy": [0, 0.3, 0.4, 0.5]}
    return [
        curve(start + values + noise[at] * [0, 1, 1, 1], arm=arm, role="strategy" if arm == "entropy" else "random")
        for at, (arm, values) in enumerate(rise.items())
    ]


def test_the_summary_takes_the_strongest_random_arm_and_finds_the_better_strategy() -> None:
    found = summarise(frame_of(*arms(), full=[0.85] * 4))
    (group,) = found["groups"]
    by_arm = {row["arm"]: row for row in group["axes"]["images"]["aubc"]}
    assert group["axes"]["images"]["random"] == "balanced_random"
    assert by_arm["entropy"]["difference"] > 0
    assert by_arm["entropy"]["p_holm"] < 0.05
    assert by_arm["balanced_random"]["p"] is None
    assert group["axes"]["images"]["penalties"]["matrix"]["entropy"]["random"] == 1.0
    assert group["axes"]["images"]["penalties"]["budgets"] == [20, 30, 40]
    at_90 = next(row for row in group["axes"]["images"]["saved"] if row["arm"] == "entropy" and row["share"] == 0.9)
    assert at_90["lsr"] > 1
    against = group["axes"]["images"]["saved_against"]
    assert [*against] == ["random", "balanced_random"]
    alone = {name: {row["arm"]: row["lsr"] for row in rows if row["share"] == 0.9} for name, rows in against.items()}
    assert at_90["lsr"] == min(rows["entropy"] for rows in alone.values())
    assert group["full"]["mean"] == pytest.approx(0.85)
    json.dumps(found, allow_nan=False)


def test_a_table_written_and_read_gives_the_same_summary(tmp_path: Path) -> None:
    frame = frame_of(*arms(), full=[0.85] * 4)
    table.write(frame, tmp_path / "results.csv")
    assert summarise(table.read(tmp_path / "results.csv")) == summarise(frame)


@pytest.mark.parametrize("metric", ["LAMR", "FPPI@recall0.8", "empty_alarms@recall0.8"])
def test_figures_of_which_less_is_better_are_refused(metric: str) -> None:
    with pytest.raises(DataError, match="less is better"):
        summarise(frame_of(*arms()).assign(metric=metric))


def test_a_figure_that_no_seed_has_in_each_round_is_refused() -> None:
    frame = frame_of(*arms())
    rare = frame[frame["round"] == 1].assign(metric="recall@FPPI1")
    with pytest.raises(DataError, match=r"no seed of any arm has recall@FPPI1 in all of the 4 rounds"):
        summarise(pd.concat([frame, rare]), "recall@FPPI1")


def test_a_seed_that_lacks_a_round_is_left_out_and_named() -> None:
    frame = frame_of(*arms())
    frame = frame[~((frame["arm"] == "entropy") & (frame["seed"] == 2) & (frame["round"] == 3))]
    found = summarise(frame)
    assert found["left_out"] == ["entropy, seed 2: 3 of 4 rounds"]
    assert {row["arm"]: row["seeds"] for row in found["groups"][0]["arms"]}["entropy"] == 3
    assert found["groups"][0]["axes"]["images"]["penalties"]["seeds"] == 3


def test_one_seed_and_no_ceiling_make_a_summary_that_says_so() -> None:
    found = summarise(frame_of(*arms(1)))
    assert found["groups"][0]["axes"]["images"]["aubc"][2]["p"] is None
    assert any("One seed" in note for note in found["notes"])
    assert any("No full-data model" in note for note in found["notes"])
    json.dumps(found, allow_nan=False)


def test_models_judged_on_different_tests_are_not_compared() -> None:
    frame = frame_of(*arms())
    frame.loc[0, "test"] = "other"
    with pytest.raises(DataError, match="different test sets"):
        summarise(frame)


def test_a_damaged_table_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with pytest.raises(DataError, match="there is no such table"):
        table.read(path)
    table.write(frame_of(*arms()), path)
    text = path.read_text()
    path.write_text(text.replace("10.0", "ten", 1))
    with pytest.raises(DataError, match="column images"):
        table.read(path)
    path.write_text(text.replace("round,", "turn,", 1))
    with pytest.raises(DataError, match="columns round are missing"):
        table.read(path)
    path.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(DataError, match="stands there twice"):
        table.read(path)


def test_the_strongest_random_arm_is_none_where_there_is_none() -> None:
    assert strongest_random([curve([0.1, 0.2])]) is None


def test_the_page_escapes_what_it_is_given_and_shows_each_table() -> None:
    bad = "<script>alert(1)</script>$x_"
    some = [*arms(), curve(np.full((4, 4), 0.5), arm=bad)]
    frame = frame_of(*some, full=[0.85] * 4)
    pictures = {"images": draw.picture(frame, "accuracy", "images")}
    assert pictures["images"].startswith(b"\x89PNG")
    text = page(bad, summarise(frame), pictures)
    assert "<script>" not in text
    for said in ("Labels saved", "AUBC", "row beats column", "The column loses"):
        assert said in text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"lsr": 2.0, "state": "exact", "low": 1.5, "high": 3.0, "resamples": {"exact": 9}}, "2.00 [1.50, 3.00]"),
        ({"lsr": 2.0, "state": "at least", "low": 1.5, "high": None, "resamples": {"exact": 9}}, "≥ 2.00 [1.50, ∞]"),
        ({"lsr": 2.0, "state": "exact", "low": None, "high": None, "resamples": {}}, "2.00"),
        ({"lsr": None, "state": "neither reached it", "low": 0, "high": None, "resamples": {}}, "neither reached it"),
    ],
)
def test_a_saving_in_words(row: dict[str, Any], text: str) -> None:
    assert saving_text(row) == text
