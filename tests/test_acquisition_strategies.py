"""What holds for every strategy, also those of third parties: each is found and put to the same test."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alpipe import plugins
from alpipe.acquisition.disagreement import Disagreement
from alpipe.acquisition.ranking.uncertainty import Uncertainty
from alpipe.errors import DataError
from alpipe.plugins import Kind
from alpipe.types import BoxPrediction, ClassPrediction, ImageFit, MapPrediction, Prediction, Score, Task

SIZE, DIMENSIONS = 30, 8


@pytest.fixture(params=sorted(plugins.available(Kind.STRATEGY)))
def plugin(request: pytest.FixtureRequest) -> Any:
    return plugins.load(Kind.STRATEGY, request.param)


@pytest.fixture
def pool(plugin) -> tuple[list[Score], np.ndarray | None, np.ndarray | None]:
    rng = np.random.default_rng(1)
    scores = [Score(f"item{n:02d}", float(value)) for n, value in enumerate(rng.permutation(SIZE) / SIZE)]
    if not plugin.NEEDS_EMBEDDINGS:
        return scores, None, None
    return scores, *(rng.normal(size=(n, DIMENSIONS)).astype(np.float32) for n in (SIZE, 7))


def choose(plugin, pool, k: int, seed: int = 0) -> list[str]:
    scores, embeddings, labelled = pool
    return plugin.build(plugin.Options()).choose(scores, embeddings, labelled, k, np.random.default_rng(seed))


def predictions(task: Task) -> list[Prediction]:
    """Ordinary ones, and the edges: nothing found, all certain, all alike, one class alone, many classes. Each has two
    members, which strategies may use: itself, and one that takes the classes for each other.
    """
    return [replace(one, members=(one, replace(one, probs=_swapped(one)))) for one in _lonely(task)]


def _swapped(prediction: Prediction) -> np.ndarray:
    return np.flip(prediction.probs, axis=1 if isinstance(prediction, BoxPrediction) else 0)


def _lonely(task: Task) -> list[Prediction]:
    rng = np.random.default_rng(2)
    classes = (1, 2, 3, 20)
    match task:
        case Task.CLASSIFY:
            rows = [rng.dirichlet(np.ones(c)) for c in classes] + [np.eye(3)[0], np.full(4, 0.25)]
            return [ClassPrediction("key", row.astype(np.float32)) for row in rows]
        case Task.DETECT:
            tables = [rng.random((n, c)) for n in (0, 1, 300) for c in classes] + [np.zeros((2, 3)), np.ones((2, 3))]
            return [_boxes(table.astype(np.float32)) for table in tables]
        case Task.SEGMENT:
            maps = [rng.dirichlet(np.ones(1 + c), (6, 9)).transpose(2, 0, 1) for c in classes]
            maps += [np.eye(3)[0][:, None, None] * np.ones((3, 4, 5)), np.full((2, 1, 1), 0.5)]
            return [MapPrediction("key", given.astype(kind), (90, 60)) for given in maps for kind in ("f4", "f2")]


def seen_by(plugin, task: Task) -> list[Prediction] | list[ImageFit]:
    """What the strategy is given to score: what the round's model says, unless it names another scanner."""
    if getattr(plugin, "SCANNER", "learner") == "vae":
        return [ImageFit("key", nats) for nats in (-3.0, 0.0, 1.25, 4.0, 1e6)]
    return predictions(task)


def _boxes(probs: np.ndarray) -> BoxPrediction:
    xyxy = np.tile(np.asarray([0, 0, 9, 9], np.float32), (len(probs), 1))
    best = probs.argmax(axis=1) if len(probs) else np.zeros(0, np.int64)
    return BoxPrediction("key", xyxy, probs.max(axis=1, initial=0).astype(np.float32), probs, best)


def test_it_has_what_the_protocol_names(plugin):
    assert plugin.TASKS.issubset(Task)
    assert plugin.TASKS
    assert isinstance(plugin.NEEDS_EMBEDDINGS, bool)
    assert plugin.__doc__
    assert plugin.Options.__doc__
    assert plugin.Options() == plugin.Options(**plugin.Options().model_dump())


