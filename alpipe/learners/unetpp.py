"""A small U-Net++ with deep supervision, trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from alpipe.errors import TrainingError
from alpipe.learners.nets.nested import NestedUNet
from alpipe.learners.segmentation.objective import MapObjective, gather
from alpipe.learners.training import saving, trainer
from alpipe.learners.training.augment import Augmentation, Flip
from alpipe.learners.training.data import Frame
from alpipe.learners.training.device import resolve
from alpipe.learners.training.inference import stream
from alpipe.learners.training.options import Auto, TrainingOptions, long_side, steps_for
from alpipe.protocols import LearnerContext, ProgressCallback, no_progress
from alpipe.types import Example, FloatArray, Item, MapPrediction, Negative, Task

TASKS = frozenset({Task.SEGMENT})

NAME, FORMAT = "unetpp", 1

Width = Annotated[int, Field(ge=4, le=1024)]


class Options(TrainingOptions):
    """Settings of the U-Net++."""

    image_size: Annotated[int, Field(ge=32, le=4096)] | Auto = Field(
        "auto",
        description="Longer side, in pixels, at which the network sees an image; smaller images stay as they are."
        " auto: that of the largest training image, 256 at most.",
    )
    crop_size: int = Field(
        128, ge=32, le=4096, multiple_of=16, description="Training sees random parts of this many pixels a side."
    )
    features: tuple[Width, ...] = Field(
        (16, 24, 32, 48, 64),
        min_length=2,
        max_length=6,
        description="Channels of each level, from the full size down; one more than the depth.",
    )
    flip: Flip = Field(
        Flip.NONE,
        description="Mirror images that are as good as the original: none, horizontal, or both."
        " Not for digits, letters, or classes of left and right.",
    )
    scale: float = Field(1.3, ge=1, le=4, description="Training images are resized by up to this factor, both ways.")
    rotate: float = Field(10.0, ge=0, le=180, description="Training images are turned by up to so many degrees.")
    colour: float = Field(0.4, ge=0, le=1, description="Strength of random brightness, contrast and tint.")
    negative_weight: float = Field(3.0, ge=1, le=100, description="Weight of the loss within hard negatives.")
    members: bool = Field(True, description="Whether predictions carry the shallower heads as an ensemble.")


def build(options: Options, context: LearnerContext) -> UNetPlusPlus:
    """The learner, not fitted."""
    return UNetPlusPlus(options, context)


def load(folder: Path, context: LearnerContext) -> UNetPlusPlusModel:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    description = saving.describe(folder, NAME, FORMAT)
    options = saving.options_of(description, Options, folder)
    net = NestedUNet(1 + len(description.classes), options.features)
    saving.restore(folder, net)
    return UNetPlusPlusModel(net, options, description.image_size, description.classes, context)


class UNetPlusPlus:
    """Settings of a U-Net++ that can be fitted."""

    def __init__(self, options: Options, context: LearnerContext) -> None:
        self._options, self._context = options, context

    def fit(
        self,
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        *,
        seed: int,
        progress: ProgressCallback = no_progress,
        resume_from: Path | None = None,
    ) -> UNetPlusPlusModel:
        options, context = self._options, self._context
        compute = resolve(context)
        if not train:
            raise TrainingError("there is no labelled image to train the U-Net++ on; label some first")
        image_size = options.image_size if options.image_size != "auto" else long_side(train, 256)
        objective = MapObjective(
            gather(train, negatives, context.classes, image_size),
            gather(validation, (), context.classes, image_size),
            Augmentation(options.flip, options.scale, 1.2, 0.05, options.rotate, options.colour),
            options.batch_size,
            options.crop_size,
            _multiple(options),
            options.negative_weight,
            compute.device,
        )
        fitted = trainer.train(
            lambda: NestedUNet(1 + len(context.classes), options.features),
            objective,
            trainer.recipe(options, _steps(options, len(train))),
            compute,
            seed=seed,
            identity=trainer.fingerprint((NAME, FORMAT, options, context, seed), (train, validation), negatives),
            progress=progress,
            resume_from=resume_from,
        )
        return UNetPlusPlusModel(fitted, options, image_size, context.classes, context)


class UNetPlusPlusModel:
    """A fitted U-Net++. Its prediction is the deepest head's; the others are the members."""

    task = Task.SEGMENT

    def __init__(
        self, net: NestedUNet, options: Options, image_size: int, classes: tuple[str, ...], context: LearnerContext
    ) -> None:
        self.classes = classes
        self._options, self._image_size = options, image_size
        self._compute = resolve(context)
        self._net = net.to(self._compute.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def predict(self, items: Iterable[Item]) -> Iterator[MapPrediction]:
        return stream(items, self._image_size, _multiple(self._options), self._compute, self._maps)

    def embed(self, items: Iterable[Item]) -> npt.NDArray[np.float32]:
        def run(images: torch.Tensor, _: list[tuple[Item, Frame]]) -> list[FloatArray]:
            return list(self._net.embed(images).cpu().numpy())

        rows = list(stream(items, self._image_size, _multiple(self._options), self._compute, run))
        return np.stack(rows) if rows else np.zeros((0, self._net.features), np.float32)

    def save(self, folder: Path) -> None:
        options = self._options.model_dump(mode="json")
        saving.save(
            folder, self._net, saving.Description(NAME, FORMAT, self.task, self.classes, self._image_size, options)
        )

    def _maps(self, images: torch.Tensor, batch: list[tuple[Item, Frame]]) -> list[MapPrediction]:
        heads = self._net(images)
        wanted = heads if self._options.members else heads[-1:]
        probs = [torch.softmax(logits.float(), dim=1).cpu().numpy() for logits in wanted]
        predictions = []
        for index, (item, frame) in enumerate(batch):
            height, width = frame.pixels.shape[:2]
            *members, last = (
                MapPrediction(item.key, one[index, :, :height, :width].copy(), frame.size) for one in probs
            )
            predictions.append(MapPrediction(item.key, last.probs, frame.size, tuple(members)))
        return predictions


def _multiple(options: Options) -> int:
    return int(2 ** (len(options.features) - 1))


def _steps(options: Options, images: int) -> int:
    if options.steps != "auto":
        return options.steps
    return steps_for(images, options.batch_size, passes=1600, passes_an_image=10, most=6000)
