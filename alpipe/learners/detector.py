"""A dense anchor-free detector on a feature pyramid, trained from scratch: about 1.9 million weights.

For each place of each level it says how likely an object of each class is found there, the box of the object, and
how well the box fits; a box's score is the probability of its class times the expected IoU. After FCOS (Tian et al.
2019); which places learn an object is decided as in TOOD (Feng et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

import numpy as np
import torch
from pydantic import Field

from alpipe import boxes
from alpipe.learners.autoencoder.encoders import pretrain_encoder
from alpipe.learners.detection.decode import Limits, decode
from alpipe.learners.detection.labelled import gather
from alpipe.learners.detection.objective import BoxObjective, Weighting
from alpipe.learners.nets.dropout import sample_last
from alpipe.learners.nets.pyramid import MULTIPLE, STRIDES, PyramidDetector
from alpipe.learners.training import learner
from alpipe.learners.training.data import Frame
from alpipe.learners.training.learner import Setting, TrainedLearner, TrainedModel
from alpipe.learners.training.negatives import EMPTY_SHARE, EmptyShare
from alpipe.learners.training.options import Auto, TrainingOptions, steps_for
from alpipe.protocols import LearnerContext
from alpipe.types import Boxes, BoxPrediction, Example, Item, Negative, Task

TASKS = frozenset({Task.DETECT})

Batch: TypeAlias = Sequence[tuple[Item, Frame]]

SMALLEST = 16.0
"""Side, in network pixels, that an average box of the class of smallest boxes should have."""


class Options(TrainingOptions):
    """Settings of the dense detector."""

    image_size: Annotated[int, Field(ge=32, le=4096)] | Auto = Field(
        "auto",
        description="Longer side, in pixels, at which the network sees an image; smaller images stay as they are."
        " auto: as small as the boxes of the training images allow.",
    )
    learning_rate: float = Field(6e-3, gt=0, le=1, description="Peak learning rate of AdamW.")
    width: int = Field(
        64, ge=8, le=512, multiple_of=8, description="Channels of each level of the pyramid; the others follow."
    )
    depth: int = Field(1, ge=0, le=8, description="Residual blocks a stage.")
    rotate: float = Field(0.0, ge=0, le=180, description="Training images are turned by up to so many degrees.")
    finest: Literal[4, 8, 16] = Field(
        4,
        description="Pixels between two places of the finest level. 8 takes two thirds of the time of 4, and needs more"
        " labels for the same result where objects are small.",
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
    negative_weight: float = Field(1.5, ge=1, le=100, description="Weight of the class loss within hard negatives.")
    empty_share: EmptyShare = Field("auto", description=EMPTY_SHARE)
    min_score: float = Field(0.05, ge=0, lt=1, description="Boxes below this score are not reported.")
    max_boxes: int = Field(300, ge=1, le=10_000, description="Most boxes of an image, best first.")
    overlap: float = Field(0.6, gt=0, le=1, description="IoU over which the weaker of two boxes of a class falls.")


@final
class Detector:
    """What the detector has that other learners have not."""

    name, format, task, options, batch_size = "detector", 2, Task.DETECT, Options, 8

    def image_size(self, options: Options, train: Sequence[Example]) -> int:
        return _image_size(options, train)

    def steps(self, images: int, batch_size: int) -> int:
        return steps_for(images, batch_size, passes=2500, passes_an_image=20, most=12_000)

    def sees(self, setting: Setting[Options]) -> int:
        return setting.image_size

    def multiple(self, setting: Setting[Options]) -> int:  # noqa: ARG002 - the protocol's
        return MULTIPLE

    def network(self, setting: Setting[Options]) -> PyramidDetector:
        return network(setting.options, len(setting.classes), setting.image_size)

    def objective(
        self,
        setting: Setting[Options],
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        batch_size: int,
        device: torch.device,
    ) -> BoxObjective:
        options, classes, size = setting.options, setting.classes, setting.image_size
        return BoxObjective(
            gather(train, negatives, classes, size),
            gather(validation, (), classes, size),
            options.augmentation(),
            batch_size,
            Weighting(options.negative_weight, options.hard_negatives, options.rare_share, options.empty_share),
            STRIDES[STRIDES.index(options.finest) :],
            device,
        )

    def predict(
        self, net: PyramidDetector, images: torch.Tensor, batch: Batch, setting: Setting[Options]
    ) -> list[BoxPrediction]:
        return self._boxes(net, images, batch, setting, samples=0)

    def scan(
        self, net: PyramidDetector, images: torch.Tensor, batch: Batch, setting: Setting[Options]
    ) -> list[BoxPrediction]:
        return self._boxes(net, images, batch, setting, setting.options.samples)

    def _boxes(
        self, net: PyramidDetector, images: torch.Tensor, batch: Batch, setting: Setting[Options], samples: int
    ) -> list[BoxPrediction]:
        options, encoded = setting.options, net.encode(images)
        quality = torch.sigmoid(encoded.quality)[..., None]
        probs = (torch.sigmoid(net.classify(encoded.classes)) * quality).cpu().numpy()
        xyxy = encoded.boxes.cpu().numpy()
        voices = None
        if samples:
            sampled = sample_last(net.class_head, encoded.classes, options.dropout, samples)[..., 0].transpose(2, 3)
            voices = (torch.sigmoid(sampled) * quality).cpu().numpy()
        limits = Limits(options.min_score, options.overlap, options.max_boxes)
        return [
            decode(item.key, probs[i], xyxy[i], frame, limits, None if voices is None else voices[:, i])
            for i, (item, frame) in enumerate(batch)
        ]


DESIGN = Detector()


def build(options: Options, context: LearnerContext) -> TrainedLearner[Options]:
    """The learner, not fitted."""
    return TrainedLearner(DESIGN, options, context)


def load(folder: Path, context: LearnerContext) -> TrainedModel[Options]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    return learner.load(DESIGN, folder, context)


def pretrain(options: Options, context: LearnerContext, items: Sequence[Item], file: Path, **how: Any) -> None:
    """Writes weights for the encoder, trained on images without labels; see ``protocols.Pretrainable``."""
    pretrain_encoder(DESIGN, options, context, items, file, **how)


def network(options: Options, classes: int, image_size: int) -> PyramidDetector:  # noqa: ARG001 - of any size
    """The network, not trained."""
    return PyramidDetector(
        classes, options.width, options.depth, options.finest, options.dropout, options.convolution()
    )


def _image_size(options: Options, train: Sequence[Example]) -> int:
    """The longer side to use. ``auto``: so large that an average box of the class of smallest boxes is ``SMALLEST``
    pixels wide (medians of the geometric mean of the sides), a multiple of 32 within 160 and 640.
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
    needed = SMALLEST / max(min(float(np.median(some)) for some in sides.values()), 1e-3)
    return int(np.clip(round(needed / 32) * 32, 160, 640))
