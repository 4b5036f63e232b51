"""From which score on what a model finds is labelled often enough."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alpipe.mining.findings import Findings
from alpipe.mining.trust import NEIGHBOURS, Trust, shares

FLAGS = st.lists(st.booleans(), max_size=150)


def found(scores: list[float], labelled: list[bool], apart: float = 10.0) -> Findings:
    """Findings side by side, each on a labelled object or on none."""
    left = apart * np.arange(len(scores), dtype=np.float32)
    overlap = np.where(labelled, 0.9, 0.0).astype(np.float32)
    xyxy = np.stack([left, 0 * left, left + 8, 0 * left + 8], axis=1)
    return Findings(xyxy, np.array(scores, np.float32), np.zeros(len(scores), np.int64), overlap, overlap)


def trusted(scores: list[float], labelled: list[bool], least: float = 0.0) -> float:
    trust = Trust()
    trust.add(found(scores, labelled), least)
    return trust.score()


@given(FLAGS)
def test_a_share_is_the_mean_over_the_neighbours_in_order_of_score(flags: list[bool]) -> None:
    windows = [flags[max(0, at - NEIGHBOURS) : at + NEIGHBOURS + 1] for at in range(len(flags))]
    np.testing.assert_allclose(shares(np.array(flags, bool)), [np.mean(window) for window in windows])


@given(FLAGS, st.integers(0, 2**32 - 1))
def test_only_the_order_of_scores_counts(flags: list[bool], seed: int) -> None:
    scores = np.sort(np.random.default_rng(seed).permutation(1000)[: len(flags)] / 1000)[::-1]
    low, high = trusted((scores / 4).tolist(), flags), trusted(((3 + scores) / 4).tolist(), flags)
    assert low == high == np.inf or np.isclose(4 * low, 4 * high - 3, atol=1e-5)


def test_scores_are_trusted_down_to_where_a_quarter_of_what_is_found_is_labelled() -> None:
    labelled = [True] * 200 + [False, False, True] * 30 + [False] * 200
    scores = np.linspace(0.9, 0.1, len(labelled)).tolist()
    assert abs(trusted(scores, labelled) - scores[290]) < 20 * (scores[0] - scores[1])


def test_a_model_that_is_surest_of_what_is_not_labelled_is_trusted_nowhere() -> None:
    assert trusted([0.9, 0.8], [False, False]) == np.inf
    assert trusted([], []) == np.inf


def test_of_several_findings_at_a_place_the_surest_counts_and_what_lies_between_does_not() -> None:
    trust = Trust()
    trust.add(found([0.9, 0.8, 0.7], [True, False, False], apart=0.5), 0.0)
    assert trust.score() == np.float32(0.9)
    half = found([0.9, 0.8], [True, False])
    half.covered[1] = half.iou[1] = 0.4  # badly placed, neither an object nor none
    beside = Trust()
    beside.add(half, 0.0)
    assert beside.score() == np.float32(0.9)


def test_what_is_too_faint_to_be_mined_is_not_looked_at() -> None:
    assert trusted([0.9, 0.2, 0.1], [True, False, False], least=0.3) == np.float32(0.9)
