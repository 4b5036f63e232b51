"""The steps that choose what to label: score the unlabelled pool, select a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alpipe.acquisition.batch.control import control_size, draw_control
from alpipe.acquisition.batch.selection import Batch, choose_batch
from alpipe.errors import TrainingError
from alpipe.pool.store import Round
from alpipe.project import Project
from alpipe.protocols import Describing, ProgressCallback, Scanner
from alpipe.steps import autoencoding, review
from alpipe.steps.candidates import Wanted, copies, gather
from alpipe.steps.mirroring import scan_mirrored
from alpipe.steps.models import counted, hash_of
from alpipe.steps.outcome import Done, Outcome, Waiting
from alpipe.types import FloatArray, ImageFit, Item, ItemState, Mirrored, Prediction, Score, Split

NO_IMAGES = "images: every image of the pool is labelled or with the annotators; add more with `alpipe add`"

CONTROL = "control: chosen at random, to compare what {name} chose with"

BLOCK = 256
"""Scores written at once: a scan that is killed goes on from the last block."""


class Selection(NamedTuple):
    """The keys that were chosen, those drawn at random as controls, why each was, and what was set aside on the way."""

    chosen: list[str]
    control: list[str]
    reasons: dict[str, str]
    aside: dict[str, int]


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
    described: list[FloatArray] = []
    describe = strategy.describe if isinstance(strategy, Describing) else None

    def keep() -> None:
        project.store.scores.put(scan, block, described if describe else None)
        block.clear()
        described.clear()

    scanned: Iterator[Prediction | ImageFit | Mirrored]
    match scanner:
        case Scanner.VAE:
            scanned = autoencoding.fits(project, items, progress)
        case Scanner.FLIP:
            scanned = scan_mirrored(project.model(round_.model), items)
        case Scanner.MODEL:
            scanned = project.model(round_.model).scan(items)
    for item, prediction in zip(items, counted(scanned, len(items), "scoring", progress), strict=True):
        value = float(strategy.score(prediction))
        if not math.isfinite(value):
            raise TrainingError(
                f"strategy {project.config.strategy.name!r} scored item {item.key} ({item.uri}) with {value}:"
                " the model is broken; train it with another seed or learner"
            )
        block.append(Score(item.key, value))
        if describe:
            described.append(describe(prediction))
        if len(block) == BLOCK:
            keep()
    keep()
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
        asked = review.push_alone(project, round_.number, progress)
        return Waiting(NO_IMAGES + (f"; {asked} questions about labels wait for answers" if asked else ""))
    room = project.config.batch - review.room(project, round_.number)
    k = min(room, len(pool))
    rng = np.random.default_rng([project.config.seed, round_.number])
    if round_.model is not None and k:
        score(project, round_, progress)  # images that came after the scan
    batch = _choose(project, round_, pool, k, rng, progress)
    chosen = [*batch.chosen, *batch.control]
    reasons = batch.reasons | {item.key: "hold-out: to judge the models on" for item in held_out}
    keys = [*chosen, *(item.key for item in held_out)]
    project.store.rounds.select_items(round_.number, keys, reasons, batch.control)
    trimmed = f" (all that were left of a batch of {room})" if k < room else ""
    also = f" and {len(held_out)} of the hold-out" if held_out else ""
    counts = {"selected": len(chosen), "holdout_selected": len(held_out), **batch.aside}
    drawn = f", {len(batch.control)} of them at random as control" if batch.control else ""
    if batch.control:
        counts["control"] = len(batch.control)
    aside = "".join(f"; {count} {name.replace('_', ' ')}" for name, count in batch.aside.items())
    return Done(f"{k} images selected{drawn}{trimmed}{also}{aside}", {"counts": counts})


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


def _choose(
    project: Project, round_: Round, pool: list[Item], k: int, rng: np.random.Generator, progress: ProgressCallback
) -> Selection:
    """The batch, and in words why each of it was chosen. Where a model chooses, the controls are drawn first, from all
    that could be chosen.
    """
    cold = round_.model is None
    name = (project.config.cold_start if cold else project.config.strategy).name
    strategy, needs_embeddings, _ = project.cold_start() if cold else project.strategy()
    options, partner, partner_needs_embeddings = project.batching()
    embeddings = needs_embeddings or (partner_needs_embeddings and not cold)
    scan = None if cold else scan_name(project, round_)
    wanted = Wanted(scan, round_.model, isinstance(strategy, Describing), embeddings)
    if not k:
        return Selection([], [], {}, {})
    try:
        candidates = gather(project, pool, wanted, progress)
        hashes = copies(project, candidates.items, progress) if options.near_duplicates is not False else None
        keys, count = [item.key for item in candidates.items], 0 if cold else control_size(project.config.control, k)
        control = draw_control(keys, count, project.config.seed, round_.number).tolist()
        batch = choose_batch(
            strategy,
            partner,
            candidates,
            k - count,
            rng,
            options=options,
            round_=round_.number,
            copies=hashes,
            taken=control,
        )
    except ValueError as error:
        raise TrainingError(f"strategy {name!r} cannot choose: {error}; train again, or choose another one") from error
    if cold:
        how = "at random" if name == "random" else f"by {name}"
        return Selection(
            batch.keys, [], dict.fromkeys(batch.keys, f"chosen {how}: there is no model yet"), batch.counts
        )
    drawn = [keys[row] for row in control]
    reasons = dict.fromkeys(drawn, CONTROL.format(name=name)) | _ranks(name, batch, keys)
    return Selection(batch.keys, drawn, reasons, batch.counts)


def _ranks(name: str, batch: Batch, keys: list[str]) -> dict[str, str]:
    """Score and rank, in words, of each that was chosen; ``keys`` are those of all candidates."""
    order = np.argsort(-batch.scores, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    row = {key: at for at, key in enumerate(keys)}
    return {key: f"{name} {batch.scores[row[key]]:.3f}, rank {rank[row[key]]} of {len(order)}" for key in batch.keys}


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
