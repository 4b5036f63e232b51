"""Measures of uncertainty, and what becomes of those of many boxes or pixels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from alpipe.acquisition.ranking import aggregate, measures
from alpipe.acquisition.ranking.aggregate import Aggregation, box_distribution, image_score, join
from alpipe.acquisition.ranking.ensemble import ensemble_score
from alpipe.acquisition.ranking.topk import choose_any, choose_top
from alpipe.errors import ConfigError, DataError
from alpipe.protocols import Candidates
from alpipe.types import BoxPrediction, ClassPrediction, Item, MapPrediction

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


def scored(values) -> Candidates:
    return Candidates([Item(f"k{n:02d}", "", 1, 1) for n in range(len(values))], np.asarray(values, np.float64))


@given(st.lists(st.integers(0, 4), max_size=20), st.data())
def test_the_largest_are_chosen_best_first(given_values, data):
    k = data.draw(st.integers(0, len(given_values)))
    chosen = choose_top(scored(given_values), k, np.random.default_rng(data.draw(st.integers(0, 5))))
    assert [given_values[int(key[1:])] for key in chosen] == sorted(given_values, reverse=True)[:k]
    assert len(set(chosen)) == k


@pytest.mark.parametrize("choose", [choose_top, choose_any])
def test_among_equals_each_has_the_same_chance(choose):
    rng = np.random.default_rng(0)
    drawn = [key for _ in range(2000) for key in choose(scored([1.0] * 4), 2, rng)]
    assert stats.chisquare([drawn.count(f"k0{n}") for n in range(4)]).pvalue > 0.001


def test_candidates_are_refused_that_stand_twice_or_out_of_order_or_lack_a_value():
    a, b = (Item(key, "", 1, 1) for key in "ab")
    for items in ([a, a], [b, a]):
        with pytest.raises(ValueError, match="item a is scored twice or stands out of order"):
            Candidates(items, np.zeros(2))
    with pytest.raises(ValueError, match="2 images, but 3 scores"):
        Candidates([a, b], np.zeros(3))
    with pytest.raises(ValueError, match="embedding of item b is not finite"):
        Candidates([a, b], np.zeros(2), embeddings=np.array([[0, 0], [0, np.nan]], np.float32))
    with pytest.raises(ValueError, match="score of item a is not finite"):
        Candidates([a, b], np.array([np.inf, 0]))


# ── disagreement ────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def ensembles(draw: st.DrawFn) -> np.ndarray:
    """(T, N, C) distributions of T members."""
    shape = (draw(st.integers(2, 5)), draw(st.integers(1, 4)), draw(st.integers(2, 5)))
    weights = draw(npst.arrays(np.float64, shape, elements=st.floats(0, 1))) + 1e-9
    return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)


@given(ensembles())
def test_disagreement_is_the_entropy_of_the_mean_less_the_mean_entropy(voices):
    exact = voices.astype(np.float64)
    expected = stats.entropy(exact.mean(axis=0), axis=1) - stats.entropy(exact, axis=2).mean(axis=0)
    found = measures.disagreement(voices) * np.log(min(voices.shape[0], voices.shape[2]))
    assert found == pytest.approx(expected, abs=1e-5)


@given(ensembles(), st.integers(0, 9))
def test_disagreement_lies_in_the_unit_interval_in_any_order_of_members_and_classes(voices, seed):
    values = measures.disagreement(voices)
    assert (values >= 0).all()
    assert (values <= 1).all()
    rng = np.random.default_rng(seed)
    shuffled = voices[rng.permutation(len(voices))][:, :, rng.permutation(voices.shape[2])]
    assert measures.disagreement(shuffled) == pytest.approx(values, abs=1e-5)


@given(distributions(), st.integers(2, 6))
def test_members_that_say_the_same_do_not_disagree_however_unsure_they_are(probs, members):
    assert measures.disagreement(np.stack([probs] * members)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("members", "classes"), [(2, 2), (2, 5), (4, 4), (6, 3)])
def test_members_that_are_sure_of_different_classes_disagree_entirely(members, classes):
    voices = np.eye(classes, dtype=np.float32)[np.arange(members) % classes][:, None]
    assert measures.disagreement(voices) == pytest.approx(1)


def ensemble_of(kind: type, *tables: np.ndarray):
    def one(probs: np.ndarray, members: tuple = ()):
        if kind is ClassPrediction:
            return ClassPrediction("key", probs, members)
        if kind is MapPrediction:
            return MapPrediction("key", probs, (8, 8), members)
        xyxy = np.tile(np.asarray([0, 0, 1, 1], np.float32), (len(probs), 1))
        best = probs.max(axis=1, initial=0)
        return BoxPrediction("key", xyxy, best, probs, np.zeros(len(probs), np.int64), members)

    return one(tables[-1], tuple(one(np.asarray(table, np.float32)) for table in tables))


def same_and_split(kind: type):
    """An ensemble of one mind, and one that is split over one box or a few pixels."""
    if kind is ClassPrediction:
        sure, other = np.asarray([[0.9, 0.1], [0.1, 0.9]], np.float32)
    elif kind is MapPrediction:
        sure = np.tile(np.asarray([0.9, 0.1], np.float32)[:, None, None], (1, 8, 8))
        other = sure.copy()
        other[:, 2:4, 2:4] = sure[::-1, 2:4, 2:4]
    else:
        sure, other = np.asarray([[0.9, 0.0], [0.8, 0.0]], np.float32), np.asarray([[0.9, 0.0], [0.0, 0.8]], np.float32)
    return ensemble_of(kind, sure, sure), ensemble_of(kind, other, sure)


@pytest.mark.parametrize("kind", [ClassPrediction, MapPrediction, BoxPrediction])
@pytest.mark.parametrize("how", ["top", "mean", "max", "sum"])
def test_an_ensemble_that_is_split_scores_higher_than_one_of_one_mind(kind, how):
    same, split = (ensemble_score(one, Aggregation(aggregation=how)) for one in same_and_split(kind))
    assert same == pytest.approx(0, abs=1e-6)
    assert 0.001 < split <= 1


@pytest.mark.parametrize("kind", [ClassPrediction, MapPrediction, BoxPrediction])
@pytest.mark.parametrize("members", [0, 1])
def test_a_prediction_without_an_ensemble_is_refused_with_the_option_to_set(kind, members):
    lonely = replace(same_and_split(kind)[0], members=same_and_split(kind)[0].members[:members])
    with pytest.raises(
        ConfigError, match=rf"item key has {members}; set the learner's option samples .* members: true"
    ):
        ensemble_score(lonely, Aggregation())


def test_members_of_another_shape_are_refused():
    same, _ = same_and_split(ClassPrediction)
    odd = ClassPrediction("key", np.asarray([0.2, 0.3, 0.5], np.float32))
    with pytest.raises(DataError, match="item key"):
        ensemble_score(replace(same, members=(same, odd)), Aggregation())


def test_over_no_box_that_counts_nobody_disagrees():
    none = np.zeros((0, 2), np.float32)
    faint = np.asarray([[0.01, 0.02]], np.float32)
    for table in (none, faint):
        assert ensemble_score(ensemble_of(BoxPrediction, table, table), Aggregation()) == 0


def test_huge_maps_are_scored_some_pixels_at_a_time(monkeypatch):
    probs = np.random.default_rng(0).dirichlet([0.3, 0.3, 0.3], (2, 20, 30)).transpose(0, 3, 1, 2).astype(np.float32)
    split = ensemble_of(MapPrediction, *probs)
    whole = [ensemble_score(split, Aggregation()), image_score(split, measures.entropy, Aggregation())]
    monkeypatch.setattr(aggregate, "PIXELS_AT_ONCE", 7)
    parts = [ensemble_score(split, Aggregation()), image_score(split, measures.entropy, Aggregation())]
    assert parts == pytest.approx(whole)
