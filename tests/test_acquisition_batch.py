"""Noise, near-duplicates, groups and neighbours, and how a batch is made of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse.csgraph import connected_components

from alpipe import plugins
from alpipe.acquisition import coreset, random, strided
from alpipe.acquisition.batch import duplicates
from alpipe.acquisition.batch.duplicates import alike, difference_hash, distinct
from alpipe.acquisition.batch.noise import beta, noisy
from alpipe.acquisition.batch.options import BatchOptions, Noise
from alpipe.acquisition.batch.selection import Batch, Copies, choose_batch
from alpipe.acquisition.batch.spread import apart
from alpipe.acquisition.partners import top
from alpipe.acquisition.ranking.names import frame, natural
from alpipe.errors import ConfigError
from alpipe.plugins import Kind
from alpipe.protocols import Candidates, Labelled
from alpipe.types import Boxes, Example, Item

EMPTY = Boxes.none()


class Scored:
    """A strategy that has scored already."""

    def score(self, prediction: Any) -> float:
        return 0.0


def item(key: str, uri: str = "", group: str | None = None) -> Item:
    return Item(key, uri, 8, 8, group)


def candidates(scores: list[float], **more: Any) -> Candidates:
    return Candidates([item(f"k{n:04d}") for n in range(len(scores))], np.asarray(scores, np.float64), **more)


def batch(pool: Candidates, k: int, strategy: Any = None, seed: int = 0, **more: Any) -> Batch:
    options = BatchOptions(**more.pop("options", {}))
    partner = top.build(top.Options())
    rng = np.random.default_rng(seed)
    return choose_batch(strategy or Scored(), partner, pool, k, rng, options=options, **more)


# ── noise ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_beta_goes_from_first_to_last_by_equal_factors() -> None:
    noise = Noise(first=1, last=100, rounds=10)
    values = [beta(noise, round_) for round_ in range(13)]
    assert values[0] == values[1] == 1
    assert values[11] == values[12] == pytest.approx(100)
    steps = np.diff(np.log(values[1:12]))
    assert steps == pytest.approx(np.full(10, np.log(100) / 10))


@pytest.mark.parametrize(
    ("kind", "chances"),
    [
        ("power", lambda s, b: s**b),
        ("softmax", lambda s, b: np.exp(b * s)),
        ("softrank", lambda s, b: stats.rankdata(-s) ** -b),
    ],
)
@pytest.mark.parametrize("b", [0.5, 2.0])
def test_the_first_choice_has_the_chances_of_the_paper(kind: Any, chances: Any, b: float) -> None:
    scores = np.array([0.1, 0.5, 0.9, 0.3])
    noise, rng = Noise(kind=kind, first=b, last=b), np.random.default_rng(0)
    drawn = np.bincount([int(np.argmax(noisy(scores, noise, 1, rng))) for _ in range(4000)], minlength=4)
    expected = chances(scores, b)
    assert stats.chisquare(drawn, 4000 * expected / expected.sum()).pvalue > 0.001


def test_much_beta_leaves_the_largest_scores() -> None:
    pool = candidates([0.2, 0.9, 0.4, 0.8, 0.1])
    chosen = batch(pool, 2, options={"noise": {"first": 1e6, "last": 1e6}}).keys
    assert chosen == ["k0001", "k0003"]


def test_power_noise_on_negative_scores_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match="kind to softrank"):
        batch(candidates([-1.0, 2.0]), 1, options={"noise": {}})
    assert batch(candidates([-1.0, 2.0]), 1, options={"noise": {"kind": "softrank", "first": 1e6}}).keys == ["k0001"]


# ── near-duplicates ─────────────────────────────────────────────────────────────────────────────────────────────────


def reference(hashes: np.ndarray, order: list[int], radius: int, known: np.ndarray) -> list[bool]:
    kept, stays = [int(one) for one in known], [False] * len(hashes)
    for row in order:
        if all((int(hashes[row]) ^ other).bit_count() > radius for other in kept):
            kept.append(int(hashes[row]))
            stays[row] = True
    return stays


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 63), max_size=6)), max_size=40),
    st.integers(0, 8),
    st.integers(0, 5),
    st.integers(1, 9),
)
def test_those_that_stay_are_those_of_the_plain_greedy_rule(
    seeds: list[int], copies: list[tuple[int, set[int]]], radius: int, known: int, block: int
) -> None:
    hashes = np.array([seeds[at % len(seeds)] ^ sum(1 << bit for bit in bits) for at, bits in copies], np.uint64)
    order = np.random.default_rng(len(copies)).permutation(len(hashes))
    few, known_hashes = duplicates.FIRST_BLOCK, np.array(seeds[:known], np.uint64)
    duplicates.FIRST_BLOCK = block
    try:
        stays = distinct(hashes, order, radius, known_hashes)
    finally:
        duplicates.FIRST_BLOCK = few
    assert stays.tolist() == reference(hashes, order.tolist(), radius, known_hashes)


def test_pairs_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**20, 500, dtype=np.uint64)  # many agree in the bands of high bits
    order = rng.permutation(500)
    monkeypatch.setattr(duplicates, "PAIRS", 100)
    none = np.zeros(0, np.uint64)
    assert distinct(hashes, order, 3, none).tolist() == reference(hashes, order.tolist(), 3, none)


def test_a_smaller_brighter_copy_is_near_and_another_image_is_far() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        cv2.resize(rng.integers(0, 200, (12, 16, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    )
    copy = cv2.resize(one, (200, 150), interpolation=cv2.INTER_AREA) + np.uint8(30)
    near, far = ((int(difference_hash(one)) ^ int(difference_hash(with_))).bit_count() for with_ in (copy, other))
    assert near <= 4 < 15 < far


def test_of_near_duplicates_the_best_is_taken_and_none_like_a_labelled_one() -> None:
    hashes = np.array([0b0000, 0b0011, 0xFF00, 0xFF0F00, 0xFF0F01], np.uint64)
    copies = Copies(hashes, labelled=np.array([0xFF01], np.uint64))
    pool = candidates([0.5, 0.6, 0.9, 0.2, 0.1])
    made = batch(pool, 2, options={"near_duplicates": 2}, copies=copies)
    assert made.keys == ["k0001", "k0003"]
    assert made.counts == {"near_duplicates": 3}


def test_what_is_taken_already_is_not_chosen_and_its_near_copies_and_neighbours_wait() -> None:
    hashes = Copies(np.array([0b0, 0b1, 0xFF00, 0xFF0000], np.uint64))
    made = batch(candidates([0.9, 0.8, 0.2, 0.1]), 2, options={"near_duplicates": 2}, copies=hashes, taken=[1])
    assert made.keys == ["k0002", "k0003"]
    assert made.counts == {"near_duplicates": 1}
    frames = Candidates(video(6, 1), np.arange(6.0))
    assert batch(frames, 2, options={"spread": {"share": 6}}, taken=[5]).keys == ["0-003", "0-001"]
    everything = batch(
        candidates([0.9, 0.8]), 1, options={"near_duplicates": 2}, copies=Copies(hashes.hashes[:2]), taken=[0]
    )
    assert everything.keys == ["k0001"]
    with pytest.raises(ValueError, match="3 images asked for"):
        batch(candidates([0.9, 0.8]), 2, taken=[0])


@given(st.lists(st.integers(0, 31), min_size=1, max_size=20), st.integers(0, 2))
def test_alike_groups_are_the_chains_of_near_pairs(values: list[int], radius: int) -> None:
    hashes = np.array(values, np.uint64)
    near = np.array([[(a ^ b).bit_count() <= radius for b in values] for a in values])
    _, component = connected_components(near)
    groups = [np.flatnonzero(component == one).tolist() for one in np.unique(component)]
    assert alike(hashes, radius) == sorted(group for group in groups if len(group) > 1)


def test_what_was_set_aside_is_taken_when_the_rest_does_not_suffice() -> None:
    made = batch(candidates([0.5, 0.6, 0.9]), 3, options={"near_duplicates": 4}, copies=Copies(np.zeros(3, np.uint64)))
    assert made.keys == ["k0002", "k0001", "k0000"]
    assert made.counts == {"near_duplicates": 2, "taken_after_all": 2}


def test_near_duplicates_cannot_be_found_without_hashes() -> None:
    with pytest.raises(ValueError, match="not all were hashed"):
        batch(candidates([0.5, 0.6]), 1, options={"near_duplicates": 4})


# ── groups and neighbours ───────────────────────────────────────────────────────────────────────────────────────────


def test_names_are_read_as_people_read_them() -> None:
    assert sorted(["f10", "f9", "f1"], key=natural) == ["f1", "f9", "f10"]
    assert frame("/x/cam2_frame0034.b.png") == ("/x/cam2_frame", 34)
    assert frame("/x7/cat.png") is None


def video(frames: int, videos: int) -> list[Item]:
    return [item(f"{v}-{n:03d}", f"/v{v}/f{n}.jpg", f"v{v}") for v in range(videos) for n in range(frames)]


@given(st.integers(0, 4), st.integers(0, 5), st.lists(st.integers(0, 19), max_size=4))
def test_no_two_that_stay_are_within_the_distance_and_each_that_goes_has_a_reason(
    distance: int, seed: int, known: list[int]
) -> None:
    items = video(20, 2)
    labelled = [items[at] for at in known]
    order = np.random.default_rng(seed).permutation(40)
    stays = apart(items, order, distance, labelled)
    taken: list[Item] = list(labelled)
    for row in order:
        group, number = items[row].group, frame(items[row].uri)[1]
        near = any(one.group == group and abs(frame(one.uri)[1] - number) <= distance for one in taken)
        assert stays[row] == (not near)
        if stays[row]:
            taken.append(items[row])


def test_images_without_a_group_or_a_number_are_no_neighbours() -> None:
    items = [item("a", "/x/1.png"), item("b", "/x/2.png"), item("c", "/x/cat.png", "g"), item("d", "/x/dog.png", "g")]
    assert apart(items, np.arange(4), 5, []).all()


@pytest.mark.parametrize("strategy", [Scored(), random.build(random.Options()), coreset.build(coreset.Options())])
@pytest.mark.parametrize("seed", range(3))
def test_a_group_gets_no_more_than_its_share_of_any_choice(strategy: Any, seed: int) -> None:
    items = video(50, 4)
    rng = np.random.default_rng(seed)
    scores = np.repeat([9.0, 3.0, 2.0, 1.0], 50) + rng.random(200)  # the first video is the hardest by far
    pool = Candidates(items, scores, embeddings=rng.normal(size=(200, 3)).astype(np.float32))
    made = batch(pool, 12, strategy, seed, options={"spread": {"share": 1.5, "neighbours": 0}})
    counts = Counter(key[0] for key in made.keys)
    assert len(made.keys) == 12
    assert max(counts.values()) <= 5  # 1.5 × 12 / 4, rounded up
    if isinstance(strategy, Scored):
        assert counts == {"0": 5, "1": 5, "2": 2}


def test_a_group_that_is_full_leaves_the_rest_of_an_even_choice_even() -> None:
    items = [item(f"{at:03}", f"/x/{at:03}.png", f"v{at // 60:02}" if at < 60 else f"w{at:03}") for at in range(260)]
    pool = Candidates(items, np.zeros(260))
    made = batch(pool, 40, strided.build(strided.Options()), options={"spread": {"share": 1, "neighbours": 0}})
    chosen = sorted(int(key) for key in made.keys if int(key) >= 60)
    assert np.diff(chosen).max() <= 11
    assert len(made.keys) == 40


def test_where_the_best_lie_group_by_group_a_few_choices_make_the_batch() -> None:
    """A choice over a million images takes seconds: one for each group that is full would take hours."""
    pool = [item(f"{at:03}", group=f"v{at // 20:02}") for at in range(800)]
    asked: list[int] = []

    class Counting:
        def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
            asked.append(k)
            return top.build(top.Options()).choose(candidates, k, rng)

    of_all, options = Candidates(pool, np.linspace(1, 0, 800)), BatchOptions(spread={"share": 1, "neighbours": 0})
    made = choose_batch(Scored(), Counting(), of_all, 40, np.random.default_rng(0), options=options)
    assert made.keys == [f"{at:03}" for at in range(0, 800, 20)]
    assert len(asked) <= 6


def test_a_group_may_fill_the_batch_where_there_is_no_other() -> None:
    pool = Candidates(video(6, 1), np.arange(6.0))
    assert sorted(batch(pool, 6).keys) == [one.key for one in pool.items]


def test_neighbours_of_labelled_and_better_frames_wait() -> None:
    items = video(10, 1)
    pool = Candidates(items[1:], np.arange(9.0), labelled=Labelled([Example(items[0], EMPTY)]))
    made = batch(pool, 3, options={"spread": {"neighbours": 2}})
    assert made.keys == ["0-009", "0-006", "0-003"]
    assert made.counts == {"neighbours": 6}


# ── together ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 30), st.integers(0, 3), st.data())
def test_whatever_is_asked_for_k_different_images_come_and_a_seed_repeats(
    n: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    items = [item(f"{at:03d}", f"/v/f{at}.jpg", [None, "a", "b"][at % 3]) for at in range(n)]
    pool = Candidates(items, rng.random(n), embeddings=rng.normal(size=(n, 2)).astype(np.float32))
    options = {
        "near_duplicates": data.draw(st.sampled_from([False, 0, 2])),
        "noise": data.draw(st.sampled_from([False, {}, {"kind": "softmax"}, {"kind": "softrank"}])),
        "spread": data.draw(st.sampled_from([False, {}, {"share": 1, "neighbours": 5}])),
        "partner": data.draw(st.sampled_from(sorted(plugins.available(Kind.PARTNER)))),
    }
    partner = plugins.load(Kind.PARTNER, options["partner"])
    copies = Copies(rng.integers(0, 8, n, dtype=np.uint64))
    k = data.draw(st.integers(0, n))
    first, again = (
        choose_batch(
            Scored(),
            partner.build(partner.Options()),
            pool,
            k,
            np.random.default_rng(seed),
            options=BatchOptions(**options),
            copies=copies,
        ).keys
        for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == len(first) == k


def test_a_chooser_that_names_others_than_it_was_asked_for_is_refused() -> None:
    class Stubborn(Scored):
        def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
            return [candidates.items[0].key] * k

    with pytest.raises(ValueError, match="asked for 2 different images of 3, it named 1"):
        batch(candidates([0.1, 0.2, 0.3]), 2, Stubborn())


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"near_duplicates": 40}, "false or 0 to 16"),
        ({"near_duplicates": True}, "false or 0 to 16"),
        ({"noise": {"kind": "pwer"}}, "power"),
        ({"partner": {"per_image": 3}}, "name is missing"),
        ({"spred": {}}, "spred"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BatchOptions(**given_)
