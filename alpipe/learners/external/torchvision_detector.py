"""Torchvision's detectors, trained further from COCO: Faster R-CNN, RetinaNet, FCOS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field
from torch import nn

from alpipe.learners.detection.labelled import gather
from alpipe.learners.external import vision
from alpipe.learners.external.detection import MULTIPLE, DetectionNet, OwnLosses, prediction
from alpipe.learners.training import learner
from alpipe.learners.training.data import Frame
from alpipe.learners.training.learner import Setting, TrainedLearner, TrainedModel
from alpipe.learners.training.negatives import EMPTY_SHARE, EmptyShare
from alpipe.learners.training.options import Auto, FitOptions, long_side, steps_for
from alpipe.protocols import LearnerContext, ProgressCallback
from alpipe.types import BoxPrediction, Example, Item, Negative, Task

TASKS = frozenset({Task.DETECT})

REQUIRES = vision.REQUIRES

BACKBONES = {
    "fasterrcnn_resnet50_fpn_v2": "resnet50",
    "fasterrcnn_mobilenet_v3_large_fpn": "mobilenet_v3_large",
    "retinanet_resnet50_fpn_v2": "resnet50",
    "fcos_resnet50_fpn": "resnet50",
}


class Options(FitOptions):
    """Settings of a torchvision detector."""

    architecture: Literal[
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "retinanet_resnet50_fpn_v2",
        "fcos_resnet50_fpn",
    ] = Field("fasterrcnn_resnet50_fpn_v2", description="A function of torchvision.models.detection.")
    weights: Literal["COCO_V1", "IMAGENET1K_V1", "IMAGENET1K_V2", "none"] = Field(
        "COCO_V1",
        description="What training starts from: COCO_V1 for the whole detector, IMAGENET1K_V1 or V2 for its backbone"
        " (torchvision downloads them once, up to 170 MB), or none.",
    )
    image_size: Annotated[int, Field(ge=64, le=4096)] | Auto = Field(
        "auto",
        description="Longer side, in pixels, at which the network sees an image; smaller images stay as they are."
        " auto: that of the largest training image, 800 at most.",
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Peak learning rate of AdamW.")
    min_score: float = Field(0.05, ge=0, lt=1, description="Boxes below this score are not reported.")
    max_boxes: int = Field(300, ge=1, le=10_000, description="Most boxes of an image, best first.")
    empty_share: EmptyShare = Field("auto", description=EMPTY_SHARE)
    overlap: float = Field(0.5, gt=0, le=1, description="IoU over which the weaker of two boxes of a class falls.")


def build(options: Options, context: LearnerContext) -> TrainedLearner[Options]:
    """The learner, not fitted. Raises PluginError where torchvision does not work."""
    vision.builder("detection", options.architecture)
    return TrainedLearner(DESIGN, options, context, None if options.weights == "none" else start)


def load(folder: Path, context: LearnerContext) -> TrainedModel[Options]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    return learner.load(DESIGN, folder, context)


def network(options: Options, classes: int, image_size: int) -> nn.Module:  # noqa: ARG001 - any size will do
    """The detector with random weights. Its one output more than there are classes is the background."""
    make = vision.builder("detection", options.architecture)
    box = "box_" if options.architecture.startswith("fasterrcnn") else ""
    asked = {"score_thresh": options.min_score, "nms_thresh": options.overlap, "detections_per_img": options.max_boxes}
    model = make(
        weights=None,
        weights_backbone=None,
        num_classes=classes + 1,
        **{f"{box}{name}": value for name, value in asked.items()},
    )
    return DetectionNet(model, keep_norms=options.weights != "none")


def start(net: DetectionNet, setting: Setting[Options], progress: ProgressCallback) -> None:
    """Fills the network, or its backbone, with torchvision's weights; layers with an output a class stay random."""
    options = setting.options
    features = BACKBONES[options.architecture]
    vision.start(net.model, net.model.backbone.body, options.weights, options.architecture, features, progress)


@final
class Detector:
    """A torchvision detector, which computes its losses by itself."""

    name, format, task, options, batch_size = "torchvision-detector", 1, Task.DETECT, Options, 4

    def image_size(self, options: Options, train: Sequence[Example]) -> int:
        return options.image_size if options.image_size != "auto" else long_side(train, 800)

    def steps(self, images: int, batch_size: int) -> int:
        return steps_for(images, batch_size, passes=1600, passes_an_image=12, most=16_000)

    def sees(self, setting: Setting[Options]) -> int:
        return setting.image_size

    def multiple(self, setting: Setting[Options]) -> int:  # noqa: ARG002
        return MULTIPLE

    def network(self, setting: Setting[Options]) -> nn.Module:
        return network(setting.options, len(setting.classes), setting.image_size)

    def objective(
        self,
        setting: Setting[Options],
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        batch_size: int,
        device: torch.device,
    ) -> OwnLosses:
        return OwnLosses(
            gather(train, negatives, setting.classes, setting.image_size),
            gather(validation, (), setting.classes, setting.image_size),
            setting.options.augmentation(),
            batch_size,
            device,
            setting.options.empty_share,
        )

    def predict(
        self, net: Any, images: torch.Tensor, batch: Sequence[tuple[Item, Frame]], setting: Setting[Options]
    ) -> list[BoxPrediction]:
        found = zip(batch, net.detect(images), strict=True)
        return [prediction(item.key, one, frame, len(setting.classes)) for (item, frame), one in found]

    scan = predict


DESIGN = Detector()
