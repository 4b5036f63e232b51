"""A small ConvNet classifier after the CS231n notes, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field

from alpipe.learners.autoencoder.encoders import pretrain_encoder
from alpipe.learners.classification.objective import ClassObjective, gather
from alpipe.learners.nets.convnet import ConvNet, Layout
from alpipe.learners.nets.dropout import sample_last
from alpipe.learners.training import learner
from alpipe.learners.training.augment import Flip
from alpipe.learners.training.data import Frame
from alpipe.learners.training.learner import Setting, TrainedLearner, TrainedModel
from alpipe.learners.training.negatives import MORE_OFTEN, is_hard
from alpipe.learners.training.options import Auto, TrainingOptions, long_side, steps_for
from alpipe.protocols import LearnerContext
from alpipe.types import ClassPrediction, Example, Item, Negative, Task

TASKS = frozenset({Task.CLASSIFY})

LARGEST = 64
"""Image size up to which ``auto`` goes."""

Width = Annotated[int, Field(ge=4, le=2048)]


class Options(TrainingOptions):
    """Settings of the classifier."""

    image_size: Annotated[int, Field(ge=8, le=4096)] | Auto = Field(
        "auto",
        description="Side, in pixels, of the square at which the network sees an image; smaller images stay as they"
        " are within it. auto: that of the largest training image, 64 at most, rounded down to what the layers allow.",
    )
    features: tuple[Width, ...] = Field(
        (16, 32, 64, 128), min_length=1, max_length=8, description="Channels of each stage."
    )
    convs: int = Field(2, ge=1, le=8, description="Convolutions a stage, each with batch norm and ReLU.")
    kernel: int = Field(3, ge=1, le=15, description="Side of the convolutions' windows.")
    stride: int = Field(1, ge=1, le=8, description="Step of the first convolution of each stage.")
    padding: int = Field(1, ge=0, le=7, description="Zeros around the input of each convolution.")
    pool: Literal["max", "none"] = Field("max", description="2×2 pooling after each stage; none: stride should shrink.")
    last_pool: Literal["average", "none"] = Field(
        "average", description="Whether the fully connected layers see the mean of the last map, or all its places."
    )
    hidden: tuple[Width, ...] = Field((128,), max_length=4, description="Neurons of each hidden fully connected layer.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of the last layer's inputs that a step leaves out.")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="Share of the truth spread over all classes.")
    hard_often: float = Field(
        MORE_OFTEN, ge=1, le=100, description="How much more often images are drawn that were taken for another class."
    )
    flip: Flip = Field(
        Flip.NONE,
        description="Mirror images that are as good as the original: none (digits, letters, classes of left and"
        " right), horizontal, or both.",
    )

    def layout(self) -> Layout:
        """The layers that these options ask for."""
        return Layout(
            self.features,
            self.convs,
            self.kernel,
            self.stride,
            self.padding,
            self.pool,
            self.last_pool,
            self.hidden,
        )


@final
class Classifier:
    """What the classifier has that other learners have not."""

    name, format, task, options, batch_size = "cnn", 2, Task.CLASSIFY, Options, 16

    def image_size(self, options: Options, train: Sequence[Example]) -> int:
        if options.image_size != "auto":
            return options.image_size
        return options.layout().fitting_size(long_side(train, LARGEST))

    def steps(self, images: int, batch_size: int) -> int:
        return steps_for(images, batch_size, passes=8_000, passes_an_image=40, most=40_000)

    def sees(self, setting: Setting[Options]) -> int:
        return setting.image_size

    def multiple(self, setting: Setting[Options]) -> int:
        return setting.image_size  # every image is padded to the one size that the network takes

    def network(self, setting: Setting[Options]) -> ConvNet:
        return network(setting.options, len(setting.classes), setting.image_size)

    def objective(
        self,
        setting: Setting[Options],
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        batch_size: int,
        device: torch.device,
    ) -> ClassObjective:
        options, size = setting.options, setting.image_size
        return ClassObjective(
            gather(train, setting.classes, size),
            gather(validation, setting.classes, size),
            options.augmentation(),
            batch_size,
            size,
            options.label_smoothing,
            device,
            is_hard([example.item for example in train], negatives),
            options.hard_often,
        )

    def predict(
        self,
        net: ConvNet,
        images: torch.Tensor,
        batch: Sequence[tuple[Item, Frame]],
        setting: Setting[Options],  # noqa: ARG002 - the protocol's
    ) -> list[ClassPrediction]:
        probs = torch.softmax(net(images), dim=1).cpu().numpy()
        return [ClassPrediction(item.key, row) for (item, _), row in zip(batch, probs, strict=True)]

    def scan(
        self, net: ConvNet, images: torch.Tensor, batch: Sequence[tuple[Item, Frame]], setting: Setting[Options]
    ) -> list[ClassPrediction]:
        options = setting.options
        if not options.samples:
            return self.predict(net, images, batch, setting)
        seen = net.embed(images)
        probs = torch.softmax(net.head(seen).float(), dim=1).cpu().numpy()
        sampled = torch.softmax(sample_last(net.head, seen, options.dropout, options.samples), dim=2).cpu().numpy()
        return [
            ClassPrediction(item.key, row, tuple(ClassPrediction(item.key, one) for one in sampled[:, at]))
            for at, ((item, _), row) in enumerate(zip(batch, probs, strict=True))
        ]


DESIGN = Classifier()


def build(options: Options, context: LearnerContext) -> TrainedLearner[Options]:
    """The learner, not fitted. Raises ConfigError for layers that do not fit a given image size."""
    if options.image_size != "auto":
        options.layout().last_map(options.image_size)
    return TrainedLearner(DESIGN, options, context)


def load(folder: Path, context: LearnerContext) -> TrainedModel[Options]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    return learner.load(DESIGN, folder, context)


def pretrain(options: Options, context: LearnerContext, items: Sequence[Item], file: Path, **how: Any) -> None:
    """Writes weights for the encoder, trained on images without labels; see ``protocols.Pretrainable``."""
    pretrain_encoder(DESIGN, options, context, items, file, **how)


def network(options: Options, classes: int, image_size: int) -> ConvNet:
    """The network for images of that size. Raises ConfigError for layers that do not fit it."""
    return ConvNet(options.layout(), classes, image_size, options.dropout, options.convolution())
