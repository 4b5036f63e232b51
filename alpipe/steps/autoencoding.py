"""The autoencoder in the loop: how novel images are, embeddings for diversity, and encoders pretrained on the pool.

Each is made once from the images it depends on, named after their hash, and found again by later runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpipe.project import Project, autoencoder_options
from alpipe.protocols import ProgressCallback
from alpipe.steps import folders
from alpipe.types import ImageFit, Item, ItemState, Progress, Split

FORMAT = 1
"""Counts up when autoencoders and encoders made before no longer fit."""

if TYPE_CHECKING:
    from alpipe.learners.autoencoder.model import Autoencoder


def fits(project: Project, items: Sequence[Item], progress: ProgressCallback) -> Iterator[ImageFit]:
    """How badly each item fits the labelled images, by an autoencoder trained on these alone."""
    labelled = [example.item for example in project.store.annotations.examples(Split.POOL)]
    nats = _fitted(project, labelled, "labelled", progress).novelty(items)
    return (ImageFit(item.key, value) for item, value in zip(items, nats, strict=True))


def name_of_fit(project: Project) -> str:
    """Which labelled images the autoencoder of ``fits`` is of: values of different ones cannot be compared."""
    return _name(project, "labelled", [one.item for one in project.store.annotations.examples(Split.POOL)])


def name_of_pool(project: Project) -> str:
    """Which images the autoencoder of ``of_pool`` is of."""
    return _name(project, "pool", pool_images(project))


def of_pool(project: Project, progress: ProgressCallback) -> Autoencoder:
    """The autoencoder of all images of the pool, labelled or not."""
    return _fitted(project, pool_images(project), "pool", progress)


def pretrained_encoder(project: Project, progress: ProgressCallback) -> Path | None:
    """Weights for the learner's encoder, trained on all images of the pool without their labels; None where the
    project does not ask for it. Every training on the same pool starts from the same file.
    """
    if not project.config.pretrain:
        return None
    plugin, options = project.learner_plugin()
    items = pool_images(project)
    made_from = _hash(project, items, [project.config.learner.model_dump(mode="json"), format_of(plugin)])
    file = project.folder / "encoders" / f"{project.config.learner.name}-{made_from}.safetensors"
    if not file.is_file():
        checkpoints = project.folder / "checkpoints" / file.stem
        plugin.pretrain(
            options,
            replace(project.learner_context, logs=project.folder / "runs" / file.stem),
            items,
            file,
            settings=autoencoder_options(project.config),
            seed=project.config.seed,
            progress=_renamed("pretraining", progress),
            resume_from=checkpoints,
        )
        shutil.rmtree(checkpoints, ignore_errors=True)
    return file


def format_of(learner: Any) -> int:
    """Which form the models of a learner's module have; 1 where it does not say."""
    return int(getattr(getattr(learner, "DESIGN", None), "format", 1))


def pool_images(project: Project) -> list[Item]:
    """All readable images that may be trained on, in the order of their keys."""
    states = [state for state in ItemState if state is not ItemState.QUARANTINED]
    return sorted(project.store.items.list(states=states, split=Split.POOL), key=lambda item: item.key)


def _fitted(project: Project, items: Sequence[Item], of: str, progress: ProgressCallback) -> Autoencoder:
    from alpipe.learners.autoencoder import model as autoencoder  # only those who need it pay for its imports

    ordered = sorted(items, key=lambda item: item.key)
    name = _name(project, of, items)
    folder = project.folder / "autoencoders" / name
    if not folder.is_dir():
        checkpoints = project.folder / "checkpoints" / f"autoencoder-{name}"
        made = autoencoder.fit(
            ordered,
            autoencoder_options(project.config),
            replace(project.learner_context, logs=project.folder / "runs" / f"autoencoder-{name}"),
            seed=project.config.seed,
            progress=_renamed("training the autoencoder", progress),
            resume_from=checkpoints,
        )
        folders.save_whole(made, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return autoencoder.load(folder, project.learner_context)


def _name(project: Project, of: str, items: Sequence[Item]) -> str:
    return f"{of}-{_hash(project, sorted(items, key=lambda item: item.key), [])}"


def _hash(project: Project, items: Sequence[Item], more: list[object]) -> str:
    options = autoencoder_options(project.config).model_dump(mode="json")
    settings = [FORMAT, options, project.config.seed, [item.key for item in items], more]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _renamed(stage: str, progress: ProgressCallback) -> ProgressCallback:
    """The callback, told of another stage than ``train``."""
    return lambda now: progress(Progress(stage, now.done, now.total, now.detail))
