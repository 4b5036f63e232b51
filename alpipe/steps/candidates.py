"""What a batch is chosen from: the unlabelled images, with all that strategies and batch partners ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpipe import images
from alpipe.acquisition.batch.duplicates import Hashes, difference_hash
from alpipe.acquisition.batch.selection import Copies
from alpipe.pool.database import chunks
from alpipe.project import Project
from alpipe.protocols import Candidates, Labelled, Model, ProgressCallback
from alpipe.steps import autoencoding
from alpipe.types import Item, ItemState, Progress, Split

CHOSEN = (ItemState.SELECTED, ItemState.PUSHED, ItemState.LABELLED, ItemState.EMPTY)
"""Of near-copies of these nothing more would be learnt."""

HASHED = 256
"""Hashes written at once."""


Embed = Callable[[Iterable[Item]], npt.NDArray[np.float32]]

EMBEDDED = 256
"""Images embedded, and their embeddings written, at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """``scan`` is the name under which the pool's scores are filed (None: there are none, and all are 0); ``model``
    the round's, if any; ``features`` and ``embeddings`` say whether these are asked for.
    """

    scan: str | None
    model: str | None
    features: bool = False
    embeddings: bool = False


def gather(project: Project, pool: Sequence[Item], wanted: Wanted, progress: ProgressCallback) -> Candidates:
    """The scored ones of the pool as candidates; raises ValueError for values that are not finite."""
    items = sorted(pool, key=lambda item: item.key)
    scores: npt.NDArray[np.float64] = np.zeros(len(items))
    features = None
    if wanted.scan is not None:
        value = dict(project.store.scores.of(wanted.scan, [item.key for item in items]))
        items = [item for item in items if item.key in value]
        scores = np.array([value[item.key] for item in items], np.float64)
        if wanted.features:
            features = project.store.scores.features(wanted.scan, [item.key for item in items])
    examples = project.store.annotations.examples(Split.POOL)
    model = project.model(wanted.model) if wanted.model is not None else None
    embeddings = known = None
    if wanted.embeddings:
        name, load = _embedder(project, str(wanted.model), model, progress)
        embeddings = _embed(project, name, load, items, progress)
        labelled_items = [example.item for example in examples]
        known = _embed(project, name, load, labelled_items, progress) if examples else embeddings[:0]
    answers = project.store.annotations.latest(split=Split.POOL)
    labelled = Labelled(
        examples=examples,
        embeddings=known,
        seconds={key: answer.lead_time for key, answer in answers.items() if answer.lead_time},
        classes=project.classes,
        scan=lambda: iter(()) if model is None else model.scan([example.item for example in examples]),
    )
    return Candidates(items, scores, features, embeddings, labelled)


def copies(project: Project, items: Sequence[Item], progress: ProgressCallback) -> Copies:
    """The hashes of the items and of the images chosen before. Each image is read for it once in its life."""
    chosen = project.store.items.list(states=CHOSEN, split=Split.POOL)
    hashes = hashes_of(project, [*items, *chosen], progress)
    return Copies(hashes[: len(items)], hashes[len(items) :])


def hashes_of(project: Project, everything: Sequence[Item], progress: ProgressCallback) -> Hashes:
    """The hashes of the items, in their order; those that were not known are computed, and kept."""
    known = project.store.fingerprints.get(item.key for item in everything)
    missing = [item for item in everything if item.key not in known]
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hash") as workers:
        for block in chunks(missing, HASHED):
            done = len(known)
            known |= zip([item.key for item in block], map(int, workers.map(_hash, block)), strict=True)
            project.store.fingerprints.put({item.key: known[item.key] for item in block})
            progress(Progress("looking for near-duplicates", done + len(block), len(everything)))
    return np.array([known[item.key] for item in everything], np.uint64)


def _hash(item: Item) -> np.uint64:
    return difference_hash(images.read(item.path))


def _embedder(
    project: Project, name: str, model: Model | None, progress: ProgressCallback
) -> tuple[str, Callable[[], Embed]]:
    """The name under which embeddings are filed, and what gives the function that embeds, loaded only when needed."""
    if model is None or project.config.embeddings == "vae":
        return autoencoding.name_of_pool(project), lambda: autoencoding.of_pool(project, progress).embed
    return name, lambda: model.embed


def _embed(
    project: Project, name: str, load: Callable[[], Embed], items: Sequence[Item], progress: ProgressCallback
) -> npt.NDArray[np.float32]:
    """The items' embeddings, in their order. Those there are are found again: a run that was stopped goes on."""
    keys = [item.key for item in items]
    missing = {*project.store.embeddings.missing(name, keys)}
    if missing:
        embed, done = load(), len(items) - len(missing)
        for block in chunks((item for item in items if item.key in missing), EMBEDDED):
            vectors = embed(block)
            if not np.isfinite(vectors).all():
                raise ValueError(f"{name} embeds images as values that are not finite")
            project.store.embeddings.put(name, [item.key for item in block], vectors)
            done += len(block)
            progress(Progress("embedding", done, len(items)))
    return project.store.embeddings.of(name, keys)
