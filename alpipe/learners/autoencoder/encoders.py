"""Pretrains the encoder of any learner that is a Design."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from alpipe.learners.autoencoder import pretrain
from alpipe.learners.autoencoder.options import AutoencoderOptions
from alpipe.learners.training.device import reproducible
from alpipe.learners.training.learner import Design, Setting
from alpipe.learners.training.options import TrainingOptions
from alpipe.protocols import LearnerContext, ProgressCallback, no_progress
from alpipe.types import Boxes, Example, Item

Opt = TypeVar("Opt", bound=TrainingOptions)


def pretrain_encoder(
    design: Design[Opt],
    options: Opt,
    context: LearnerContext,
    items: Sequence[Item],
    file: Path,
    *,
    settings: AutoencoderOptions,
    seed: int,
    progress: ProgressCallback = no_progress,
    resume_from: Path | None = None,
) -> None:
    """Writes the weights of the design's encoder, trained on the items' images at the size at which the learner would
    see them if they had no labels: the detector's ``image_size: auto`` depends on boxes, so give it a number.

    Raises TrainingError where there is no image, DataError for one that cannot be read.
    """
    unlabelled = [Example(item, Boxes.none()) for item in items]
    setting = Setting(options, context.classes, design.image_size(options, unlabelled))
    with reproducible(seed):
        net = design.network(setting)
    weights = pretrain.pretrain(
        net.encoder,
        net.encoder_channels,
        items,
        settings,
        context,
        image_size=setting.image_size,
        seed=seed,
        progress=progress,
        resume_from=resume_from,
    )
    pretrain.save(weights, file)
