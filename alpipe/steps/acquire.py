"""The steps that choose what to label: score the unlabelled pool, select a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from alpipe.errors import TrainingError
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, Scanner
from alpipe.steps import autoencoding
from alpipe.steps.models import counted, hash_of
from alpipe.steps.outcome import Done, Outcome, Waiting
from alpipe.types import ImageFit, Item, ItemState, Prediction, Score, Split

NO_IMAGES = "images: every image of the pool is labelled or with the annotators; add more with `alpipe add`"

BLOCK = 256
"""Scores written at once: a scan that is killed goes on from the last block."""


def score(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Scores every image of the pool that has no answer with this round's model; what it scored before is not scored
    again. Those that people were asked about already are among them: their task shows how hard they are now.
    """
    if round_.model is None:
        return Done("no model: nothing to score with")
    strategy, _, scanner = project.strategy()
    scan = scan_name(project, round_)
    items = project.store.scores.missing(scan, [ItemState.UNLABELLED, ItemState.PUSHED])
    if not items:
        return Done("every image is scored already", {"counts": {"scored": 0}})
    block: list[Score] = []
    scanned: Iterator[Prediction | ImageFit]
    if scanner is Scanner.VAE:
        scanned = autoencoding.fits(project, items, progress)
    else:
        scanned = project.model(round_.model).scan(items)
    for item, prediction in zip(items, counted(scanned, len(items), "scoring", progress), strict=True):
        value = float(strategy.score(prediction))
        if not math.isfinite(value):
            raise TrainingError(
                f"strategy {project.config.strategy.name!r} scored item {item.key} ({item.uri}) with {value}:"
                " the model is broken; train it with another seed or learner"
            )
        block.append(Score(item.key, value))
        if len(block) == BLOCK:
            project.store.scores.put(scan, block)
            block = []
    project.store.scores.put(scan, block)
    return Done(f"{len(items)} images scored by {project.config.strategy.name}", {"counts": {"scored": len(items)}})


def select(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Chooses the batch, and in the first round the hold-out images that are to be labelled too."""
    before = project.store.rounds.selected(round_.number)
    if before:
        return Done(f"{len(before)} images were selected before")
    pool = project.store.items.list(states=[ItemState.UNLABELLED], split=Split.POOL)
    held_out = _holdout_to_label(project)
    if not pool and not held_out:
        if _new_labels(project, round_, progress):
            return Done("the pool has no unlabelled image left", {"counts": {"selected": 0}})
        return Waiting(NO_IMAGES)
    k = min(project.config.batch, len(pool))
    rng = np.random.default_rng([project.config.seed, round_.number])
    if round_.model is None or k == 0:
        keys = sorted(item.key for item in pool)
        chosen = [keys[i] for i in sorted(rng.permutation(len(keys))[:k])]
        reasons = dict.fromkeys(chosen, "chosen at random: there is no model yet")
    else:
        score(project, round_, progress)  # images that came after the scan
        chosen, reasons = _by_strategy(project, round_, pool, k, rng, progress)
    reasons.update({item.key: "hold-out: to judge the models on" for item in held_out})
    project.store.rounds.select_items(round_.number, [*chosen, *(item.key for item in held_out)], reasons)
    trimmed = f" (all that were left of a batch of {project.config.batch})" if k < project.config.batch else ""
    also = f" and {len(held_out)} of the hold-out" if held_out else ""
    counts = {"selected": len(chosen), "holdout_selected": len(held_out)}
    return Done(f"{k} images selected{trimmed}{also}", {"counts": counts})


def scan_name(project: Project, round_: Round) -> str:
    """What scores are filed under: the model and the strategy that made them, with its options."""
    choice = project.config.strategy
    options = ",".join(f"{name}={value}" for name, value in sorted(choice.options.items()))
    of = f" of {autoencoding.name_of_fit(project)}" if project.strategy().scanner is Scanner.VAE else ""
    return f"{round_.model}/{choice.name}({options}){of}"


def uncertainties(scores: list[Score]) -> dict[str, float]:
    """Scores as numbers in [0, 1]: as they are where all lie there, else stretched over the range they have."""
    values = [score.value for score in scores]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0 and high <= 1:
        return {score.key: score.value for score in scores}
    span = (high - low) or 1.0
    return {score.key: (score.value - low) / span for score in scores}


def _by_strategy(
    project: Project, round_: Round, pool: list[Item], k: int, rng: np.random.Generator, progress: ProgressCallback
) -> tuple[list[str], dict[str, str]]:
    strategy, needs_embeddings, _ = project.strategy()
    scores = sorted(project.store.scores.of(scan_name(project, round_), [item.key for item in pool]))
    by_key = {item.key: item for item in pool}
    embeddings = labelled = None
    if needs_embeddings and round_.model is not None:
        if project.config.embeddings == "vae":
            embed = autoencoding.of_pool(project, progress).embed
        else:
            embed = project.model(round_.model).embed
        embeddings = embed([by_key[score.key] for score in scores])
        labelled = embed([example.item for example in project.store.annotations.examples(Split.POOL)])
    chosen = strategy.choose(scores, embeddings, labelled, min(k, len(scores)), rng)
    ranked = sorted(scores, key=lambda score: -score.value)
    rank = {score.key: (place, score.value) for place, score in enumerate(ranked, 1)}
    name = project.config.strategy.name
    reasons = {key: f"{name} {rank[key][1]:.3f}, rank {rank[key][0]} of {len(scores)}" for key in chosen}
    return chosen, reasons


def _holdout_to_label(project: Project) -> list[Item]:
    """Hold-out images to send along, in the order of their keys, which is a random one, until enough are labelled."""
    store = project.store
    held_out = store.items.list(split=Split.HOLDOUT)
    answered = sum(item.state not in (ItemState.UNLABELLED, ItemState.QUARANTINED) for item in held_out)
    open_ = sorted((item for item in held_out if item.state is ItemState.UNLABELLED), key=lambda item: item.key)
    return open_[: max(0, project.config.holdout.labels - answered)]


def _new_labels(project: Project, round_: Round, progress: ProgressCallback) -> bool:
    examples = project.store.annotations.examples(Split.POOL)
    if not examples:
        return False
    return round_.data_hash != hash_of(project, examples, autoencoding.pretrained_encoder(project, progress))
