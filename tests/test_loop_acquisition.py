"""Strategies and partners in the loop: scanned, kept, chosen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from PIL import Image

from alpipe import config as configuration
from alpipe.acquisition.batch.duplicates import difference_hash
from alpipe.errors import ConfigError, PluginError, StoreError
from alpipe.loop import advance
from alpipe.pool import ingest
from alpipe.pool.database import Database
from alpipe.pool.store import PoolStore
from alpipe.project import Project, check_plugins
from alpipe.protocols import no_progress
from alpipe.steps import candidates
from alpipe.steps.acquire import scan_name
from alpipe.steps.candidates import Wanted, gather
from alpipe.steps.mirroring import scan_mirrored, turned_back
from alpipe.types import BoxPrediction, Item, ItemState, MapPrediction, Score, Split, Task
from tests.conftest import TINY, MakeProject

AUTOENCODER = {"autoencoder": {"steps": 3, "image_size": 16, "latent": 4, "width": 8, "batch_size": 4}}


def chosen(project: Project) -> dict[str, str]:
    """The last batch that a model chose, with the reasons."""
    batches = [project.store.rounds.selected(row.number) for row in project.store.rounds.list() if row.model]
    return [batch for batch in batches if batch][-1]


@pytest.mark.parametrize(
    ("task", "strategy", "more"),
    [
        (Task.DETECT, "quota_entropy", {"batch_with": {"noise": {}}}),
        (Task.DETECT, "difficulty_entropy", {"batch_with": {"partner": {"name": "kmedoids", "per_image": 2}}}),
        (Task.DETECT, "flip_consistency", {}),
        (Task.CLASSIFY, "badge", {}),
        (Task.CLASSIFY, "flip_consistency", {"batch_with": {"partner": "stochastic"}}),
        (Task.SEGMENT, "entropy_per_second", {"batch_with": {"partner": "herding"}}),
        (Task.SEGMENT, "expected_dice", {}),
        (Task.SEGMENT, "balanced_random", {}),
        (Task.SEGMENT, "flip_consistency", {}),
    ],
)
def test_a_batch_is_chosen_by_what_was_scored(
    make_project: MakeProject, task: Task, strategy: str, more: dict[str, Any]
) -> None:
    project = make_project(task, strategy=strategy, **more)
    advance(project, rounds=2)
    batch = chosen(project)
    assert len(batch) == 4
    assert all(reason.startswith(f"{strategy} ") and " rank " in reason for reason in batch.values())


def test_what_a_strategy_keeps_beside_a_score_is_computed_once(make_project: MakeProject) -> None:
    project = make_project(Task.DETECT, strategy="quota_entropy")
    advance(project, rounds=2)
    (scan,) = {scan_name(project, row) for row in project.store.rounds.list() if row.counts.get("scored")}
    keys = [score.key for score in project.store.scores.of(scan)]
    kept = project.store.scores.features(scan, keys)
    assert kept.shape == (len(keys), len(project.classes))
    backwards = project.store.scores.features(scan, keys[::-1])
    assert np.array_equal(backwards[::-1], kept)


def test_an_image_is_embedded_once_by_a_model(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(Task.CLASSIFY, strategy="coreset", **AUTOENCODER)
    advance(project, rounds=2)
    row = [row for row in project.store.rounds.list() if row.model][-1]
    pool = project.store.items.list(states=ItemState.UNLABELLED, split=Split.POOL)
    wanted = Wanted(None, row.model, embeddings=True)
    first = gather(project, pool, wanted, no_progress)
    assert first.embeddings is not None
    assert len(first.embeddings) == len(pool)
    embedded: list[str] = []

    class Watched:
        def embed(self, items: Any) -> Any:
            embedded.extend(item.key for item in items)
            return first.embeddings[: len(items)]

    monkeypatch.setattr(Project, "model", lambda *_: Watched())
    again = gather(project, pool, wanted, no_progress)
    assert not embedded
    assert np.array_equal(again.embeddings, first.embeddings)
    assert np.array_equal(again.labelled.embeddings, first.labelled.embeddings)
    other = sorted(pool, key=lambda item: item.key)[0]
    project.store.embeddings.put("another model", [other.key], np.zeros((1, 3), np.float32))
    gather(project, pool, wanted, no_progress)
    assert embedded == [other.key]


def test_embedding_goes_on_where_it_was_stopped(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(Task.CLASSIFY, strategy="coreset", **AUTOENCODER)
    pool = sorted(project.store.items.list(states=ItemState.UNLABELLED, split=Split.POOL), key=lambda item: item.key)
    monkeypatch.setattr(candidates, "EMBEDDED", 4)
    seen: list[str] = []

    class Stopped:
        def embed(self, items: Any) -> Any:
            if len(seen) == 4:
                raise KeyboardInterrupt
            seen.extend(item.key for item in items)
            return np.array([[int(item.key[:4], 16), 1] for item in items], np.float32)

    monkeypatch.setattr(Project, "model", lambda *_: Stopped())
    wanted = Wanted(None, "some-model", embeddings=True)
    with pytest.raises(KeyboardInterrupt):
        gather(project, pool, wanted, no_progress)
    assert seen == [item.key for item in pool[:4]]
    seen.append("of the second run")
    found = gather(project, pool, wanted, no_progress)
    assert seen[5:] == [item.key for item in pool[4:]]
    assert found.embeddings is not None
    assert found.embeddings[:, 0].tolist() == [int(item.key[:4], 16) for item in pool]


@pytest.mark.parametrize(
    ("first", "reason"), [("random", "at random"), ("strided", "by strided"), ("herding", "by herding")]
)
def test_the_first_batch_is_chosen_without_a_model(make_project: MakeProject, first: str, reason: str) -> None:
    project = make_project(Task.CLASSIFY, cold_start=first, **AUTOENCODER)
    advance(project, rounds=1)
    assert [*project.store.rounds.selected(0).values()] == [f"chosen {reason}: there is no model yet"] * 4


def test_near_duplicates_of_the_chosen_wait_and_are_hashed_once(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=8, batch=6, batch_with={"near_duplicates": 4})
    folder = tmp_path / "copies"
    folder.mkdir()
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 220, (8, 9, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    for n in range(12):
        Image.fromarray(picture + np.uint8(n)).save(folder / f"{n}.png")
    ingest.add(project.store, [folder])
    copies = {item.key for item in project.store.items.list() if Path(item.uri).parent == folder}
    told: list[str] = []
    advance(project, rounds=1, tell=told.append)
    batch = project.store.rounds.selected(0)
    assert len(batch) == 6
    assert len(copies & {*batch}) == 1
    assert any("11 near duplicates" in line for line in told)
    pool = project.store.items.list(split=Split.POOL)
    known = project.store.fingerprints.get(item.key for item in pool)
    assert {item.key for item in pool} == {*known}
    assert all(
        known[item.key] == int(difference_hash(np.asarray(Image.open(item.path).convert("RGB")))) for item in pool
    )


def test_no_group_fills_a_batch_while_there_are_others(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, batch=8)
    rng = np.random.default_rng(0)
    for video in range(3):
        folder = tmp_path / f"video{video}"
        folder.mkdir()
        for n in range(20):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"f{n}.png")
        ingest.add(project.store, [folder], group_of=lambda path: path.parent.name)
    advance(project, rounds=1)
    batch = project.store.items.list(keys=project.store.rounds.selected(0))
    groups = Counter(item.group for item in batch if item.group)
    # 60 frames of three videos beside some 20 images by themselves: by chance six of eight would be frames
    assert max(groups.values()) == 1


# ── mirror images ───────────────────────────────────────────────────────────────────────────────────────────────────


class Sees:
    """A model that finds one box around whatever is bright."""

    def scan(self, items: Any) -> Any:
        for item in items:
            columns = np.flatnonzero(np.asarray(Image.open(item.uri).convert("L")).max(axis=0) > 128)
            box = np.array([[columns[0], 0, columns[-1] + 1, item.height]], np.float32)
            one = np.ones(1, np.float32)
            yield BoxPrediction(item.key, box, one, one[None], np.zeros(1, np.int64))


def test_a_mirrored_image_is_seen_and_turned_back(tmp_path: Path) -> None:
    picture = np.zeros((20, 50), np.uint8)
    picture[:, 5:12] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    item = Item("a" * 20, str(tmp_path / "a.png"), 50, 20)
    (seen,) = scan_mirrored(Sees(), [item])  # type: ignore[arg-type]
    assert seen.plain.xyxy.tolist() == seen.mirrored.xyxy.tolist() == [[5, 0, 12, 20]]


def test_a_map_is_turned_back() -> None:
    probs = np.zeros((2, 2, 3), np.float32)
    probs[1, :, 0] = 1
    back = turned_back(MapPrediction("k", probs, (30, 20)), 30)
    assert back.probs[1].tolist() == [[0, 0, 1], [0, 0, 1]]


# ── what is refused before anything starts ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"strategy": "coreset", "batch_with": {"partner": "herding"}}, "'coreset' makes its batch by itself"),
        ({"batch_with": {"partner": "herdng"}}, "unknown partner 'herdng'; did you mean herding"),
        ({"batch_with": {"partner": {"name": "kmedoids", "per_imag": 2}}}, "did you mean 'per_image'"),
        ({"batch_with": {"near_duplicate": 4}}, "batch_with: unknown option 'near_duplicate'.*near_duplicates"),
        ({"cold_start": "entropy"}, "cold_start: strategy 'entropy' needs a model's predictions; use .*herding"),
        ({"strategy": "badge"}, "'badge' is for classify, not for detect; use .*entropy"),
        ({"strategy": "bald"}, "set its option samples to 20"),
    ],
)
def test_a_choice_that_cannot_work_is_refused_at_once(values: dict[str, Any], said: str) -> None:
    given = {"name": "test", "task": "detect", "labels": ["a"], "learner": TINY[Task.DETECT], **values}
    with pytest.raises((ConfigError, PluginError), match=said) as caught:
        check_plugins(configuration.parse(given, "test"))
    assert "\n" not in str(caught.value)


# ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_of_the_first_version_keeps_its_scores(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'pool.db'}"
    database = Database(url)
    settings = AlembicConfig()
    settings.set_main_option("script_location", "alpipe.pool:migrations")
    settings.set_main_option("path_separator", "os")
    with database.write() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
        connection.exec_driver_sql(
            "INSERT INTO items"
            " (key, uri, width, height, split, state, format, mode, orientation, frames, note, added_at)"
            " VALUES ('k', '/k', 1, 1, 'pool', 'unlabelled', '', '', 1, 1, '', '2026-01-01')"
        )
        connection.exec_driver_sql("INSERT INTO scores (model, item_key, value) VALUES ('m', 'k', 0.5)")
    database.close()
    with PoolStore.open(url) as store:
        assert store.scores.of("m") == [Score("k", 0.5)]
        with pytest.raises(StoreError, match="lack descriptions"):
            store.scores.features("m", ["k"])
        store.scores.put("m", [Score("k", 0.25)], [np.array([1, 2], np.float32)])
        assert store.scores.features("m", ["k"]).tolist() == [[1, 2]]
        assert store.items.list(states=ItemState.UNLABELLED)
        store.fingerprints.put({"k": 2**64 - 1})
        assert store.fingerprints.get(["k"]) == {"k": 2**64 - 1}
        store.embeddings.put("m", ["k"], np.array([[1, 2]], np.float32))
        assert store.embeddings.of("m", ["k"]).tolist() == [[1, 2]]
        assert store.embeddings.missing("m", ["k"]) == []
        store.embeddings.put("n", ["k"], np.array([[3]], np.float32))
        assert store.embeddings.missing("m", ["k"]) == ["k"]
        with pytest.raises(StoreError, match="'m' are not there"):
            store.embeddings.of("m", ["k"])
