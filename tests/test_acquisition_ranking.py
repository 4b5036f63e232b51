"""Measures of uncertainty, and what becomes of those of many boxes or pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from alpipe.acquisition.ranking import measures
from alpipe.acquisition.ranking.aggregate import Aggregation, box_distribution, image_score, join
from alpipe.acquisition.ranking.topk import choose_any, choose_top
from alpipe.types import BoxPrediction, ClassPrediction, MapPrediction, Score

MEASURES = (measures.entropy, measures.margin, measures.least_confidence)
unit = st.floats(0, 1, width=32)


@st.composite
def distributions(draw: st.DrawFn, least: int = 2) -> np.ndarray:
    shape = (draw(st.integers(1, 5)), draw(st.integers(least, 6)))
    weights = draw(npst.arrays(np.float64, shape, elements=st.floats(0, 1))) + 1e-9
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@given(distributions())
def test_entropy_is_that_of_scipy(probs):
    expected = stats.entropy(probs.astype(np.float64), base=probs.shape[1], axis=1)
    assert measures.entropy(probs) == pytest.approx(expected, abs=1e-6)


@given(distributions())
def test_margin_and_least_confidence_are_their_formulas(probs):
    for row, margin, least in zip(probs, measures.margin(probs), measures.least_confidence(probs), strict=True):
        first, second = sorted(row.tolist(), reverse=True)[:2]
        assert margin == pytest.approx(1 - first + second, abs=1e-6)
        assert least == pytest.approx((1 - first) / (1 - 1 / len(row)), abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@given(probs=distributions(least=1))
def test_measures_lie_in_the_unit_interval_and_ignore_the_order_of_classes(measure, probs):
    values = measure(probs)
    assert values.shape == (len(probs),)
    assert (values >= 0).all()
    assert (values <= 1).all()
    assert measure(probs[:, ::-1]) == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_certainty_is_zero_and_the_uniform_distribution_one(measure, classes):
    certain, uniform = np.eye(classes, dtype=np.float32)[:1], np.full((1, classes), 1 / classes, np.float32)
    assert measure(certain) == pytest.approx(0)
    assert measure(uniform) == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES)
@given(p=st.floats(0.5, 1), step=st.floats(0, 0.5))
def test_with_two_classes_more_lead_is_less_uncertain(measure, p, step):
    further = min(1.0, p + step)
    near, far = (measure(np.asarray([[q, 1 - q]], np.float64))[0] for q in (p, further))
    assert far <= near + 1e-12


# ── boxes and pixels ────────────────────────────────────────────────────────────────────────────────────────────────


@given(npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=unit))
def test_boxes_become_distributions_that_keep_the_best_class_ahead(probs):
    shared = box_distribution(probs)
    assert shared.sum(axis=1) == pytest.approx(np.ones(len(probs)), abs=1e-5)
    assert (shared >= 0).all()
    assert shared[:, 0] == pytest.approx(1 - probs.max(axis=1), abs=1e-6)
    for row, mine in zip(probs, shared, strict=True):
        assert mine[1 + int(np.argmax(row))] == mine[1:].max()


@given(unit)
def test_with_one_class_the_entropy_of_a_box_is_its_binary_entropy(p):
    expected = stats.entropy([p, 1 - p], base=2)
    assert measures.entropy(box_distribution(np.asarray([[p]], np.float32)))[0] == pytest.approx(expected, abs=1e-5)


def test_doubt_about_the_class_counts_as_doubt_about_the_object_does():
    sure, which, whether = np.asarray([[0.99, 0.01], [0.99, 0.98], [0.5, 0.0]], np.float32)
    for measure in MEASURES:
        low, class_doubt, object_doubt = measure(box_distribution(np.stack([sure, which, whether])))
        assert class_doubt > low + 0.3
        assert object_doubt > low + 0.3


values = npst.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


@pytest.mark.parametrize("how", ["top", "mean", "max", "sum"])
@given(given_values=values, top=st.integers(1, 40), seed=st.integers(0, 9))
def test_joined_values_lie_in_the_unit_interval_in_any_order(how, given_values, top, seed):
    options = Aggregation(aggregation=how)
    joined = join(given_values, options, top)
    assert 0 <= joined <= 1
    shuffled = np.random.default_rng(seed).permutation(given_values)
    assert join(shuffled, options, top) == pytest.approx(joined)
    assert join(np.minimum(1, given_values + 0.1), options, top) >= joined - 1e-12


@given(values, st.integers(1, 40))
def test_joins_are_what_they_are_called(given_values, top):
    ranked = sorted(given_values.tolist(), reverse=True)
    expected = {
        "top": sum(ranked[:top]) / top,
        "mean": np.mean(ranked),
        "max": ranked[0],
        "sum": sum(ranked) / (1 + sum(ranked)),
    }
    for how, value in expected.items():
        assert join(given_values, Aggregation(aggregation=how), top) == pytest.approx(value)


def boxes(*probs: tuple[float, ...], classes: int = 2) -> BoxPrediction:
    given_probs = np.asarray(probs, np.float32).reshape(-1, classes)
    xyxy = np.tile(np.asarray([0, 0, 1, 1], np.float32), (len(given_probs), 1))
    best = given_probs.max(axis=1, initial=0)
    return BoxPrediction("key", xyxy, best, given_probs, np.zeros(len(given_probs), np.int64))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("how", ["top", "mean", "max", "sum"])
def test_no_box_scores_as_one_box_at_the_least_probability_that_counts(measure, how):
    options = Aggregation(aggregation=how, min_score=0.1)
    nothing, faint = (image_score(given, measure, options) for given in (boxes(), boxes((0.1, 0.0))))
    ignored = image_score(boxes((0.05, 0.09)), measure, options)
    assert 0 < nothing == pytest.approx(faint)
    assert ignored == nothing
    assert nothing < image_score(boxes((0.5, 0.0)), measure, options)


@given(st.lists(st.tuples(unit, unit), max_size=8), st.tuples(unit, unit))
def test_with_top_and_sum_a_further_box_that_counts_never_lowers_the_score(probs, further):
    if max(further) < 0.05:
        return
    if not any(max(p) >= 0.05 for p in probs):  # "no box" is a statement of its own, not a sum over nothing
        return
    for how in ("top", "sum"):
        options = Aggregation(aggregation=how)
        before, after = (image_score(boxes(*p), measures.entropy, options) for p in (probs, [*probs, further]))
        assert after >= before - 1e-12


def test_top_pixels_are_not_diluted_by_background():
    """Two maps with the same uncertain object, one on much more background: only the mean tells them apart."""
    probs = np.zeros((2, 40, 40), np.float32)
    probs[0] = 1
    probs[:, :20, :20] = 0.5
    wide = np.zeros((2, 80, 80), np.float32)
    wide[0] = 1
    wide[:, :20, :20] = 0.5
    small, large = MapPrediction("a", probs, (40, 40)), MapPrediction("b", wide, (80, 80))
    top, mean = Aggregation(), Aggregation(aggregation="mean")
    assert image_score(small, measures.entropy, top) == image_score(large, measures.entropy, top) == pytest.approx(1)
    assert image_score(small, measures.entropy, mean) == pytest.approx(0.25)
    assert image_score(large, measures.entropy, mean) == pytest.approx(1 / 16)


@pytest.mark.parametrize("measure", MEASURES)
def test_maps_in_half_precision_score_as_in_single(measure):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([0.3, 0.3, 0.3], (20, 30)).transpose(2, 0, 1).astype(np.float32)
    single, half = (MapPrediction("a", probs.astype(kind), (30, 20)) for kind in (np.float32, np.float16))
    scores = [image_score(given, measure, Aggregation()) for given in (single, half)]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


def test_the_score_of_a_class_prediction_is_its_measure():
    probs = np.asarray([0.7, 0.2, 0.1], np.float32)
    expected = stats.entropy(probs, base=3)
    assert image_score(ClassPrediction("a", probs), measures.entropy, Aggregation()) == pytest.approx(expected)


# ── the choice ──────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 4), max_size=20), st.data())
def test_the_largest_are_chosen_best_first(given_values, data):
    scores = [Score(f"k{n:02d}", float(value)) for n, value in enumerate(given_values)]
    k = data.draw(st.integers(0, len(scores)))
    chosen = choose_top(scores, k, np.random.default_rng(data.draw(st.integers(0, 5))))
    by_key = dict(scores)
    assert [by_key[key] for key in chosen] == sorted(by_key.values(), reverse=True)[:k]
    assert len(set(chosen)) == k


@pytest.mark.parametrize("choose", [choose_top, choose_any])
def test_among_equals_each_has_the_same_chance(choose):
    scores = [Score(key, 1.0) for key in "abcd"]
    rng = np.random.default_rng(0)
    drawn = [key for _ in range(2000) for key in choose(scores, 2, rng)]
    assert stats.chisquare([drawn.count(key) for key in "abcd"]).pvalue > 0.001


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="item a is scored twice"):
        choose_top([Score("a", 0.1), Score("b", 0.3), Score("a", 0.2)], 1, np.random.default_rng(0))
