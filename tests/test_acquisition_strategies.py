"""What holds for every strategy and batch partner, also those of third parties: each is found and put to the test."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alpipe import plugins
from alpipe.acquisition.batch.options import BatchOptions
from alpipe.acquisition.batch.selection import choose_batch
from alpipe.acquisition.partners import top
from alpipe.errors import ConfigError, DataError
from alpipe.plugins import Kind
from alpipe.protocols import Candidates, Choosing, Describing, Labelled, Rescoring
from alpipe.types import BoxPrediction, ClassPrediction, ImageFit, Item, MapPrediction, Mirrored, Prediction, Task

SIZE, DIMENSIONS = 30, 8
STRATEGIES = sorted(plugins.available(Kind.STRATEGY))
CHOOSERS = [(kind, name) for kind in (Kind.STRATEGY, Kind.PARTNER) for name in sorted(plugins.available(kind))]


def those_that(hold: Callable[[Any], bool]) -> Any:
    """The strategies of which it holds, as the parameter of a test; that there are some is tested by it too."""
    names = [name for name in STRATEGIES if hold(plugins.load(Kind.STRATEGY, name))]
    assert names
    return pytest.mark.parametrize("plugin", names, indirect=True)


def built(plugin: Any) -> Any:
    return plugin.build(plugin.Options())


@pytest.fixture(params=STRATEGIES)
def plugin(request: pytest.FixtureRequest) -> Any:
    return plugins.load(Kind.STRATEGY, request.param)


@pytest.fixture(params=CHOOSERS, ids=lambda one: f"{one[0].noun} {one[1]}")
def chooser(request: pytest.FixtureRequest) -> Any:
    """A strategy, with the largest scores taken where it has no choice of its own; or a partner."""
    return plugins.load(*request.param)


def pool_for(plugin, size: int = SIZE) -> Candidates:
    """Images in two groups with scores, embeddings, and what the strategy would say of them beside."""
    rng = np.random.default_rng(1)
    items = [Item(f"item{n:02d}", f"/x/{n % 7}/frame{n}.png", 64, 48, f"group{n % 2}") for n in range(size)]
    strategy = plugin.build(plugin.Options())
    features = None
    if isinstance(strategy, Describing):
        said = [strategy.describe(one) for one in _alike(sorted(plugin.TASKS)[0], size)]
        features = np.stack(said) if said else np.zeros((0, 3), np.float32)
    embeddings = rng.normal(size=(size, DIMENSIONS)).astype(np.float32) if plugin.NEEDS_EMBEDDINGS else None
    known = rng.normal(size=(7, DIMENSIONS)).astype(np.float32) if plugin.NEEDS_EMBEDDINGS else None
    return Candidates(items, rng.permutation(size) / max(1, size), features, embeddings, Labelled(embeddings=known))


def _alike(task: Task, count: int) -> list[Prediction]:
    """Predictions of one model: of the same classes."""
    rng = np.random.default_rng(3)
    match task:
        case Task.CLASSIFY:
            return [ClassPrediction("key", rng.dirichlet(np.ones(3)).astype(np.float32)) for _ in range(count)]
        case Task.DETECT:
            return [_boxes(rng.random((rng.integers(5), 3)).astype(np.float32)) for _ in range(count)]
        case Task.SEGMENT:
            return [
                MapPrediction("key", rng.dirichlet(np.ones(4), (6, 9)).transpose(2, 0, 1).astype(np.float32), (9, 6))
                for _ in range(count)
            ]


def choose(plugin, pool: Candidates, k: int, seed: int = 0, **options: Any) -> list[str]:
    """What `choose_batch` makes of it, with the options of a new project."""
    made = plugin.build(plugin.Options())
    strategy, partner = (made, top.build(top.Options())) if hasattr(made, "score") else (Scored(), made)
    settings = BatchOptions(**{"spread": False, **options})
    return choose_batch(strategy, partner, pool, k, np.random.default_rng(seed), options=settings).keys


class Scored:
    """A strategy that has scored already."""

    def score(self, prediction: Any) -> float:
        return 0.0


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


def seen_by(plugin, task: Task) -> list[Any]:
    """What the strategy is given to score: what the round's model says, unless it names another scanner."""
    match getattr(plugin, "SCANNER", "model"):
        case "vae":
            return [ImageFit("key", nats) for nats in (-3.0, 0.0, 1.25, 4.0, 1e6)]
        case "flip":
            given = _lonely(task)
            return [Mirrored("key", one, replace(one, probs=_swapped(one))) for one in given]
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


@those_that(lambda plugin: isinstance(built(plugin), Describing))
def test_descriptions_are_finite_of_one_length_and_the_same_each_time(plugin):
    strategy = built(plugin)
    for task in plugin.TASKS:
        said = [strategy.describe(one) for one in _alike(task, 20)]
        assert {(one.dtype, one.ndim) for one in said} == {(np.dtype(np.float32), 1)}
        assert len({one.shape for one in said}) == 1
        assert np.isfinite(said).all()
        assert np.array_equal(said, [strategy.describe(one) for one in _alike(task, 20)])
        for prediction in seen_by(plugin, task):
            assert np.isfinite(strategy.describe(prediction)).all()


