"""What single strategies and partners do, beside what holds for all."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpipe import plugins, rle
from alpipe.acquisition import (
    badge,
    balanced_random,
    difficulty_entropy,
    entropy_per_second,
    expected_dice,
    flip_consistency,
    herding,
    quota_entropy,
    strided,
    typiclust,
)
from alpipe.acquisition.partners import herding as herding_partner
from alpipe.acquisition.partners import kmedoids, stochastic
from alpipe.acquisition.ranking import coverage, measures
from alpipe.acquisition.ranking.aggregate import Aggregation
from alpipe.acquisition.ranking.classes import present, quotas, shares
from alpipe.acquisition.ranking.medoids import k_medoids
from alpipe.plugins import Kind
from alpipe.protocols import Candidates, Labelled
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    ImageClass,
    Item,
    MapPrediction,
    Masks,
    Mirrored,
)


def items(count: int) -> list[Item]:
    return [Item(f"k{n:03d}", f"/v/f{n}.png", 100, 50) for n in range(count)]


def boxes(*rows: tuple[float, ...], xyxy: Any = None, classes: int = 2) -> BoxPrediction:
    probs = np.asarray(rows, np.float32).reshape(-1, classes)
    where = np.tile([0, 0, 10, 10], (len(probs), 1)) if xyxy is None else np.asarray(xyxy)
    best = probs.max(axis=1, initial=0)
    index = probs.argmax(axis=1) if len(probs) else np.zeros(0, np.int64)
    return BoxPrediction("key", where.reshape(-1, 4).astype(np.float32), best, probs, index)


def a_map(*foreground: Any, members: tuple[MapPrediction, ...] = ()) -> MapPrediction:
    layers = np.asarray(foreground, np.float32)
    return MapPrediction("key", np.concatenate([1 - layers.sum(axis=0, keepdims=True), layers]), (4, 4), members)


def pool(strategy: Any, predictions: list[Any], **more: Any) -> Candidates:
    """The candidates as a scan makes them."""
    scores = np.array([strategy.score(one) for one in predictions])
    features = np.stack([strategy.describe(one) for one in predictions]) if hasattr(strategy, "describe") else None
    return Candidates(items(len(predictions)), scores, features, **more)


# ── shares of classes, and quotas ───────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), max_size=6))
def test_the_shares_of_classes_are_their_part_of_the_uncertainty(rows: list[tuple[float, float]]) -> None:
    given_shares = shares(boxes(*rows), measures.entropy, Aggregation())
    expected, total = np.zeros(2), 0.0
    for row in rows:
        if max(row) >= np.float32(0.05):
            p = np.array([1 - max(row), *(max(row) * np.array(row) / sum(row))], np.float64)
            h = -(p[p > 0] * np.log(p[p > 0])).sum() / np.log(3)
            expected += h * p[1:]
            total += h
    assert given_shares == pytest.approx(expected / total if total > 1e-9 else given_shares, abs=1e-4)
    assert given_shares.sum() <= 1 + 1e-5


def test_classes_are_there_that_are_predicted() -> None:
    assert present(ClassPrediction("k", np.array([0.2, 0.5, 0.3], np.float32)), 0, 0).tolist() == [0, 1, 0]
    assert present(boxes((0.31, 0.1), (0.29, 0.2)), 0.3, 0).tolist() == [1, 0]
    assert present(boxes(), 0.3, 0).tolist() == [0, 0]
    speck = np.zeros((2, 4, 4))
    speck[0, :2], speck[1, 3, 3] = 0.9, 0.9
    assert present(a_map(*speck), 0, 0.1).tolist() == [1, 0]
    assert present(a_map(*speck), 0, 0.0).tolist() == [1, 1]


@given(st.integers(0, 50), st.floats(0, 1), st.lists(st.integers(0, 9), min_size=1, max_size=6), st.randoms())
def test_quotas_are_even_and_stay_within_their_share(k: int, share: float, amounts: list[int], random: Random) -> None:
    each = quotas(k, share, np.array(amounts, np.float32))
    wanted = np.array(amounts) > 0
    assert each.sum() == (round(share * k) if wanted.any() else 0)
    assert not each[~wanted].any()
    if wanted.any():
        assert np.ptp(each[wanted]) <= 1
        by_amount = sorted(zip(amounts, each.tolist(), strict=True), key=lambda one: (one[0] == 0, one[0], -one[1]))
        assert all(more >= less for (_, more), (_, less) in pairwise(by_amount)), "the rarest get what is left over"
    order = random.sample(range(len(amounts)), len(amounts))
    if len(set(amounts)) == len(amounts):
        assert quotas(k, share, np.array(amounts, np.float32)[order]).tolist() == each[order].tolist()


def test_quotas_bring_the_rare_class_and_entropy_alone_does_not() -> None:
    """Ten images with many half-sure cells of class 0; three with one cell of class 1 beside sure ones of class 0."""
    common = [boxes(*[(0.5, 0.0)] * 6) for _ in range(10)]
    rare = [boxes((0.95, 0.0), (0.0, 0.4)) for _ in range(3)]
    strategy = quota_entropy.build(quota_entropy.Options(quota=0.66))
    given_pool = pool(strategy, common + rare)
    chosen = strategy.choose(given_pool, 6, np.random.default_rng(0))
    counts = Counter(int(key[1:]) >= 10 for key in chosen)
    assert counts == {True: 2, False: 4}
    assert sorted(given_pool.scores)[-10:] == pytest.approx([given_pool.scores[0]] * 10)
    none = quota_entropy.build(quota_entropy.Options(quota=0.0))
    assert all(int(key[1:]) < 10 for key in none.choose(given_pool, 6, np.random.default_rng(0)))


def test_class_aware_random_draws_the_rare_class_as_often_as_the_common_one() -> None:
    common, rare, empty = ([boxes((0.9, 0.0))] * 90, [boxes((0.0, 0.9))] * 10, [boxes()] * 100)
    strategy = balanced_random.build(balanced_random.Options())
    given_pool = pool(strategy, common + rare + empty)
    drawn: Counter[str] = Counter()
    for seed in range(50):
        for key in strategy.choose(given_pool, 12, np.random.default_rng(seed)):
            drawn["common" if key < "k090" else "rare" if key < "k100" else "empty"] += 1
    # 4 of each by quota, and 4 among all 192 that are left: 1.8 common, 0.1 rare, 2.1 empty
    assert drawn["rare"] / 50 == pytest.approx(4.1, abs=0.4)
    assert drawn["common"] / 50 == pytest.approx(5.8, abs=0.6)
    assert drawn["empty"] / 50 == pytest.approx(2.1, abs=0.6)


# ── difficulty and time ─────────────────────────────────────────────────────────────────────────────────────────────


def test_difficulty_is_the_formula_of_ppal() -> None:
    """Class 0 is found at p = 0.81 and IoU 1, class 1 is missed once and half found once."""
    truth = Boxes(np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32), ("a", "b", "b"))
    found = boxes((0.81, 0.0), (0.0, 0.5), xyxy=[[0, 0, 10, 10], [20, 0, 30, 5]])
    labelled = Labelled([Example(items(1)[0], truth)], classes=("a", "b"), scan=lambda: iter([found]))
    q = difficulty_entropy.quality(labelled, 2)
    assert q == pytest.approx([0.81**0.6, (0.5**0.6 * 0.5**0.4) / 2], abs=1e-6)
    gamma = np.e ** (1 / 0.3) - 1
    assert difficulty_entropy.class_weights(q) == pytest.approx(1 + 0.3 * 0.2 * np.log(1 + gamma * (1 - q)))
    assert difficulty_entropy.class_weights(np.array([1.0, 0.0])) == pytest.approx([1.0, 1.2])


def test_the_harder_class_weighs_more() -> None:
    strategy = difficulty_entropy.build(difficulty_entropy.Options())
    examples = [Example(item, ImageClass(name)) for item, name in zip(items(2), "ab", strict=True)]
    says = [ClassPrediction("k", np.array(row, np.float32)) for row in ([0.99, 0.01], [0.9, 0.1])]
    labelled = Labelled(examples, classes=("a", "b"), scan=lambda: iter(says))
    doubts = [ClassPrediction("k", np.array(row, np.float32)) for row in ([0.6, 0.4], [0.4, 0.6])]
    given_pool = pool(strategy, doubts, labelled=labelled)
    assert given_pool.scores[0] == pytest.approx(given_pool.scores[1])
    easy, hard = strategy.rescore(given_pool)
    assert given_pool.scores[0] < easy < hard < 1.2


def test_without_labelled_objects_every_class_is_as_hard() -> None:
    strategy = difficulty_entropy.build(difficulty_entropy.Options())
    given_pool = pool(strategy, [boxes((0.5, 0.1)), boxes()])
    weighted = strategy.rescore(given_pool)
    assert weighted[0] > given_pool.scores[0]
    assert weighted[1] == given_pool.scores[1]  # no box: no class, weight 1


def test_time_is_that_of_the_options_until_enough_was_measured() -> None:
    strategy = entropy_per_second.build(entropy_per_second.Options(seconds=4.0, seconds_per_object=10.0))
    given_pool = pool(strategy, [boxes((0.5, 0.0), (0.0, 0.25), (0.01, 0.0)), boxes()])
    assert given_pool.features[:, 0] == pytest.approx([0.75, 0])
    assert strategy.rescore(given_pool) == pytest.approx(given_pool.scores / [11.5, 4.0])


@pytest.mark.parametrize("outlier", [False, True])
def test_measured_times_are_fitted_and_an_open_window_does_not_count(outlier: bool) -> None:
    examples = [
        Example(item, Boxes(np.tile(np.array([[0, 0, 5, 5]], np.float32), (n % 4, 1)), ("a",) * (n % 4)))
        for n, item in enumerate(items(21))
    ]
    seconds = {example.item.key: 3.0 + 2.0 * len(example.labels.names) for example in examples}
    if outlier:
        seconds["k020"] = 9000.0
    assert entropy_per_second.times(Labelled(examples, seconds=seconds)) == pytest.approx((3.0, 2.0))
    assert entropy_per_second.times(Labelled(examples[:9], seconds=seconds)) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.1, 500)), min_size=2, max_size=30))
def test_no_time_is_negative(answers: list[tuple[int, float]]) -> None:
    counts, seconds = np.array(answers, np.float64).T
    a, b = entropy_per_second.line(counts, seconds)
    assert a > 0
    assert b >= 0


def test_objects_are_boxes_and_regions() -> None:
    two = np.zeros((8, 8), bool)
    two[:2, :2] = two[5:, 5:] = True
    assert entropy_per_second.objects(Masks({"a": rle.encode(two)})) == 2
    assert entropy_per_second.objects(Boxes.none()) == 0
    assert entropy_per_second.expected_objects(a_map(two[:4, :4] * 0.9), 0.05) == 1


# ── members and mirror images ───────────────────────────────────────────────────────────────────────────────────────


def test_expected_dice_is_one_less_the_mean_dice_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((3, 2, 6, 6)) > 0.5
    masks[:, 1] &= ~masks[:, 0]
    members = tuple(a_map(*(mask * 0.9)) for mask in masks)
    dices = [
        2 * (masks[a, c] & masks[b, c]).sum() / (masks[a, c].sum() + masks[b, c].sum())
        for c in range(2)
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    strategy = expected_dice.build(expected_dice.Options())
    assert strategy.score(a_map(*(masks[0] * 0.9), members=members)) == pytest.approx(1 - np.mean(dices))


def test_members_that_all_see_nothing_agree() -> None:
    nothing = a_map(np.zeros((4, 4)))
    strategy = expected_dice.build(expected_dice.Options())
    assert strategy.score(a_map(np.zeros((4, 4)), members=(nothing, nothing))) == 0


def flipped(plain: Any, mirrored: Any, **options: Any) -> float:
    return flip_consistency.build(flip_consistency.Options(**options)).score(Mirrored("key", plain, mirrored))


def test_the_same_said_of_the_mirror_image_scores_nothing_and_the_opposite_all() -> None:
    sure, other = (ClassPrediction("k", np.array(row, np.float32)) for row in ([1, 0], [0, 1]))
    assert flipped(sure, sure) == pytest.approx(0, abs=1e-6)
    assert flipped(sure, other) == pytest.approx(1)
    full, none = a_map(np.ones((4, 4))), a_map(np.zeros((4, 4)))
    assert flipped(full, full) == pytest.approx(0, abs=1e-6)
    assert flipped(full, none) == pytest.approx(1)


def test_a_box_that_the_mirror_image_lacks_counts_by_how_sure_it_is() -> None:
    far = [[0, 0, 10, 10], [50, 0, 60, 10]]
    both, one = boxes((0.9, 0), (0.8, 0), xyxy=far), boxes((0.9, 0), xyxy=far[:1])
    assert flipped(both, both) == pytest.approx(0, abs=1e-6)
    assert flipped(both, one, aggregation="max") == pytest.approx(0.8, abs=1e-6)
    assert flipped(one, both, aggregation="max") == pytest.approx(0.8, abs=1e-6)
    assert flipped(boxes(), boxes()) == 0
    half = boxes((0.9, 0), xyxy=[[0, 0, 10, 5]])
    assert flipped(one, half, aggregation="max") == pytest.approx(0.9 * 0.5, abs=1e-6)


# ── diversity ───────────────────────────────────────────────────────────────────────────────────────────────────────


def clouds(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Tight clouds far from each other, one after another."""
    rng = np.random.default_rng(seed)
    corners = 100 * np.eye(len(sizes), dtype=np.float32)
    return np.concatenate([c + rng.normal(size=(n, len(sizes))) for c, n in zip(corners, sizes, strict=True)]).astype(
        "f4"
    )


