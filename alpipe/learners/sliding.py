"""A ConvNet classifier of regions that slides over an image pyramid, trained from scratch.

The plain way from a classifier to a detector. Training: random regions of the labelled images, one that overlaps a box
by an IoU of 0.5 or more is of its class, the others are background, hard negatives among them (R-CNN, Girshick et al.
2014). Prediction: the classifier turned fully convolutional slides over the image, stretched once for each window shape
(OverFeat, Sermanet et al. 2014; the CS231n notes' "Converting FC layers to CONV layers"). Its boxes are the windows
themselves: it is simpler and weaker than a detector that learns where the edges are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
import torch
from pydantic import Field

from alpipe.errors import ConfigError
from alpipe.learners.detection.decode import Limits, decode
from alpipe.learners.detection.labelled import gather
from alpipe.learners.detection.regions import Drawing, RegionObjective
from alpipe.learners.detection.windows import Level, inner, pyramid, window_shapes
from alpipe.learners.nets.convnet import ConvNet, Layout, SlidingConvNet, convolutional
from alpipe.learners.nets.dropout import sample_last
from alpipe.learners.training import learner
from alpipe.learners.training.data import Frame
from alpipe.learners.training.learner import Setting, TrainedLearner, TrainedModel
from alpipe.learners.training.negatives import EMPTY_SHARE, EmptyShare
from alpipe.learners.training.options import Auto, TrainingOptions, long_side, steps_for
from alpipe.protocols import LearnerContext
from alpipe.types import Boxes, BoxPrediction, Example, FloatArray, Item, Negative, Task

TASKS = frozenset({Task.DETECT})

LARGEST = 640
"""Image size up to which ``auto`` goes."""

PIXELS_AT_ONCE = 1 << 21
"""Of a level of the pyramid: small windows in large images make huge levels."""

Width = Annotated[int, Field(ge=4, le=2048)]


class Options(TrainingOptions):
    """Settings of the sliding classifier."""

    batch_size: Annotated[int, Field(ge=2)] | Auto = Field(
        "auto", description="Windows a step; auto: the learner's usual number, fewer where memory is short."
    )
    image_size: Annotated[int, Field(ge=32, le=4096)] | Auto = Field(
        "auto",
        description="Longer side, in pixels, to which larger images are scaled down. auto: as small as the smaller ones"
        " of the training boxes allow.",
    )
    window: Annotated[int, Field(ge=12, le=256)] = Field(
        32, description="Side, in pixels, of the classifier's window, 4 of them context on each side of a box."
    )
    windows: int = Field(8, ge=1, le=64, description="Shapes of windows at most; each is a level of the pyramid.")
    features: tuple[Width, ...] = Field(
        (24, 48), min_length=1, max_length=6, description="Channels of each stage; 2×2 pooling ends each."
    )
    convs: int = Field(2, ge=1, le=8, description="Convolutions a stage, each with batch norm and ReLU.")
    hidden: tuple[Width, ...] = Field((96,), max_length=4, description="Neurons of each hidden fully connected layer.")
    positive_iou: float = Field(0.5, gt=0, le=1, description="Overlap with a box from which a region is of its class.")
    hard_share: float = Field(0.25, ge=0, le=1, description="Share of hard negatives in the regions of their images.")
    empty_share: EmptyShare = Field("auto", description=EMPTY_SHARE)
    rotate: float = Field(0.0, ge=0, le=180, description="Training images are turned by up to so many degrees.")
    min_score: float = Field(0.05, ge=0, lt=1, description="Boxes below this score are not reported.")
    max_boxes: int = Field(100, ge=1, le=10_000, description="Most boxes of an image, best first.")
    overlap: float = Field(0.3, gt=0, le=1, description="IoU over which the weaker of two boxes of a class falls.")

    def layout(self) -> Layout:
        """The layers that these options ask for: without padding, so that they can slide."""
        return Layout(self.features, self.convs, padding=0, hidden=self.hidden)


@final
class SlidingWindows:
    """What the sliding classifier has that other learners have not."""

    name, format, task, options, batch_size = "sliding", 1, Task.DETECT, Options, 128
    needs = frozenset({"window_shapes"})

    def image_size(self, options: Options, train: Sequence[Example]) -> int:
        """``auto``: so large that nine boxes in ten are as large as the classifier's window (geometric mean of the
        sides), at most the largest image.
        """
        largest = long_side(train, LARGEST)
        if options.image_size != "auto":
            return options.image_size
        longer = [np.full(len(_boxes(one)), max(one.item.width, one.item.height)) for one in train]
        sides = np.sqrt(np.concatenate([_sides(one) for one in train]).prod(axis=1)) / np.concatenate(longer)
        if not len(sides):
            return largest
        return min(max(64, round(inner(options.window) / float(np.quantile(sides, 0.1)))), largest)

    def steps(self, images: int, batch_size: int) -> int:
        return steps_for(images, batch_size, passes=140_000, passes_an_image=150, most=250_000)

    def sees(self, setting: Setting[Options]) -> int:
        return setting.options.window

    def multiple(self, setting: Setting[Options]) -> int:  # noqa: ARG002 - the protocol's
        return 1

    def network(self, setting: Setting[Options]) -> SlidingConvNet:
        return network(setting.options, len(setting.classes), setting.image_size)

    def objective(
        self,
        setting: Setting[Options],
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        batch_size: int,
        device: torch.device,
    ) -> RegionObjective:
        options, classes = setting.options, setting.classes
        given = gather(train, negatives, classes, setting.image_size)
        counts = np.bincount(np.concatenate(given.class_index), minlength=len(classes))
        weights = (1 / np.maximum(1, counts)).astype(np.float32)
        return RegionObjective(
            given,
            gather(validation, (), classes, setting.image_size),
            Drawing(_shapes(options, setting.image_size, train), options.positive_iou, options.hard_share, weights),
            options.augmentation(),
            batch_size,
            options.window,
            device,
            options.empty_share,
        )

    def choose(
        self, model: TrainedModel[Options], train: Sequence[Example], validation: Sequence[Example]
    ) -> dict[str, Any]:
        """The shapes of the windows, from the training boxes."""
        del validation
        shapes = _shapes(model.setting.options, model.setting.image_size, train)
        return {"window_shapes": np.round(shapes.astype(float), 2).tolist()}

    def predict(
        self, net: SlidingConvNet, images: torch.Tensor, batch: Sequence[tuple[Item, Frame]], setting: Setting[Options]
    ) -> list[BoxPrediction]:
        return [self._slide(net, image, *given, setting, samples=0) for image, given in zip(images, batch, strict=True)]

    def scan(
        self, net: SlidingConvNet, images: torch.Tensor, batch: Sequence[tuple[Item, Frame]], setting: Setting[Options]
    ) -> list[BoxPrediction]:
        samples = setting.options.samples
        return [self._slide(net, image, *given, setting, samples) for image, given in zip(images, batch, strict=True)]

    def _slide(
        self,
        net: SlidingConvNet,
        image: torch.Tensor,
        item: Item,
        frame: Frame,
        setting: Setting[Options],
        samples: int,
    ) -> BoxPrediction:
        """The boxes of one image (3, h, w): each level in one pass."""
        options = setting.options
        shapes = np.array(setting.facts["window_shapes"], np.float32)
        levels = pyramid((image.shape[1], image.shape[2]), shapes, options.window, options.layout().step)
        made = [_probabilities(net, level, image, options.dropout, samples) for level in levels]
        probs, *voices = np.concatenate(made, axis=1)
        xyxy = np.concatenate([level.boxes() for level in levels])
        limits = Limits(options.min_score, options.overlap, options.max_boxes)
        return decode(item.key, probs, xyxy, frame, limits, np.stack(voices) if voices else None)


DESIGN = SlidingWindows()


def build(options: Options, context: LearnerContext) -> TrainedLearner[Options]:
    """The learner, not fitted. Raises ConfigError for layers that do not fit the window."""
    try:
        options.layout().last_map(options.window)
    except ConfigError as error:
        raise ConfigError(f"window {options.window} does not fit the layers: {error}") from error
    return TrainedLearner(DESIGN, options, context)


def load(folder: Path, context: LearnerContext) -> TrainedModel[Options]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    return learner.load(DESIGN, folder, context)


def network(options: Options, classes: int, image_size: int) -> SlidingConvNet:  # noqa: ARG001 - the protocol's
    """The classifier, turned convolutional: it takes images of any size from that of its window on. Raises ConfigError
    for layers that do not fit the window.
    """
    net = ConvNet(options.layout(), 1 + classes, options.window, options.dropout, options.convolution())
    return convolutional(net)


def _probabilities(net: SlidingConvNet, level: Level, image: torch.Tensor, dropout: float, samples: int) -> FloatArray:
    """(1 + samples, places, C) probabilities of the classes at a level: the network's, then those of its samples."""
    made = []
    for band in level.bands(level.image(image), PIXELS_AT_ONCE):
        seen = net.seen(band)
        logits = net.head(seen).float()[None]
        if samples:
            logits = torch.cat([logits, sample_last(net.head, seen, dropout, samples)])
        made.append(torch.softmax(logits, dim=2)[:, 0, 1:].flatten(2).transpose(1, 2).cpu().numpy())
    probs: FloatArray = np.concatenate(made, axis=1)
    return probs


def _shapes(options: Options, image_size: int, train: Sequence[Example]) -> FloatArray:
    """The windows' widths and heights in pixels of images scaled down to ``image_size``."""
    sides = [_sides(one) * min(1.0, image_size / max(one.item.width, one.item.height)) for one in train]
    return window_shapes(np.concatenate(sides), options.windows, options.window)


def _boxes(example: Example) -> FloatArray:
    return example.labels.xyxy if isinstance(example.labels, Boxes) else np.zeros((0, 4), np.float32)


def _sides(example: Example) -> FloatArray:
    xyxy = _boxes(example)
    return xyxy[:, 2:] - xyxy[:, :2]