@those_that(lambda plugin: getattr(plugin, "NEEDS_MEMBERS", False))
def test_a_strategy_that_needs_members_refuses_a_prediction_without(plugin):
    strategy = built(plugin)
    for task in plugin.TASKS:
        with pytest.raises(ConfigError, match="members of an ensemble"):
            strategy.score(_lonely(task)[0])


@pytest.mark.parametrize("k", [0, 1, 7, SIZE])
@pytest.mark.parametrize("options", [{}, {"spread": {}}, {"noise": {}}], ids=["plain", "spread", "noise"])
def test_k_different_keys_of_the_pool_are_chosen(chooser, k, options):
    pool = pool_for(chooser)
    chosen = choose(chooser, pool, k, **options)
    assert len(set(chosen)) == len(chosen) == k
    assert set(chosen) <= {item.key for item in pool.items}


@pytest.mark.parametrize("options", [{}, {"spread": {}}, {"noise": {}}], ids=["plain", "spread", "noise"])
def test_the_same_generator_gives_the_same_choice(chooser, options):
    pool = pool_for(chooser)
    assert choose(chooser, pool, 5, seed=3, **options) == choose(chooser, pool, 5, seed=3, **options)


def test_nothing_draws_from_a_global_generator(chooser):
    np.random.seed(0)  # noqa: NPY002  # to find out whether it is touched
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    choose(chooser, pool_for(chooser), 5)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_without_embeddings_or_descriptions_what_needs_them_says_so(chooser):
    pool = pool_for(chooser)
    bare = replace(pool, embeddings=None, features=None)
    if pool.embeddings is None and pool.features is None:
        assert len(choose(chooser, bare, 3)) == 3
    else:
        with pytest.raises(ValueError, match="30 images, but"):
            choose(chooser, bare, 3)


@pytest.mark.parametrize("k", [-1, SIZE + 1])
def test_a_k_that_the_pool_cannot_give_is_refused(chooser, k):
    pool = pool_for(chooser)
    with pytest.raises(ValueError, match="pool"):
        choose(chooser, pool, k)
    made = chooser.build(chooser.Options())
    if isinstance(made, Choosing):
        with pytest.raises(ValueError, match="pool"):
            made.choose(pool, k, np.random.default_rng(0))


def test_an_empty_pool_gives_nothing(chooser):
    assert choose(chooser, pool_for(chooser, 0), 0) == []


def test_copies_and_equal_scores_are_no_obstacle(chooser):
    pool = pool_for(chooser)
    alike = None if pool.embeddings is None else np.ones_like(pool.embeddings)
    flat = replace(pool, scores=np.zeros(SIZE), embeddings=alike)
    assert len(set(choose(chooser, flat, 9))) == 9


@those_that(lambda plugin: not isinstance(built(plugin), Choosing | Rescoring))
def test_a_strategy_without_a_choice_of_its_own_takes_the_largest_scores(plugin):
    pool = pool_for(plugin)
    ranked = sorted(range(SIZE), key=lambda row: -pool.scores[row])
    assert choose(plugin, pool, 5) == [pool.items[row].key for row in ranked[:5]]


@pytest.mark.parametrize("name", ["least_confidence", "margin", "entropy", "disagreement", "flip_consistency"])
def test_uncertainties_lie_in_the_unit_interval(name):
    plugin = plugins.load(Kind.STRATEGY, name)
    strategy = plugin.build(plugin.Options())
    for task in plugin.TASKS:
        assert all(0 <= strategy.score(prediction) <= 1 for prediction in seen_by(plugin, task))


def test_random_pays_no_heed_to_scores_but_to_its_seed():
    plugin = plugins.load(Kind.STRATEGY, "random")
    pool = pool_for(plugin)
    assert choose(plugin, pool, 5) == choose(plugin, replace(pool, scores=-pool.scores), 5)
    assert len({tuple(choose(plugin, pool, 5, seed)) for seed in range(10)}) == 10


def test_novelty_scores_what_fits_worst_highest():
    plugin = plugins.load(Kind.STRATEGY, "novelty")
    strategy = plugin.build(plugin.Options())
    scores = [strategy.score(ImageFit("key", nats)) for nats in (2.0, 4.0, -1.0)]
    assert np.argsort(scores).tolist() == [2, 0, 1]


@pytest.mark.parametrize("nats", [np.nan, np.inf, -np.inf])
def test_a_fit_that_is_not_finite_is_refused(nats):
    with pytest.raises(DataError, match="item key"):
        ImageFit("key", nats)


def test_the_built_in_ones_are_found():
    assert set(plugins.available(Kind.STRATEGY)) >= {
        *("least_confidence", "margin", "entropy", "bald", "disagreement", "expected_dice", "flip_consistency"),
        *("quota_entropy", "difficulty_entropy", "entropy_per_second", "novelty", "coreset", "badge", "herding"),
        *("typiclust", "random", "balanced_random", "strided"),
    }
    assert set(plugins.available(Kind.PARTNER)) >= {"top", "herding", "kmedoids", "stochastic"}
