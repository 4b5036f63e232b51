"""A small convolutional classifier, trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from alpipe.errors import TrainingError
from alpipe.learners.classification.objective import ClassObjective, gather
from alpipe.learners.nets.plain import PlainCNN
from alpipe.learners.training import saving, trainer
from alpipe.learners.training.augment import Augmentation, Flip
from alpipe.learners.training.data import Frame
from alpipe.learners.training.device import resolve
from alpipe.learners.training.inference import stream
from alpipe.learners.training.options import Auto, TrainingOptions, long_side, steps_for
from alpipe.protocols import LearnerContext, ProgressCallback, no_progress
from alpipe.types import ClassPrediction, Example, FloatArray, Item, Negative, Task

TASKS = frozenset({Task.CLASSIFY})

NAME, FORMAT = "cnn", 1

Width = Annotated[int, Field(ge=4, le=2048)]


class Options(TrainingOptions):
    """Settings of the classifier."""

    batch_size: int = Field(16, ge=2, description="Images a step.")
    image_size: Annotated[int, Field(ge=16, le=4096)] | Auto = Field(
        "auto",
        description="Side, in pixels, of the square at which the network sees an image; smaller images stay as they"
        " are within it. auto: that of the largest training image, 96 at most.",
    )
    features: tuple[Width, ...] = Field(
        (24, 48, 96, 128), min_length=1, max_length=8, description="Channels of each stage; each halves the size."
    )
    hidden: int = Field(128, ge=1, le=8192, description="Neurons of the hidden layer.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of the hidden layer that a training step leaves out.")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="Share of the truth spread over all classes.")
    flip: Flip = Field(
        Flip.NONE,
        description="Mirror images that are as good as the original: none, horizontal, or both."
        " Not for digits, letters, or classes of left and right.",
    )
    scale: float = Field(1.2, ge=1, le=4, description="Training images are resized by up to this factor, both ways.")
    rotate: float = Field(10.0, ge=0, le=180, description="Training images are turned by up to so many degrees.")
    colour: float = Field(0.4, ge=0, le=1, description="Strength of random brightness, contrast and tint.")


def build(options: Options, context: LearnerContext) -> Classifier:
    """The learner, not fitted."""
    return Classifier(options, context)


def load(folder: Path, context: LearnerContext) -> ClassifierModel:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    description = saving.describe(folder, NAME, FORMAT)
    options = saving.options_of(description, Options, folder)
    net = PlainCNN(len(description.classes), options.features, options.hidden, options.dropout)
    saving.restore(folder, net)
    return ClassifierModel(net, options, description.image_size, description.classes, context)


class Classifier:
    """Settings of a classifier that can be fitted. Negatives are regions and say nothing of whole images: they are
    taken and not used.
    """

    def __init__(self, options: Options, context: LearnerContext) -> None:
        self._options, self._context = options, context

    def fit(
        self,
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],  # noqa: ARG002 - the protocol's
        *,
        seed: int,
        progress: ProgressCallback = no_progress,
        resume_from: Path | None = None,
    ) -> ClassifierModel:
        options, context = self._options, self._context
        compute = resolve(context)
        if not train:
            raise TrainingError("there is no labelled image to train the classifier on; label some first")
        image_size = options.image_size if options.image_size != "auto" else long_side(train, 96)
        objective = ClassObjective(
            gather(train, context.classes, image_size),
            gather(validation, context.classes, image_size),
            Augmentation(options.flip, options.scale, 1.2, 0.08, options.rotate, options.colour),
            options.batch_size,
            image_size,
            options.label_smoothing,
            compute.device,
        )
        fitted = trainer.train(
            lambda: PlainCNN(len(context.classes), options.features, options.hidden, options.dropout),
            objective,
            trainer.recipe(options, _steps(options, len(train))),
            compute,
            seed=seed,
            identity=trainer.fingerprint((NAME, FORMAT, options, context, seed), (train, validation), ()),
            progress=progress,
            resume_from=resume_from,
        )
        return ClassifierModel(fitted, options, image_size, context.classes, context)


class ClassifierModel:
    """A fitted classifier."""

    task = Task.CLASSIFY

    def __init__(
        self, net: PlainCNN, options: Options, image_size: int, classes: tuple[str, ...], context: LearnerContext
    ) -> None:
        self.classes = classes
        self._options, self._image_size = options, image_size
        self._compute = resolve(context)
        self._net = net.to(self._compute.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def predict(self, items: Iterable[Item]) -> Iterator[ClassPrediction]:
        return stream(items, self._image_size, self._image_size, self._compute, self._classify)

    def embed(self, items: Iterable[Item]) -> npt.NDArray[np.float32]:
        def run(images: torch.Tensor, _: list[tuple[Item, Frame]]) -> list[FloatArray]:
            return list(self._net.embed(images).cpu().numpy())

        rows = list(stream(items, self._image_size, self._image_size, self._compute, run))
        return np.stack(rows) if rows else np.zeros((0, self._net.features), np.float32)

    def save(self, folder: Path) -> None:
        options = self._options.model_dump(mode="json")
        saving.save(
            folder, self._net, saving.Description(NAME, FORMAT, self.task, self.classes, self._image_size, options)
        )

    def _classify(self, images: torch.Tensor, batch: list[tuple[Item, Frame]]) -> list[ClassPrediction]:
        probs = torch.softmax(self._net(images), dim=1).cpu().numpy()
        return [ClassPrediction(item.key, row) for (item, _), row in zip(batch, probs, strict=True)]


def _steps(options: Options, images: int) -> int:
    if options.steps != "auto":
        return options.steps
    return steps_for(images, options.batch_size, passes=12_000, passes_an_image=50, most=60_000)