def test_every_prediction_has_a_finite_score_the_same_each_time(plugin):
    strategy = plugin.build(plugin.Options())
    for task in plugin.TASKS:
        for prediction in seen_by(plugin, task):
            score = strategy.score(prediction)
            assert isinstance(score, float)
            assert np.isfinite(score)
            assert score == strategy.score(prediction)


@pytest.mark.parametrize("k", [0, 1, 7, SIZE])
def test_k_different_keys_of_the_pool_are_chosen(plugin, pool, k):
    chosen = choose(plugin, pool, k)
    assert len(set(chosen)) == len(chosen) == k
    assert set(chosen) <= {score.key for score in pool[0]}


def test_the_same_generator_gives_the_same_choice(plugin, pool):
    assert choose(plugin, pool, 5, seed=3) == choose(plugin, pool, 5, seed=3)


def test_nothing_draws_from_a_global_generator(plugin, pool):
    np.random.seed(0)  # noqa: NPY002  # to find out whether it is touched
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    choose(plugin, pool, 5)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_the_order_of_the_pool_has_no_influence(plugin, pool):
    order = np.random.default_rng(4).permutation(SIZE)
    scores, embeddings, labelled = pool
    shuffled = [scores[at] for at in order], None if embeddings is None else embeddings[order], labelled
    assert set(choose(plugin, pool, 7)) == set(choose(plugin, shuffled, 7))


@pytest.mark.parametrize("k", [-1, SIZE + 1])
def test_a_k_that_the_pool_cannot_give_is_refused(plugin, pool, k):
    with pytest.raises(ValueError, match="pool"):
        choose(plugin, pool, k)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(plugin, pool, value):
    scores = [*pool[0][:-1], Score("broken", value)]
    with pytest.raises(ValueError, match="broken"):
        choose(plugin, (scores, *pool[1:]), 3)


def test_an_empty_pool_gives_nothing(plugin):
    none = np.zeros((0, DIMENSIONS), np.float32) if plugin.NEEDS_EMBEDDINGS else None
    assert choose(plugin, ([], none, none), 0) == []


def test_uncertainty_strategies_choose_the_largest_scores_within_the_unit_interval(plugin, pool):
    strategy = plugin.build(plugin.Options())
    if not isinstance(strategy, Uncertainty | Disagreement):
        pytest.skip("not a strategy by uncertainty alone")
    assert choose(plugin, pool, 5) == [score.key for score in sorted(pool[0], key=lambda score: -score.value)[:5]]
    for task in plugin.TASKS:
        assert all(0 <= strategy.score(prediction) <= 1 for prediction in predictions(task))


def test_random_pays_no_heed_to_scores_but_to_its_seed():
    plugin = plugins.load(Kind.STRATEGY, "random")
    low, high = ([Score(f"item{n}", n * sign) for n in range(SIZE)] for sign in (-1.0, 1.0))
    assert choose(plugin, (low, None, None), 5) == choose(plugin, (high, None, None), 5)
    assert len({tuple(choose(plugin, (low, None, None), 5, seed)) for seed in range(10)}) == 10


def test_novelty_chooses_what_fits_worst():
    plugin = plugins.load(Kind.STRATEGY, "novelty")
    strategy = plugin.build(plugin.Options())
    scores = [Score(f"item{n}", strategy.score(ImageFit(f"item{n}", nats))) for n, nats in enumerate([2.0, 4.0, -1.0])]
    assert choose(plugin, (scores, None, None), 2) == ["item1", "item0"]


@pytest.mark.parametrize("nats", [np.nan, np.inf, -np.inf])
def test_a_fit_that_is_not_finite_is_refused(nats):
    with pytest.raises(DataError, match="item key"):
        ImageFit("key", nats)


def test_the_built_in_ones_are_found():
    known = {"entropy", "margin", "least_confidence", "disagreement", "random", "novelty", "coreset"}
    assert known <= set(plugins.available(Kind.STRATEGY))
