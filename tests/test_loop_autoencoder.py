"""The autoencoder in the loop: novelty, embeddings for diversity, and encoders pretrained on the pool."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alpipe.errors import ConfigError
from alpipe.loop import advance
from alpipe.project import Project, check_plugins
from alpipe.steps import autoencoding
from alpipe.types import Item, ItemState, Split, Task
from tests.conftest import MakeProject, Ran

TINY: dict[str, Any] = {"autoencoder": {"steps": 3, "image_size": 16, "latent": 4, "width": 8, "batch_size": 4}}


def made(project: Project, folder: str) -> list[Path]:
    return sorted(project.folder.joinpath(folder).glob("[!.]*"))


def facts_of(project: Project, model: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((project.models / model / "model.json").read_text())["facts"]
    return facts


@pytest.mark.parametrize("task", list(Task))
def test_novelty_scores_the_pool_by_the_labelled_images(make_project: MakeProject, task: Task) -> None:
    project = make_project(task, strategy="novelty", **TINY)
    advance(project, rounds=2)
    rounds = [row for row in project.store.rounds.list() if row.model]
    (fitted, *_) = [path.name for path in made(project, "autoencoders")]
    found = [
        project.store.scores.of(f"{row.model}/novelty() of {path.name}")
        for row in rounds
        for path in made(project, "autoencoders")
    ]
    (scores, *_) = [some for some in found if some]
    assert len({score.value for score in scores}) == len(scores) > 0
    assert "labelled" in fitted


def test_an_autoencoder_is_fitted_once_for_the_same_images(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, strategy="novelty", **TINY)
    advance(project, rounds=1)
    pool = project.store.items.list(states=[ItemState.UNLABELLED], split=Split.POOL)
    told: list[str] = []
    first = list(autoencoding.fits(project, pool, lambda now: told.append(now.stage)))
    assert "training the autoencoder" in told
    told.clear()
    assert list(autoencoding.fits(project, pool, lambda now: told.append(now.stage))) == first
    assert told == []


def test_distances_may_be_measured_in_the_autoencoders_embeddings(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, strategy="coreset", embeddings="vae", **TINY)
    result = advance(project, rounds=2)
    assert any("selected" in line for line in result.done)
    assert [path.name.split("-")[0] for path in made(project, "autoencoders")] == ["pool"]


@pytest.mark.parametrize("task", list(Task))
def test_every_training_starts_from_the_same_pretrained_encoder(make_project: MakeProject, task: Task) -> None:
    project = make_project(task, pretrain=True, **TINY)
    advance(project, rounds=2)
    models = [row.model for row in project.store.rounds.list() if row.model]
    assert len(made(project, "encoders")) == 1
    assert all(facts_of(project, model)["pretrained"] for model in models)


def test_without_pretraining_the_encoder_starts_at_random(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    advance(project, rounds=1)
    advance(project, rounds=1)
    (model, *_) = [row.model for row in project.store.rounds.list() if row.model]
    assert not facts_of(project, model)["pretrained"]
    assert made(project, "encoders") == []


def test_nothing_held_out_is_pretrained_on(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    from alpipe.learners.autoencoder import encoders

    seen: list[Item] = []
    real = encoders.pretrain.pretrain

    def spy(encoder: Any, channels: int, items: list[Item], *rest: Any, **more: Any) -> Any:
        seen.extend(items)
        return real(encoder, channels, items, *rest, **more)

    monkeypatch.setattr(encoders.pretrain, "pretrain", spy)
    project = make_project(Task.CLASSIFY, pretrain=True, **TINY)
    advance(project, rounds=1)
    advance(project, rounds=1)
    assert {item.key for item in seen} == {item.key for item in project.store.items.list(split=Split.POOL)}
    assert project.store.items.counts(Split.HOLDOUT)


def test_a_learner_without_an_encoder_cannot_be_pretrained(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alpipe.learners import cnn

    project = make_project(Task.CLASSIFY, pretrain=True, **TINY)
    monkeypatch.delattr(cnn, "pretrain")
    with pytest.raises(ConfigError, match="'cnn' has no encoder to pretrain; set pretrain: false"):
        check_plugins(project.config)


def test_faults_in_the_autoencoders_options_are_named(alpipe: Callable[..., Ran], tmp_path: Path) -> None:
    assert alpipe("init", tmp_path / "p", "--task", "classify", "--labels", "a,b").status == 0
    config = tmp_path / "p" / "alpipe.yaml"
    config.write_text(config.read_text() + "autoencoder: {latents: 3}\n")
    ran = alpipe("-C", tmp_path / "p", "doctor")
    assert "autoencoder: unknown option 'latents' (did you mean 'latent'?)" in " ".join(ran.out.split())
