"""A dense anchor-free detector on a feature pyramid, trained from scratch: about 1.9 million weights.

For each place of each level it says how likely an object of each class is found there, the box of the object, and
how well the box fits; a box's score is the probability of its class times the expected IoU. After FCOS (Tian et al.
2019); which places learn an object is decided as in TOOD (Feng et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from alpipe import boxes
from alpipe.errors import TrainingError
from alpipe.learners.detection.decode import decode
from alpipe.learners.detection.objective import BoxObjective, Weighting, gather
from alpipe.learners.nets.pyramid import MULTIPLE, STRIDES, PyramidDetector
from alpipe.learners.training import saving, trainer
from alpipe.learners.training.augment import Augmentation, Flip
from alpipe.learners.training.data import Frame
from alpipe.learners.training.device import resolve
from alpipe.learners.training.inference import stream
from alpipe.learners.training.options import Auto, TrainingOptions, steps_for
from alpipe.protocols import LearnerContext, ProgressCallback, no_progress
from alpipe.types import Boxes, BoxPrediction, Example, FloatArray, Item, Negative, Task

TASKS = frozenset({Task.DETECT})

NAME, FORMAT = "detector", 1


class Options(TrainingOptions):
    """Settings of the dense detector."""

    image_size: Annotated[int, Field(ge=32, le=4096)] | Auto = Field(
        "auto",
        description="Longer side, in pixels, at which the network sees an image; smaller images stay as they are."
        " auto: as small as the boxes of the training images allow.",
    )
    width: int = Field(
        64, ge=8, le=512, multiple_of=8, description="Channels of each level of the pyramid; the others follow."
    )
    depth: int = Field(1, ge=0, le=8, description="Residual blocks a stage.")
    flip: Flip = Field(
        Flip.NONE,
        description="Mirror images that are as good as the original: none, horizontal, or both."
        " Not for digits, letters, or classes of left and right.",
    )
    scale: float = Field(1.3, ge=1, le=4, description="Training images are resized by up to this factor, both ways.")
    rotate: float = Field(0.0, ge=0, le=180, description="Training images are turned by up to so many degrees.")
    colour: float = Field(0.4, ge=0, le=1, description="Strength of random brightness, contrast and tint.")
    finest: Literal[4, 8, 16] = Field(
        8, description="Pixels between two places of the finest level: 4 tells tiny objects apart, 16 is fast."
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of the features that the last layer of the classes misses in training."
    )
    rare_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Images of a class that fewer than this share of the images have are drawn more often.",
    )
    hard_negatives: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Online hard example mining: of the places without object, learn from the hardest, so many for each"
        " place with one. 0: from all of them.",
    )
    negative_weight: float = Field(3.0, ge=1, le=100, description="Weight of the class loss within hard negatives.")
    min_score: float = Field(0.05, ge=0, lt=1, description="Boxes below this score are not reported.")
    max_boxes: int = Field(300, ge=1, le=10_000, description="Most boxes of an image, best first.")
    overlap: float = Field(0.6, gt=0, le=1, description="IoU over which the weaker of two boxes of a class falls.")


def build(options: Options, context: LearnerContext) -> Detector:
    """The learner, not fitted."""
    return Detector(options, context)


def load(folder: Path, context: LearnerContext) -> DetectorModel:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    description = saving.describe(folder, NAME, FORMAT)
    options = saving.options_of(description, Options, folder)
    net = _net(len(description.classes), options)
    saving.restore(folder, net)
    return DetectorModel(net, options, description.image_size, description.classes, context)


class Detector:
    """Settings of a detector that can be fitted."""

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
    ) -> DetectorModel:
        options, context = self._options, self._context
        compute = resolve(context)
        if not train:
            raise TrainingError("there is no labelled image to train the detector on; label some first")
        image_size = _image_size(options, train)
        objective = BoxObjective(
            gather(train, negatives, context.classes, image_size),
            gather(validation, (), context.classes, image_size),
            len(context.classes),
            Augmentation(options.flip, options.scale, 1.2, 0.1, options.rotate, options.colour),
            options.batch_size,
            Weighting(options.negative_weight, options.hard_negatives, options.rare_share),
            STRIDES[STRIDES.index(options.finest) :],
            compute.device,
        )
        fitted = trainer.train(
            lambda: PyramidDetector(
                len(context.classes), options.width, options.depth, options.finest, options.dropout
            ),
            objective,
            trainer.recipe(options, _steps(options, len(train))),
            compute,
            seed=seed,
            identity=trainer.fingerprint((NAME, FORMAT, options, context, seed), (train, validation), negatives),
            progress=progress,
            resume_from=resume_from,
        )
        return DetectorModel(fitted, options, image_size, context.classes, context)


class DetectorModel:
    """A fitted detector."""

    task = Task.DETECT

    def __init__(
        self, net: PyramidDetector, options: Options, image_size: int, classes: tuple[str, ...], context: LearnerContext
    ) -> None:
        self.classes = classes
        self._options, self._image_size = options, image_size
        self._compute = resolve(context)
        self._net = net.to(self._compute.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def predict(self, items: Iterable[Item]) -> Iterator[BoxPrediction]:
        return stream(items, self._image_size, MULTIPLE, self._compute, self._boxes)

    def embed(self, items: Iterable[Item]) -> npt.NDArray[np.float32]:
        def run(images: torch.Tensor, _: list[tuple[Item, Frame]]) -> list[FloatArray]:
            return list(self._net.embed(images).cpu().numpy())

        rows = list(stream(items, self._image_size, MULTIPLE, self._compute, run))
        return np.stack(rows) if rows else np.zeros((0, self._net.width), np.float32)

    def save(self, folder: Path) -> None:
        options = self._options.model_dump(mode="json")
        saving.save(
            folder,
            self._net,
            saving.Description(NAME, FORMAT, self.task, self.classes, self._image_size, options),
        )

    def _boxes(self, images: torch.Tensor, batch: list[tuple[Item, Frame]]) -> list[BoxPrediction]:
        logits, found, quality = self._net(images)
        probs = (torch.sigmoid(logits) * torch.sigmoid(quality)[..., None]).cpu().numpy()
        xyxy = found.cpu().numpy()
        options = self._options
        return [
            decode(item.key, probs[i], xyxy[i], frame, options.min_score, options.overlap, options.max_boxes)
            for i, (item, frame) in enumerate(batch)
        ]


def _net(classes: int, options: Options) -> PyramidDetector:
    return PyramidDetector(classes, options.width, options.depth, options.finest, options.dropout)


def _steps(options: Options, images: int) -> int:
    if options.steps != "auto":
        return options.steps
    return steps_for(images, options.batch_size, passes=2500, passes_an_image=20, most=12_000)


def _image_size(options: Options, train: Sequence[Example]) -> int:
    """The longer side to use. ``auto``: so large that an average box of the class of smallest boxes is two places of
    the finest level wide (medians of the geometric mean of the sides), a multiple of 32 within 160 and 640.
    """
    if options.image_size != "auto":
        return options.image_size
    sides: dict[str, list[float]] = {}
    for example in train:
        if isinstance(example.labels, Boxes):
            areas = boxes.areas(example.labels.xyxy) / max(example.item.width, example.item.height) ** 2
            for name, area in zip(example.labels.names, areas, strict=True):
                sides.setdefault(name, []).append(float(area) ** 0.5)
    if not sides:
        return 320
    needed = 2 * options.finest / max(min(float(np.median(some)) for some in sides.values()), 1e-3)
    return int(np.clip(round(needed / 32) * 32, 160, 640))