def cloud_of(chosen: list[str], sizes: list[int]) -> list[int]:
    return sorted(int(np.searchsorted(np.cumsum(sizes), int(key[1:]), side="right")) for key in chosen)


@pytest.mark.parametrize("chooser", [herding, typiclust])
def test_each_cloud_gets_one_and_the_labelled_one_none(chooser: Any) -> None:
    sizes = [30, 20, 10, 5]
    points = clouds(sizes)
    given_pool = Candidates(items(65), np.zeros(65), embeddings=points, labelled=Labelled(embeddings=points[:1]))
    chosen = chooser.build(chooser.Options()).choose(given_pool, 3, np.random.default_rng(0))
    assert cloud_of(chosen, sizes) == [1, 2, 3]


def test_uncertainty_herding_goes_where_the_uncertainty_is() -> None:
    sizes = [30, 30, 30]
    scores = np.repeat([0.01, 1.0, 0.01], 30)
    given_pool = Candidates(items(90), scores, embeddings=clouds(sizes))
    partner = herding_partner.build(herding_partner.Options())
    assert cloud_of(partner.choose(given_pool, 1, np.random.default_rng(0)), sizes) == [1]
    below = Candidates(items(90), scores - 5, embeddings=clouds(sizes))
    assert cloud_of(partner.choose(below, 1, np.random.default_rng(0)), sizes) == [1]


