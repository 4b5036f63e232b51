"""A small U-Net++ with deep supervision, trained from scratch; it can be cut at any depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

import torch
from pydantic import Field, PositiveInt, model_validator

from alpipe.learners.autoencoder.encoders import pretrain_encoder
from alpipe.learners.nets.dropout import sample_last
from alpipe.learners.nets.nested import NestedUNet
from alpipe.learners.segmentation.depth import dice_by_depth, smallest
from alpipe.learners.segmentation.labelled import gather
from alpipe.learners.segmentation.objective import MapObjective
from alpipe.learners.segmentation.sampling import PartSampler, reach_of
from alpipe.learners.training import learner
from alpipe.learners.training.augment import Augmenter
from alpipe.learners.training.data import Frame, canvas_size
from alpipe.learners.training.learner import Setting, TrainedLearner, TrainedModel
from alpipe.learners.training.negatives import EMPTY_SHARE, EmptyShare
from alpipe.learners.training.options import TrainingOptions, long_side, steps_for
from alpipe.learners.training.tiling import Tiling
from alpipe.protocols import LearnerContext
from alpipe.types import Example, FloatArray, Item, MapPrediction, Negative, Task, is_empty

TASKS = frozenset({Task.SEGMENT})

FULL_SIZE = 1 << 20
"""No image is larger: none is scaled down."""

AUTO_SIZE = 512
"""The most pixels that image_size: auto gives."""

ENOUGH = 8
"""Validation images with an object from which on they can tell one depth from another."""

Width = Annotated[int, Field(ge=4, le=1024)]

Depth: TypeAlias = PositiveInt | Literal["auto", "full"]

Batch: TypeAlias = Sequence[tuple[Item, Frame]]


class Options(TrainingOptions):
    """Settings of the U-Net++."""

    image_size: Annotated[int, Field(ge=32, le=65_536)] | Literal["auto", "full"] = Field(
        "auto",
        description="Longer side, in pixels, at which the network sees an image; smaller images stay as they are."
        f" auto: that of the largest training image, {AUTO_SIZE} at most; full: images are never scaled down.",
    )
    crop_size: int = Field(
        128, ge=32, le=4096, multiple_of=32, description="Training sees random parts of this many pixels a side."
    )
    features: tuple[Width, ...] = Field(
        (16, 32, 64, 128, 256),
        min_length=2,
        max_length=6,
        description="Channels of each level, from the full size down; one more than the depth.",
    )
    depth: Depth = Field(
        "full",
        description="Depth at which the network predicts: 1 … full, or auto: the smallest whose Dice on the validation"
        " images is within the tolerance of the best (full with fewer than 8 of them). All depths are always trained.",
    )
    scan_depth: Depth = Field(
        "auto", description="The same for scoring the pool; with members, auto is 2 at least, so that there are some."
    )
    tolerance: float = Field(0.01, ge=0, le=1, description="Dice that depth: auto may lose for speed.")
    members: bool = Field(
        True, description="Whether a pool scan adds its heads as an ensemble; with samples, those stand in their place."
    )
    negative_weight: float = Field(3.0, ge=1, le=100, description="Weight of the background in hard negatives.")
    empty_share: EmptyShare = Field("auto", description=EMPTY_SHARE)
    repeat_below: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Images with a class that a smaller share than this of the images have are drawn more often, by"
        " √(this / share); 0: none are.",
    )
    tile: int = Field(
        1024,
        ge=64,
        le=16_384,
        multiple_of=32,
        description="Images of more pixels a side, as the network sees them, are predicted in tiles of this side.",
    )
    overlap: int = Field(128, ge=0, description="Pixels that neighbouring tiles share, half a tile at most.")

    def gives_members(self) -> bool:
        return self.samples >= 2 or (self.members and self.scan_depth != 1)

    @model_validator(mode="after")
    def _fit_each_other(self) -> Options:
        deepest = len(self.features) - 1
        for name in ("depth", "scan_depth"):
            value = getattr(self, name)
            if isinstance(value, int) and value > deepest:
                raise ValueError(f"{name} is {value}, but {deepest + 1} features give a depth of {deepest} at most")
        if self.overlap > self.tile // 2:
            raise ValueError(f"overlap is {self.overlap}, but may be half a tile at most, {self.tile // 2}")
        return self


def build(options: Options, context: LearnerContext) -> TrainedLearner[Options]:
    """The learner, not fitted."""
    return TrainedLearner(DESIGN, options, context)


def load(folder: Path, context: LearnerContext) -> TrainedModel[Options]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    return learner.load(DESIGN, folder, context)


def pretrain(options: Options, context: LearnerContext, items: Sequence[Item], file: Path, **how: Any) -> None:
    """Writes weights for the encoder, trained on images without labels; see ``protocols.Pretrainable``."""
    pretrain_encoder(DESIGN, options, context, items, file, **how)


def network(options: Options, classes: int, image_size: int) -> NestedUNet:  # noqa: ARG001 - of any size
    """The network, not trained."""
    return NestedUNet(1 + classes, options.features, options.convolution(), options.dropout)


@final
class UNetPlusPlus:
    """What a U-Net++ has that other learners have not."""

    name, format, task, options, batch_size = "unetpp", 2, Task.SEGMENT, Options, 8
    needs = frozenset({"depth", "scan_depth"})

    def image_size(self, options: Options, train: Sequence[Example]) -> int:
        match options.image_size:
            case "auto":
                return long_side(train, AUTO_SIZE)
            case "full":
                return FULL_SIZE
            case size:
                return size

    def steps(self, images: int, batch_size: int) -> int:
        return steps_for(images, batch_size, passes=1600, passes_an_image=10, most=8000)

    def sees(self, setting: Setting[Options]) -> int:
        return min(setting.image_size, setting.options.crop_size)

    def multiple(self, setting: Setting[Options]) -> int:
        return int(2 ** (len(setting.options.features) - 1))

    def tiling(self, setting: Setting[Options]) -> Tiling:
        return Tiling(setting.options.tile, setting.options.overlap)

    def network(self, setting: Setting[Options]) -> NestedUNet:
        return network(setting.options, len(setting.classes), setting.image_size)

    def objective(
        self,
        setting: Setting[Options],
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        batch_size: int,
        device: torch.device,
    ) -> MapObjective:
        options, multiple = setting.options, self.multiple(setting)
        labelled = gather(train, negatives, setting.classes, setting.image_size)
        height, width = canvas_size(labelled.frames.sizes, multiple)
        canvas = (min(height, options.crop_size), min(width, options.crop_size))
        reach = reach_of(canvas, options.scale, options.rotate)
        return MapObjective(
            PartSampler(labelled, len(setting.classes), reach, options.repeat_below, options.empty_share),
            Augmenter(options.augmentation(), canvas),
            gather(validation, (), setting.classes, setting.image_size),
            options.crop_size,
            multiple,
            batch_size,
            options.negative_weight,
            device,
        )

    def choose(
        self, model: TrainedModel[Options], train: Sequence[Example], validation: Sequence[Example]
    ) -> dict[str, Any]:
        """The depths at which the model predicts and scans, and what they were chosen on."""
        del train
        return _chosen(model.setting.options, model, validation)

    def predict(
        self, net: NestedUNet, images: torch.Tensor, batch: Batch, setting: Setting[Options]
    ) -> list[MapPrediction]:
        depth = setting.facts["depth"]
        logits = net.heads[depth - 1](net.columns(images, depth)[-1])
        return _maps(logits, (), batch)

    def scan(
        self, net: NestedUNet, images: torch.Tensor, batch: Batch, setting: Setting[Options]
    ) -> list[MapPrediction]:
        options, depth = setting.options, setting.facts["scan_depth"]
        columns = net.columns(images, depth)
        last: Any = net.heads[depth - 1]
        logits = last(columns[-1])
        voices: Sequence[torch.Tensor] = ()
        if options.samples:
            voices = list(sample_last(last, columns[-1], options.dropout, options.samples))
        elif options.members and depth > 1:
            voices = [*(head(made) for head, made in zip(net.heads, columns[:-1], strict=False)), logits]
        return _maps(logits, voices, batch)


DESIGN = UNetPlusPlus()


def _maps(logits: torch.Tensor, voices: Sequence[torch.Tensor], batch: Batch) -> list[MapPrediction]:
    """The predictions of a batch: (B, 1 + C, H, W) ``logits``, and those of the members."""
    said, *others = (torch.softmax(one.float(), dim=1).cpu().numpy() for one in (logits, *voices))
    predictions = []
    for index, (item, frame) in enumerate(batch):
        members = tuple(MapPrediction(item.key, _inside(one[index], frame), frame.size) for one in others)
        predictions.append(MapPrediction(item.key, _inside(said[index], frame), frame.size, members))
    return predictions


def _inside(probs: FloatArray, frame: Frame) -> FloatArray:
    """The part of a map (1 + C, H, W) that shows the image; copied where it is padded, so that the rest is let go."""
    height, width = frame.pixels.shape[:2]
    return probs if probs.shape[1:] == (height, width) else probs[:, :height, :width].copy()


def _chosen(options: Options, model: TrainedModel[Options], validation: Sequence[Example]) -> dict[str, Any]:
    """The depths at which the model predicts and scans, and what they were chosen on."""
    deepest = len(options.features) - 1
    dice: list[float] = []
    told = sum(not is_empty(example.labels) for example in validation)
    if told >= ENOUGH:
        heads = model.each([example.item for example in validation], every_head)
        pairs = ((made.members, example) for made, example in zip(heads, validation, strict=True))
        dice = dice_by_depth(pairs, model.classes)
    least = {"depth": 1, "scan_depth": min(2, deepest) if options.members and not options.samples else 1}

    def depth(name: str) -> int:
        value: Depth = getattr(options, name)
        if value == "auto" and dice:
            return smallest(dice, options.tolerance, least[name])
        return value if isinstance(value, int) else deepest

    return {
        "depth": depth("depth"),
        "scan_depth": depth("scan_depth"),
        "dice_by_depth": dice,
        "chosen_on": len(validation) if dice else 0,
    }


def every_head(net: NestedUNet, images: torch.Tensor, batch: Batch, _: Setting[Options]) -> list[MapPrediction]:
    """Predictions whose members are the heads, shallowest first."""
    heads = net(images)
    return _maps(heads[-1], heads, batch)
