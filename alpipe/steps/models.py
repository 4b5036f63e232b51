"""The steps around a model: train it, evaluate it on the hold-out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from alpipe import labels
from alpipe.pool.store import ModelRow, Round
from alpipe.project import Project, mining_options
from alpipe.protocols import ProgressCallback
from alpipe.steps import autoencoding
from alpipe.steps.folders import hash_folder, save_whole
from alpipe.steps.outcome import Done, Outcome
from alpipe.types import Example, Negative, Progress, Split

T = TypeVar("T")


def train(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Trains on everything labelled so far, from the same first weights each round.

    The model's name holds the hash of what it was trained on, the bank of hard negatives included. A model of that name
    that is there already is not trained again: nothing new was learnt, or a run was killed after the training.
    """
    examples = project.store.annotations.examples(Split.POOL)
    if not examples:
        return Done("nothing is labelled yet: no model")
    negatives = _negatives(project, examples)
    encoder = autoencoding.pretrained_encoder(project, progress)
    data_hash, bank_hash = hash_of(project, examples, encoder), hash_of_negatives(negatives)
    previous = project.store.models.latest()
    ids = project.store.annotations.ids([example.item.key for example in examples])
    project.store.rounds.record_items(round_.number, "train", ids)
    if previous is not None and _learnt(previous, data_hash, bank_hash) and (project.models / previous.name).is_dir():
        facts = {
            "model": previous.name,
            "model_hash": previous.sha256,
            "data_hash": data_hash,
            "labelled": len(examples),
        }
        return Done(f"no new label and no new hard negative since model {previous.name}", facts)

    name = f"r{round_.number:03d}-{hashlib.sha256((data_hash + bank_hash).encode()).hexdigest()[:8]}"
    folder = project.models / name
    if not folder.is_dir():
        kept, validation = split_validation(examples, project.config.validation_share, project.config.seed)
        checkpoints = project.folder / "checkpoints" / name
        keys = {example.item.key for example in kept}
        model = project.learner(encoder=encoder, logs=project.folder / "runs" / name).fit(
            kept,
            validation,
            [negative for negative in negatives if negative.item_key in keys],
            seed=project.config.seed,
            progress=progress,
            resume_from=checkpoints,
        )
        save_whole(model, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    digest = hash_folder(folder)
    project.store.models.put(
        name=name,
        round=round_.number,
        learner=project.config.learner.name,
        folder=str(folder),
        sha256=digest,
        data_hash=data_hash,
        description={
            "options": project.config.learner.options,
            "classes": list(project.classes),
            "negatives": len(negatives),
            "bank": bank_hash,
        },
    )
    facts = {"model": name, "model_hash": digest, "data_hash": data_hash, "labelled": len(examples)}
    beside = f" and {len(negatives)} hard negatives" if negatives else ""
    return Done(f"model {name} from {len(examples)} labelled images{beside}", facts)


def evaluate(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """The metric on the frozen hold-out, with its hash, and the model's error on each of its images."""
    from alpipe.evaluation.image_error import watched
    from alpipe.evaluation.metrics import evaluate as measure  # pycocotools only where needed

    if round_.model is None:
        return Done("no model to evaluate")
    truths = {example.item.key: example for example in project.store.annotations.examples(Split.HOLDOUT)}
    if not truths:
        return Done("no labelled hold-out: no metric (label some of it, or import one with --holdout)")
    items = [example.item for example in truths.values()]
    predictions = counted(project.model(round_.model).predict(items), len(items), "evaluating", progress)
    errors: dict[str, float] = {}
    seen = watched(predictions, truths, project.classes, project.config.suggest_above, errors)
    metrics = measure(project.config.task, seen, truths, project.classes)
    project.store.rounds.record_errors(round_.number, "holdout", errors)
    facts = {
        "metric": metrics.name,
        "value": metrics.value,
        "metrics": metrics.details,
        "holdout_count": len(truths),
        "holdout_hash": hash_of_labels(truths.values())[:16],
    }
    return Done(f"{metrics.name} {metrics.value:.3f} on {len(truths)} held-out images", facts)


def counted(source: Iterable[T], total: int, stage: str, progress: ProgressCallback) -> Iterator[T]:
    """What the source gives, with a sign of life for each."""
    progress(Progress(stage, 0, total))
    for done, one in enumerate(source, 1):
        progress(Progress(stage, done, total))
        yield one


def split_validation(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Splits labelled examples in two, whole groups at a time; the second part has about the share of the images.

    The same seed gives the same split; an example never changes sides when others join.
    """

    def is_validation(example: Example) -> bool:
        unit = example.item.group or example.item.key
        digest = hashlib.blake2b(f"validation:{seed}:{unit}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64 < share

    chosen = [example for example in examples if is_validation(example)]
    kept = [example for example in examples if not is_validation(example)]
    return (kept, chosen) if kept else (list(examples), [])


def hash_of(project: Project, examples: Iterable[Example], encoder: Path | None) -> str:
    """A hash of all that a training depends on: images, labels, the pretrained encoder, the configuration."""
    config = project.config
    settings = [
        config.task,
        config.labels,
        config.seed,
        config.validation_share,
        config.learner.model_dump(mode="json"),
    ]
    if (version := autoencoding.format_of(project.learner_plugin()[0])) > 1:
        settings.append(version)
    if encoder is not None:
        settings.append(encoder.name)  # it holds the hash of what it was made from
    return hashlib.sha256(f"{json.dumps(settings, sort_keys=True)} {hash_of_labels(examples)}".encode()).hexdigest()


def hash_of_negatives(negatives: Iterable[Negative]) -> str:
    """A hash of the regions that a training takes for hard negatives; their scores, which change, are not in it."""
    regions = sorted((one.item_key, one.name, *one.box) for one in negatives)
    return hashlib.sha256(json.dumps(regions).encode()).hexdigest()[:16]


def _learnt(model: ModelRow, data_hash: str, bank_hash: str) -> bool:
    """Whether the model was trained on this; models of before there was a bank do not say on which."""
    return model.data_hash == data_hash and model.description.get("bank", bank_hash) == bank_hash


def _negatives(project: Project, examples: Sequence[Example]) -> list[Negative]:
    """What the bank holds of these images and no label contradicts."""
    from alpipe.mining.hard import still_negative  # only those who mine pay for its imports

    options = mining_options(project.config)
    if options is None:
        return []
    return still_negative(project.store.negatives.all(questions=options.exhaustive), examples, options)


def hash_of_labels(examples: Iterable[Example]) -> str:
    """A hash of images and labels alone, whatever their order."""
    digest = hashlib.sha256()
    for example in sorted(examples, key=lambda example: example.item.key):
        digest.update(example.item.key.encode())
        digest.update(json.dumps(labels.to_json(example.labels), sort_keys=True).encode())
    return digest.hexdigest()
