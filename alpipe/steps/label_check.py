"""Labels judged by models that were not trained on them: k-fold cross-validation over the labelled images of the pool.

A model that was trained on a wrong label may have learnt it by heart. Here each label is judged by a model trained on
the other parts only, which costs about as many trainings as there are folds; so it is done when a person asks for it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from alpipe.errors import DataError
from alpipe.project import Project
from alpipe.protocols import Model, ProgressCallback, no_progress
from alpipe.steps import autoencoding, review
from alpipe.steps.folders import alone, save_whole
from alpipe.steps.models import counted, hash_of, split_validation
from alpipe.types import OUT_OF_SAMPLE, Example, Negative, NegativeState, Question, QuestionKind, QuestionState, Split


def check_labels(project: Project, folds: int, progress: ProgressCallback = no_progress) -> str:
    """Files what is contradicted out of sample as questions, in place of open ones, and says what came of it.

    Each fold's model is kept under the hash of what it was trained on: a run that was killed goes on from its last
    checkpoint, and the same labels are not learnt again. The bank of hard negatives is not used: it holds what was
    measured on the labels that are in question. Raises DataError where there is too little to train on, and BusyError
    while another check of this project runs.
    """
    with alone(project.folder / "check-labels.lock", "check of this project's labels"):
        return _check(project, folds, progress)


def _check(project: Project, folds: int, progress: ProgressCallback) -> str:
    from alpipe.mining import folds as parts_of  # only those who check pay for its imports
    from alpipe.mining.label_errors import LabelErrors
    from alpipe.mining.overlooked import Overlooked

    examples = project.store.annotations.examples(Split.POOL)
    if not examples:
        raise DataError("no image of the pool is labelled: there is nothing to check; import labels, or label some")
    truths = {example.item.key: example for example in examples}
    parts = parts_of.split(examples, folds, project.config.seed)
    encoder = autoencoding.pretrained_encoder(project, progress)
    doubted = LabelErrors(truths, project.classes)
    overlooked = Overlooked(project.config.task, truths, project.classes, _asked_before(project))
    unjudged: Counter[str] = Counter()
    used = []
    for number, part in enumerate(parts):
        now = _named(f"fold {number + 1} of {folds}", progress)
        rest = [example for other in parts if other is not part for example in other]
        model, folder = _model(project, rest, encoder, now)
        used.append(folder)
        shown = {name for example in rest for name in parts_of.names_of(example)}
        unjudged.update(name for one in part for name in parts_of.names_of(one) if name not in shown)
        predictions = counted(model.predict([example.item for example in part]), len(part), "predict", now)
        for _ in overlooked.watch(doubted.watch(predictions, set(project.classes) - shown)):
            pass
    round_ = max((each.number for each in project.store.rounds.list()), default=0)
    found = doubted.questions(round_, OUT_OF_SAMPLE) + overlooked.questions(round_, OUT_OF_SAMPLE)
    review.file(project, truths, found)
    _forget_others(project, used)
    return _describe(found, len(examples), unjudged)


def _model(
    project: Project, rest: Sequence[Example], encoder: Path | None, progress: ProgressCallback
) -> tuple[Model, Path]:
    """The model trained on these, and its folder; made unless it is there."""
    name = hashlib.sha256(hash_of(project, rest, encoder).encode()).hexdigest()[:16]
    folder, checkpoints = _folds(project) / name, project.folder / "checkpoints" / f"fold-{name}"
    plugin, _ = project.learner_plugin()
    if not folder.is_dir():
        kept, validation = split_validation(rest, project.config.validation_share, project.config.seed)
        learner = project.learner(encoder=encoder, logs=project.folder / "runs" / f"fold-{name}")
        made = learner.fit(kept, validation, [], seed=project.config.seed, progress=progress, resume_from=checkpoints)
        save_whole(made, folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    model: Model = plugin.load(folder, project.learner_context)
    return model, folder


def _asked_before(project: Project) -> list[Negative]:
    """Regions of which people were asked whether an object is there, or will be by the bank."""
    states = (NegativeState.QUESTION, NegativeState.CONFIRMED, NegativeState.OBJECT)
    bank = [entry.negative for entry in project.store.negatives.entries(states=states)]
    past = [state for state in QuestionState if state not in (QuestionState.OPEN, QuestionState.STALE)]
    asked = [one.question for one in project.store.questions.list(past) if one.question.kind is QuestionKind.MISSED]
    return bank + [
        Negative(one.item.key, one.box, str(one.proposed), one.score, 0.0) for one in asked if one.box is not None
    ]


def _forget_others(project: Project, used: Sequence[Path]) -> None:
    """Models of other labels, and what was left of their trainings where they were killed."""
    left = (project.folder / "checkpoints").glob("fold-*")
    for folder in (*_folds(project).iterdir(), *left):
        if folder not in used:
            shutil.rmtree(folder, ignore_errors=True)


def _folds(project: Project) -> Path:
    return project.folder / "folds"


def _named(fold: str, progress: ProgressCallback) -> ProgressCallback:
    """The callback, told of the fold beside the stage."""
    return lambda now: progress(now._replace(stage=f"{fold}: {now.stage}"))


def _describe(found: Sequence[Question], images: int, unjudged: Mapping[str, int]) -> str:
    kinds = Counter(question.kind for question in found)
    about = len({question.item.key for question in found})
    told = f"{images} labelled images checked out of sample: {len(found)} questions about {about} of them"
    if found:
        told += f" ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))})"
    for name, count in sorted(unjudged.items()):
        told += f"; {count} labels {name!r} not judged: no other image or group holds that class"
    return told
