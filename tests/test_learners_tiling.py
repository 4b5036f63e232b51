"""Images seen in overlapping tiles, as the U-Net++ sees those larger than one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpipe.learners import unetpp
from alpipe.learners.nets.nested import NestedUNet
from alpipe.learners.training import inference, tiling
from alpipe.learners.training.tiling import Tiling, join, tiles
from alpipe.types import Item, MapPrediction, Task
from tests.test_learners import Bench
from tests.test_learners_unetpp import CPU, fitted, net_of


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 8), st.integers(0, 64), st.sampled_from([1, 4, 16]))
def test_tiles_cover_an_image_and_weigh_one_at_each_pixel(
    height: int, width: int, side: int, overlap: int, multiple: int
) -> None:
    how = Tiling(side * 16, min(overlap, side * 8))
    total = np.zeros((height, width))
    for tile in tiles(height, width, how, multiple):
        for span, length in ((tile.rows, height), (tile.columns, width)):
            assert 0 <= span.start < span.stop <= min(length, span.start + how.side)
            assert span.start % multiple == 0
            assert (span.weights >= 0).all()
        total[tile.where] += np.outer(tile.rows.weights, tile.columns.weights)
    np.testing.assert_allclose(total, 1, atol=1e-5)


@given(st.integers(65, 700), st.integers(0, 32))
def test_neighbouring_tiles_share_the_overlap_and_a_tile_weighs_nothing_at_its_own_edges(
    length: int, overlap: int
) -> None:
    rows = [tile.rows for tile in tiles(length, 1, Tiling(64, overlap), 8)]
    for before, after in pairwise(rows):
        assert before.stop - after.start >= overlap
        quarter = overlap // 4
        assert not after.weights[:quarter].any()
        assert not before.weights[len(before.weights) - quarter :].any()


def stream_all(items: list[Item], run: Any, how: Tiling | None) -> list[Any]:
    return list(inference.stream(items, 1 << 20, 2, inference.Compute(CPU, torch.float32), run, how))


def segmenter(net: NestedUNet, seen: list[tuple[int, ...]]) -> Any:
    def run(images: torch.Tensor, batch: Any) -> list[MapPrediction]:
        seen.append(tuple(images.shape))
        return unetpp.every_head(net, images, batch, None)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("size", [(150, 40), (97, 131), (33, 57), (64, 200)])
def test_a_tiled_prediction_is_that_of_the_whole_image(tmp_path: Path, size: tuple[int, int]) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    net = net_of((4, 4))  # at depth 1 no pixel looks further than 13 pixels
    item = bench.example(0, "red", size).item
    tile_sizes: list[tuple[int, ...]] = []
    (whole,) = stream_all([item], segmenter(net, []), None)
    (tiled,) = stream_all([item], segmenter(net, tile_sizes), Tiling(64, 56))
    assert whole.probs.shape == tiled.probs.shape == (2, size[1], size[0])
    np.testing.assert_allclose(tiled.probs, whole.probs, atol=1e-5)
    np.testing.assert_allclose(tiled.members[0].probs, whole.members[0].probs, atol=1e-5)
    assert tiled.size == size
    assert max(shape[0] * shape[2] * shape[3] for shape in tile_sizes) <= 64 * 64


def test_images_within_a_tile_are_seen_whole_beside_larger_ones(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    items = [bench.example(at, "red", size).item for at, size in enumerate([(40, 40), (100, 30), (64, 64), (30, 70)])]
    seen: list[tuple[int, ...]] = []
    found = stream_all(items, segmenter(net_of((4, 4)), seen), Tiling(64, 16))
    assert [one.item_key for one in found] == [item.key for item in items]
    assert (1, 3, 40, 40) in seen
    assert (1, 3, 64, 64) in seen


def test_huge_maps_are_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tiling, "HALF_FROM", 1000)
    item = Bench("unetpp", Task.SEGMENT, tmp_path).example(0, "red", (100, 70)).item
    (whole,), (tiled,) = (stream_all([item], segmenter(net_of((4, 4)), []), how) for how in (None, Tiling(64, 60)))
    assert tiled.probs.dtype == np.float16
    np.testing.assert_allclose(tiled.probs.astype(np.float32), whole.probs, atol=3e-3)


def test_embeddings_of_tiles_are_averaged_by_their_area() -> None:
    parts = tiles(10, 97, Tiling(64, 0), 32)
    values = [np.array([1.0, 2.0], np.float32), np.array([4.0, 8.0], np.float32)]
    mean = (64 * 1 + 33 * 4) / 97
    np.testing.assert_allclose(join(zip(parts, values, strict=True), 10, 97), [mean, 2 * mean], rtol=1e-6)


def test_a_model_for_full_size_tiles_what_is_larger_than_a_tile(tmp_path: Path) -> None:
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    model = fitted(bench, 0, image_size="full", tile=64, overlap=32)
    item = bench.example(0, "red", (301, 150)).item
    (found,) = model.scan([item])
    assert found.probs.shape == (3, 150, 301)
    assert len(found.members) == 2
    np.testing.assert_allclose(found.probs.sum(axis=0), 1, atol=1e-5)
    assert model.embed([item]).shape == (1, 8)
