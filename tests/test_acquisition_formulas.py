"""Formulas against an independent implementation, scikit-activeml, on random inputs to 1e-6.

pip install "alpipe[bench]" && pytest tests/test_acquisition_formulas.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

skactiveml = pytest.importorskip("skactiveml.pool", reason="needs scikit-activeml: pip install 'alpipe[bench]'")

from skactiveml.classifier import SklearnClassifier  # noqa: E402
from skactiveml.utils import MISSING_LABEL  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from alpipe.acquisition import badge, bald  # noqa: E402
from alpipe.acquisition.ranking import coverage, gradients, measures, typicality  # noqa: E402
from alpipe.acquisition.ranking.centres import k_centres  # noqa: E402
from alpipe.types import ClassPrediction  # noqa: E402

SEEDS = range(10)
EXACT = {"abs": 1e-6, "rel": 1e-6}


def random_probs(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(rng.uniform(0.1, 2, shape[-1]), shape[:-1]).astype(np.float32)


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_least_confidence_margin_and_entropy(seed: int) -> None:
    probs = random_probs(seed, 200, 2 + seed)
    classes = probs.shape[1]
    rows = probs.astype(np.float64) / probs.sum(axis=1, keepdims=True, dtype=np.float64)
    theirs = {
        name: skactiveml.uncertainty_scores(rows, method=name)
        for name in ("least_confident", "margin_sampling", "entropy")
    }
    assert measures.least_confidence(rows) * (1 - 1 / classes) == pytest.approx(theirs["least_confident"], **EXACT)
    assert measures.margin(rows) == pytest.approx(theirs["margin_sampling"], **EXACT)
    assert measures.entropy(rows) * np.log(classes) == pytest.approx(theirs["entropy"], **EXACT)


def test_bald(seed: int) -> None:
    voices = random_probs(seed, 3 + seed, 40, 4)  # members, images, classes
    theirs = skactiveml.batch_bald(voices.astype(np.float64), batch_size=1, random_state=0)[0]
    strategy = bald.build(bald.Options())
    ours = [
        strategy.score(ClassPrediction("key", image[0], tuple(ClassPrediction("key", one) for one in image)))
        for image in voices.transpose(1, 0, 2)
    ]
    assert ours == pytest.approx(theirs, **EXACT)


def test_core_set_chooses_the_same_images(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(120, 6)).astype(np.float32)
    answers = np.full(120, MISSING_LABEL)
    answers[:5] = 0
    theirs, _ = skactiveml.k_greedy_center(points, answers, batch_size=20, random_state=0)
    assert [5 + at for at in k_centres(points[5:], points[:5], 20)] == theirs.tolist()


def test_badge_draws_by_the_same_distances(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(80, 5)).astype(np.float32)
    answers = np.full(80, MISSING_LABEL)
    answers[:12] = np.arange(12) % 3
    model = SklearnClassifier(LogisticRegression(), classes=[0, 1, 2]).fit(points, answers)
    picks, utilities = skactiveml.Badge(random_state=seed).query(
        points, answers, model, fit_clf=False, batch_size=8, return_utilities=True
    )
    free = np.flatnonzero(np.isnan(answers))
    said = [ClassPrediction("key", one) for one in model.predict_proba(points[free]).astype(np.float32)]
    strategy = badge.build(badge.Options())
    residual = np.stack([strategy.describe(one) for one in said])
    norms = gradients.squared_norms(residual, points[free])
    assert norms / norms.sum() == pytest.approx(utilities[0][free], **EXACT)

    follow, chances = [int(np.flatnonzero(free == at)[0]) for at in picks], []

    def drawn(chance: np.ndarray, taken: list[int], _: Any) -> int:
        chances.append(chance)
        return follow[len(taken)]

    monkeypatch.setattr(gradients, "draw", drawn)
    assert gradients.seed_gradients(residual, points[free], 8, rng) == follow
    for row, chance in enumerate(chances, 1):
        # scikit-activeml counts the origin as one of the centres; BADGE's authors (`init_centers`) do not, nor do we
        nearest = np.minimum(chance, norms)
        open_ = ~np.isnan(utilities[row][free])
        assert (nearest / nearest.sum())[open_] == pytest.approx(utilities[row][free][open_], **EXACT)


def test_typicality(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(10 + 20 * seed, 4)).astype(np.float32)
    _, utilities = skactiveml.TypiClust(k=typicality.NEIGHBOURS, random_state=0).query(
        points, np.full(len(points), MISSING_LABEL), batch_size=1, return_utilities=True
    )
    assert typicality.typicality(points) == pytest.approx(utilities[0], **EXACT)


def test_herding_gains_the_same_at_each_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(150, 5)).astype(np.float32)
    answers = np.full(150, MISSING_LABEL)
    answers[:4] = 0
    sigma = 0.5 + 0.3 * seed
    _, utilities = skactiveml.MaxHerding(
        metric="rbf", metric_dict={"gamma": 0.5 / sigma**2}, normalize_samples=False, random_state=0
    ).query(points.astype(np.float64), answers, batch_size=25, return_utilities=True)
    free = points[4:]
    covered = coverage.kernel(points[:4], free, sigma).max(axis=0)
    gains = []
    for at in coverage.herd_exactly(free, free, np.ones(len(free)), points[:4], sigma, 25):
        near = coverage.kernel(free[at : at + 1], free, sigma)[0]
        gains.append(np.maximum(near - covered, 0).mean())
        covered = np.maximum(covered, near)
    # not the images: two that have only each other near are worth the same to the last digit
    assert gains == pytest.approx(np.nanmax(utilities, axis=1), **EXACT)