@given(st.integers(0, 1000))
def test_the_lazy_choice_gains_as_much_as_the_plain_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, known = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    mass = rng.random(40)
    chosen = coverage.herd_exactly(points, points, mass, known, 0.8, 12)
    kernel = np.exp(-(np.square(points[:, None] - points[None].astype(np.float64)).sum(axis=2)) / 2 / 0.8**2)
    covered = np.exp(-(np.square(known[:, None] - points[None].astype(np.float64)).sum(axis=2)) / 2 / 0.8**2).max(
        axis=0
    )
    assert len(set(chosen)) == 12
    for at in chosen:
        gains = np.maximum(kernel - covered, 0) @ mass
        assert gains[at] >= gains.max() - 1e-4
        covered = np.maximum(covered, kernel[at])


def test_of_a_large_pool_a_sample_gives_nearly_the_same_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)

    def covered(rows: list[int]) -> float:
        return float(coverage.kernel(points[rows], points, 1.0).max(axis=0).mean())

    whole = covered(coverage.herd(points, np.ones(3000), None, 30, np.random.default_rng(0)))
    monkeypatch.setattr(coverage, "REFERENCES", 600)
    monkeypatch.setattr(coverage, "LEAST_CANDIDATES", 600)
    sampled = covered(coverage.herd(points, np.ones(3000), None, 30, np.random.default_rng(0)))
    chance = covered(list(range(30)))
    assert chance < sampled <= whole + 0.02
    assert whole - sampled < 0.4 * (whole - chance)  # with a fifth of the pool; the real sample is 8192


