"""Control slices, what they say of the choice, and when to stop: advice that follows from figures alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpipe import rle
from alpipe.acquisition.batch.control import control_size, draw_control
from alpipe.evaluation.audit import Audited, compare, verdict
from alpipe.evaluation.image_error import image_error
from alpipe.evaluation.stopping import Measured, reasons_to_stop
from alpipe.loop import advance, current_round, perform
from alpipe.pool.store import NewItem, PoolStore
from alpipe.steps.auditing import advice, audit, audit_facts
from alpipe.steps.reporting import gather
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    ImageClass,
    Item,
    MapPrediction,
    Masks,
    Split,
    Task,
)
from tests.conftest import TINY, MakeProject

ITEM = Item("k" * 20, "/k.png", 20, 10)
RNG = np.random.default_rng(0)

# ── the slice ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("share", "k", "count"), [(0.1, 20, 2), (0.1, 4, 0), (0.02, 10, 1), (0.0, 100, 0), (0.5, 7, 4), (0.1, 8, 1)]
)
def test_a_batch_of_ten_has_a_control_unless_it_is_turned_off(share: float, k: int, count: int) -> None:
    assert control_size(share, k) == count


def test_every_image_of_the_pool_is_a_control_equally_often() -> None:
    keys = [f"{n:02}" for n in range(20)]
    drawn = Counter(row for seed in range(1000) for row in draw_control(keys, 5, seed, 1).tolist())
    expected = 1000 * 5 / 20
    assert sum((drawn[row] - expected) ** 2 / expected for row in range(20)) < 43.8  # χ² of 19 degrees, p = 0.001
    assert draw_control(keys, 5, 3, 1).tolist() == draw_control(keys, 5, 3, 1).tolist()
    assert draw_control(keys, 5, 3, 1).tolist() != draw_control(keys, 5, 3, 2).tolist()


# ── how wrong a model is on an image ────────────────────────────────────────────────────────────────────────────────


def boxes_found(*found: tuple[list[float], float, int]) -> BoxPrediction:
    xyxy = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in found], np.float32)
    return BoxPrediction(ITEM.key, xyxy, scores, np.stack([scores, scores], 1), np.array([i for *_, i in found], int))


def boxes_true(*true: tuple[list[float], str]) -> Example:
    return Example(ITEM, Boxes(np.array([box for box, _ in true], np.float32), tuple(name for _, name in true)))


@pytest.mark.parametrize(
    ("prediction", "example", "error"),
    [
        (boxes_found(([0, 0, 4, 4], 0.9, 0)), boxes_true(([0, 0, 4, 4], "a")), 0.0),
        (boxes_found(([0, 0, 4, 4], 0.9, 1)), boxes_true(([0, 0, 4, 4], "a")), 1.0),  # another class
        (boxes_found(([0, 0, 4, 4], 0.2, 0)), boxes_true(([0, 0, 4, 4], "a")), 1.0),  # not sure enough to be shown
        (boxes_found(), boxes_true(), 0.0),
        (boxes_found(([0, 0, 4, 4], 0.9, 0)), boxes_true(), 1.0),
        (
            boxes_found(([0, 0, 4, 4], 0.9, 0), ([0, 0, 4, 4], 0.8, 0), ([9, 0, 12, 4], 0.7, 1)),
            boxes_true(([0, 0, 4, 4], "a"), ([9, 0, 12, 4], "b"), ([14, 0, 18, 4], "b")),
            1 - 2 * 2 / 6,  # one found twice, one missed
        ),
        (ClassPrediction(ITEM.key, np.array([0.3, 0.7], np.float32)), Example(ITEM, ImageClass("b")), 0.0),
        (ClassPrediction(ITEM.key, np.array([0.3, 0.7], np.float32)), Example(ITEM, ImageClass("a")), 1.0),
        (ClassPrediction(ITEM.key, np.array([0.3, 0.7], np.float32)), Example(ITEM, Boxes.none()), None),
    ],
)
def test_the_error_of_an_image_is_the_share_that_was_wrong(
    prediction: BoxPrediction | ClassPrediction, example: Example, error: float | None
) -> None:
    found = image_error(prediction, example, ("a", "b"), 0.3)
    assert found is error is None or found == pytest.approx(error)


def test_of_masks_the_error_is_one_less_dice() -> None:
    true, seen = np.zeros((10, 20), bool), np.zeros((10, 20), bool)
    true[:, :8] = True
    seen[:, 4:10] = True
    probs = np.stack([~seen, seen]).astype(np.float32)
    example = Example(ITEM, Masks({"a": rle.encode(true)}))
    assert image_error(MapPrediction(ITEM.key, probs, (20, 10)), example, ("a",), 0.3) == pytest.approx(1 - 80 / 140)
    nothing = np.stack([np.ones((10, 20)), np.zeros((10, 20))]).astype(np.float32)
    assert image_error(MapPrediction(ITEM.key, nothing, (20, 10)), Example(ITEM, Masks({})), ("a",), 0.3) == 0


# ── chosen beside control ───────────────────────────────────────────────────────────────────────────────────────────


def rounds_of(chosen: float, control: float, rounds: int = 6, images: int = 20, controls: int = 4) -> list[Audited]:
    """Errors of 0 and 1 whose means are as said, in each round."""

    def errors(mean: float, n: int) -> np.ndarray:
        return (np.arange(n) < round(mean * n)).astype(np.float64)

    return [Audited(n, errors(chosen, images), errors(control, controls)) for n in range(1, rounds + 1)]


def test_the_ratio_is_that_of_the_mean_errors_and_its_interval_holds_it() -> None:
    found = compare(rounds_of(0.9, 0.5))
    assert found.ratio.value == pytest.approx(1.8)
    assert found.ratio.low < 1.8 < found.ratio.high
    assert (found.chosen.value, found.control.value) == (pytest.approx(0.9), pytest.approx(0.5))
    assert compare(rounds_of(0.9, 0.5)) == found  # the same figures, the same interval


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    rng, held, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        rounds = [
            Audited(n, (rng.random(18) < 0.6).astype(float), (rng.random(6) < 0.4).astype(float)) for n in range(8)
        ]
        found = compare(rounds, resamples=200)
        held += found.ratio.low <= 1.5 <= found.ratio.high
    assert held / trials > 0.9


@pytest.mark.parametrize("error", [0.05, 0.15, 0.4])
def test_choosing_by_chance_is_hardly_ever_taken_for_more(error: float) -> None:
    """Two controls a round of a good model are often never wrong, which says little."""
    rng = np.random.default_rng(2)
    trials = [
        compare(
            [
                Audited(n, (rng.random(18) < error).astype(float), (rng.random(2) < error).astype(float))
                for n in range(5)
            ],
            resamples=200,
        )
        for _ in range(200)
    ]
    assert sum(found.ratio.low > 1 for found in trials) <= 200 * 0.025


@given(st.floats(0.05, 1), st.integers(1, 5))
def test_rounds_weigh_alike_on_both_sides_so_that_progress_is_not_taken_for_choice(level: float, rounds: int) -> None:
    """A model that is as wrong on chosen as on random images in every round has the ratio 1, however they are mixed."""
    levels = np.linspace(level, level / 2, rounds)
    audited = [Audited(n, np.full(10 * (n + 1), e), np.full(3, e)) for n, e in enumerate(levels)]
    assert compare(audited, resamples=20).ratio.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (rounds_of(0.9, 0.25), "images chosen by entropy were 3.6 times as wrong as random ones (95 %:"),
        (rounds_of(0.5, 0.5), "choosing by entropy has found nothing harder than chance so far: 1.0 times"),
        (
            rounds_of(0.6, 0.5),
            "it is not certain yet that choosing by entropy finds harder images than chance: 1.2 times",
        ),
        (rounds_of(0.1, 1.0), "were less wrong than random ones, 0.1 times"),
        (rounds_of(0.9, 0.5, rounds=2), "too few to tell what choosing by entropy brings: 8 control images of 2"),
        (rounds_of(0.0, 0.0), "the model was wrong on none of 120 chosen and 24 control images"),
        (rounds_of(0.5, 0.0), "∞ times as wrong"),
    ],
)
def test_what_is_said_follows_from_the_interval(rounds: list[Audited], said: str) -> None:
    assert said in verdict(compare(rounds), "entropy")


# ── when to stop ────────────────────────────────────────────────────────────────────────────────────────────────────


def models(*values: float, wrong: tuple[int, ...] | None = None) -> list[Measured]:
    """Models on 100 held-out images with this accuracy each."""
    counts = wrong or tuple(round(100 * (1 - value)) for value in values)
    return [
        Measured(n, "accuracy", value, {f"{key:02}": float(key < many) for key in range(100)})
        for n, (value, many) in enumerate(zip(values, counts, strict=True))
    ]


def test_a_metric_stands_still_when_three_rounds_gain_no_more_than_the_noise() -> None:
    rising, still = models(0.5, 0.6, 0.7, 0.8, 0.9), models(0.5, 0.8, 0.79, 0.8, 0.78)
    assert reasons_to_stop(10, None, rising, []) == []
    (reason,) = reasons_to_stop(10, None, still, [])
    assert reason.startswith("accuracy stands still: 0.800 at best in the last 3 rounds, 0.800 before")


def test_a_gain_of_one_standard_error_is_noise_and_of_more_is_none() -> None:
    first, *others = models(0.8, 0.82, 0.82, 0.82)
    assert reasons_to_stop(10, None, [first, *others], []) == []  # two images better, none worse: 0.02 ± 0.014
    swapped = {f"{key:02}": float(5 <= key < 23) for key in range(100)}  # five better, three worse: 0.02 ± 0.028
    others = [replace(one, errors=swapped) for one in others]
    assert "one standard error is 0.028" in reasons_to_stop(10, None, [first, *others], [])[0]


def test_too_few_rounds_or_a_model_that_learnt_nothing_are_no_plateau() -> None:
    assert reasons_to_stop(10, None, models(0.8, 0.8, 0.8), []) == []
    assert reasons_to_stop(10, None, models(0.0, 0.0, 0.0, 0.0, 0.0), []) == []


def test_a_budget_is_spent_when_as_many_are_labelled() -> None:
    assert reasons_to_stop(499, 500, [], []) == []
    assert reasons_to_stop(510, 500, [], []) == ["the budget of 500 images is spent (510 are labelled)"]


def test_a_pool_is_exhausted_when_the_choice_no_longer_finds_harder_images() -> None:
    held_out = models(0.3, 0.7)
    found_more, finds_none = rounds_of(0.9, 0.25), rounds_of(0.25, 0.25, rounds=3)
    (reason,) = reasons_to_stop(10, None, held_out, [*found_more, *finds_none])
    assert "no longer finds harder images than chance: error 0.25 on chosen, 0.25 on control" in reason
    assert reasons_to_stop(10, None, held_out, found_more) == []  # it still finds them
    assert reasons_to_stop(10, None, held_out, finds_none * 4) == []  # it never did: another strategy, not an end
    harder_pool = [*rounds_of(1.0, 0.5), *rounds_of(0.5, 0.5, rounds=3)]
    assert reasons_to_stop(10, None, models(0.3, 0.9), harder_pool) == []  # the pool is harder than the hold-out


# ── in the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_round_marks_its_control_audits_it_once_and_says_so(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=30, batch=6, control=0.34, budget=6)
    told: list[str] = []
    advance(project, rounds=2, tell=told.append)
    store = project.store.rounds
    assert not any(one.control for one in store.chosen(0))  # no model chose
    batch, reasons = store.chosen(1), store.selected(1)
    control = {one.key for one in batch if one.control}
    assert len(batch) == 6
    assert len(control) == 2
    assert {key for key, reason in reasons.items() if reason.startswith("control: chosen at random")} == control
    assert "6 images selected, 2 of them at random as control" in " ".join(told)
    assert "6 images of earlier batches audited" in " ".join(told)

    truths = {example.item.key: example for example in project.store.annotations.examples(Split.POOL)}
    model = project.model(str(store.list()[1].model))
    for prediction in model.predict([truths[one.key].item for one in batch]):
        expected = image_error(prediction, truths[prediction.item_key], project.classes, 0.3)
        assert store.errors(1, "selected")[prediction.item_key] == expected
    assert audit(project, 99, lambda _: None) == (0, [])

    facts = json.loads(json.dumps(audit_facts(project), allow_nan=False))
    assert [(row["round"], row["chosen"], row["control"], row["unaudited"]) for row in facts["rounds"]] == [
        (1, 4, 2, 0)
    ]
    assert facts["says"].startswith("too few to tell")
    assert "the budget of 6 images is spent (12 are labelled)" in str(advice(project))
    report = gather(project)
    assert (report.advice, report.audit[0].control) == (advice(project), 2)


def test_controls_do_not_depend_on_what_chooses(make_project: MakeProject) -> None:
    drawn = []
    for strategy in ("entropy", "margin"):
        project = make_project(Task.CLASSIFY, folder=strategy, batch=6, control=0.34, strategy=strategy)
        advance(project, rounds=1)
        for _ in range(2):
            perform(project, current_round(project))  # score, select
        drawn.append({one.key for one in project.store.rounds.chosen(1) if one.control})
    assert drawn[0] == drawn[1] != set()


def test_a_model_that_is_gone_is_said_and_does_not_stop_the_loop(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, batch=6, control=0.34)
    advance(project, rounds=1)
    while (current := current_round(project)).number == 1:
        perform(project, current)
    file = next((project.models / str(project.store.rounds.list()[1].model)).glob("*.safetensors"))
    file.unlink()
    project._model = None
    perform(project, current_round(project))
    outcome = perform(project, current_round(project))
    assert "6 images of round 1 cannot be audited" in outcome.message
    assert outcome.facts["metric"] == "accuracy"


def test_a_batch_without_a_control_is_not_audited(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, batch=6, control=0, learner=TINY[Task.CLASSIFY])
    advance(project, rounds=2)
    assert project.store.rounds.errors(1, "selected") == {}
    assert audit_facts(project)["says"] is None


def test_marks_and_errors_are_kept_by_the_store(tmp_path: Path) -> None:
    with PoolStore.open(f"sqlite:///{tmp_path / 'pool.db'}") as store:
        store.items.add([NewItem(letter * 20, f"/{letter}.png", 8, 8) for letter in "abc"])
        store.rounds.open(0, "select", 0, {}, {})
        keys = [letter * 20 for letter in "abc"]
        store.items.add([NewItem("h" * 20, "/h.png", 8, 8, split=Split.HOLDOUT)])
        for _ in range(2):  # it may be repeated
            store.rounds.select_items(0, [*keys, "h" * 20], {}, keys[:1])
        store.rounds.record_errors(0, "selected", {keys[0]: 0.5})
        store.rounds.record_errors(0, "selected", {keys[0]: 0.25, keys[1]: 0.0})
        assert [tuple(one) for one in store.rounds.chosen(0)] == [  # no held-out image is among them
            (keys[0], True, 0.25),
            (keys[1], False, 0.0),
            (keys[2], False, None),
        ]
