"""Core-set selection: k-centre greedy against a plain reference, and against the best centres there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alpipe.acquisition import coreset
from alpipe.acquisition.ranking import centres
from alpipe.acquisition.ranking.centres import k_centres
from alpipe.protocols import Candidates, Labelled
from alpipe.types import Item

Points = npt.NDArray[np.float32]


@st.composite
def points_and_centres(draw: st.DrawFn) -> tuple[Points, Points | None, int]:
    """Points on a small grid, so that copies and equal distances are common and arithmetic is exact."""
    dimensions = draw(st.integers(1, 3))
    numbers = st.integers(-3, 3).map(float)
    points = draw(arrays(np.float32, (draw(st.integers(1, 9)), dimensions), elements=numbers))
    first = draw(st.none() | arrays(np.float32, (draw(st.integers(0, 4)), dimensions), elements=numbers))
    return points, first, draw(st.integers(0, len(points)))


def distances(points: Points, others: Points) -> npt.NDArray[np.float64]:
    return np.linalg.norm(points[:, None].astype(np.float64) - others[None], axis=2)


def reference(points: Points, first: Points | None, k: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(k):
        taken = points[chosen] if first is None else np.concatenate([first, points[chosen]])
        left = [at for at in range(len(points)) if at not in chosen]
        radius = [distances(points[at : at + 1], taken).min(initial=np.inf) for at in left]
        chosen.append(left[int(np.argmax(radius))])
    return chosen


@given(points_and_centres())
def test_it_is_the_greedy_rule(given_: tuple[Points, Points | None, int]) -> None:
    assert k_centres(*given_) == reference(*given_)


@given(points_and_centres())
def test_the_radius_is_at_most_twice_the_best(given_: tuple[Points, Points | None, int]) -> None:
    points, first, k = given_
    start = np.zeros((0, points.shape[1]), np.float32) if first is None else first
    if not k and not len(start):
        return
    chosen = k_centres(points, first, k)
    radius = distances(points, np.concatenate([start, points[chosen]])).min(axis=1).max()
    best = min(
        distances(points, np.concatenate([start, points[list(some)]])).min(axis=1).max()
        for some in combinations(range(len(points)), k)
    )
    assert radius <= 2 * best + 1e-6


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points, first = rng.normal(size=(101, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    whole = k_centres(points, first, 20)
    monkeypatch.setattr(centres, "BLOCK", 15)
    assert k_centres(points, first, 20) == whole == reference(points, first, 20)


def test_screening_by_products_changes_nothing_where_points_lie_far_out() -> None:
    """Near points far from the origin: products of float32 cannot tell them apart, differences can."""
    rng = np.random.default_rng(3)
    points = (1000 + rng.normal(size=(300, 4)) * 0.05).astype(np.float32)
    points = np.concatenate([points, points[:40]])
    first = points[[5, 9]] + np.float32(0.001)
    assert k_centres(points, first, 30) == reference(points, first, 30)


def test_each_cluster_gets_one_and_the_labelled_one_none() -> None:
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [100, 0], [0, 100], [100, 100]], np.float32)
    embeddings = np.concatenate([corner + rng.normal(size=(10, 2)) for corner in corners]).astype(np.float32)
    items = [Item(f"item{n:02d}", "", 1, 1) for n in range(40)]
    pool = Candidates(items, np.zeros(40), embeddings=embeddings, labelled=Labelled(embeddings=corners[:1]))
    for seed in range(5):
        chosen = coreset.build(coreset.Options()).choose(pool, 3, np.random.default_rng(seed))
        assert sorted(int(key[4:]) // 10 for key in chosen) == [1, 2, 3]