def test_medoids_are_in_the_middle_of_their_clouds_and_better_than_any_other_member() -> None:
    sizes = [20, 20, 20]
    points = clouds(sizes)
    weights = np.random.default_rng(1).random(60)
    for at in k_medoids(points, weights, 3, np.random.default_rng(0)):
        cloud = slice(at // 20 * 20, at // 20 * 20 + 20)
        costs = [weights[cloud] @ np.linalg.norm(points[cloud] - points[one], axis=1) for one in range(60)[cloud]]
        assert costs[at % 20] == pytest.approx(min(costs), rel=1e-5)


def test_k_medoids_looks_at_the_largest_scores_alone() -> None:
    scores = np.arange(100.0)
    given_pool = Candidates(items(100), scores, embeddings=clouds([50, 50]))
    chosen = kmedoids.build(kmedoids.Options(per_image=2)).choose(given_pool, 5, np.random.default_rng(0))
    assert all(int(key[1:]) >= 90 for key in chosen)


@given(st.integers(1, 7), st.integers(0, 20))
def test_no_other_of_the_stochastic_batches_is_better(k: int, seed: int) -> None:
    scores = np.random.default_rng(seed).random(23)
    given_pool = Candidates(items(23), scores)
    chosen = stochastic.build(stochastic.Options()).choose(given_pool, k, np.random.default_rng(seed))
    rows = np.random.default_rng(seed).permutation(23)[: 23 // k * k].reshape(-1, k)
    assert scores[[int(key[1:]) for key in chosen]].mean() == pytest.approx(scores[rows].mean(axis=1).max())


def test_badge_starts_at_the_longest_gradient_and_leaves_copies_of_it() -> None:
    strategy = badge.build(badge.Options())
    says = [ClassPrediction("k", np.array(row, np.float32)) for row in [[0.5, 0.5]] * 5 + [[0.9, 0.1]] * 5]
    embeddings = np.array([[2, 0]] * 5 + [[0, 1]] * 5, np.float32)
    chosen = strategy.choose(pool(strategy, says, embeddings=embeddings), 2, np.random.default_rng(0))
    assert [int(key[1:]) // 5 for key in chosen] == [0, 1]


@given(st.integers(1, 60), st.data())
def test_strides_are_even(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    given_pool = Candidates(items(n), np.zeros(n))
    chosen = strided.build(strided.Options()).choose(given_pool, k, np.random.default_rng(data.draw(st.integers(0, 9))))
    steps = np.diff([int(key[1:]) for key in chosen])
    assert len(chosen) == k
    assert set(steps) <= {n // k, -(-n // k)}


def test_strides_follow_numbers_in_names_not_letters() -> None:
    frames = [Item(f"k{n}", f"/v/f{number}.png", 1, 1) for n, number in enumerate((10, 9, 1, 2))]
    chosen = strided.build(strided.Options()).choose(Candidates(frames, np.zeros(4)), 4, np.random.default_rng(0))
    assert chosen == ["k2", "k3", "k1", "k0"]


@pytest.mark.parametrize(
    ("name", "task"), [("badge", "detect"), ("expected_dice", "classify"), ("difficulty_entropy", "segment")]
)
def test_a_strategy_for_another_task_is_refused_with_those_that_fit(name: str, task: str) -> None:
    with pytest.raises(Exception, match=rf"'{name}' is for .*, not for {task}; use .*entropy"):
        plugins.load(Kind.STRATEGY, name, task)
