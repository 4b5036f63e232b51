"""Torchvision's segmenters, trained further from COCO: DeepLabV3, LR-ASPP, FCN."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import nn

from alpipe.learners.external import vision
from alpipe.learners.external.segmentation import MapNet, MapOptions, Segmenter
from alpipe.learners.training import learner
from alpipe.learners.training.learner import Setting, TrainedLearner, TrainedModel
from alpipe.protocols import LearnerContext, ProgressCallback
from alpipe.types import Task

TASKS = frozenset({Task.SEGMENT})

REQUIRES = vision.REQUIRES

BACKBONES = {
    "deeplabv3_resnet50": "resnet50",
    "deeplabv3_resnet101": "resnet101",
    "deeplabv3_mobilenet_v3_large": "mobilenet_v3_large",
    "lraspp_mobilenet_v3_large": "mobilenet_v3_large",
    "fcn_resnet50": "resnet50",
}


class Options(MapOptions):
    """Settings of a torchvision segmenter."""

    architecture: Literal[
        "deeplabv3_resnet50",
        "deeplabv3_resnet101",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
        "fcn_resnet50",
    ] = Field("deeplabv3_resnet50", description="A function of torchvision.models.segmentation.")
    weights: Literal["COCO_WITH_VOC_LABELS_V1", "IMAGENET1K_V1", "IMAGENET1K_V2", "none"] = Field(
        "COCO_WITH_VOC_LABELS_V1",
        description="What training starts from: COCO_WITH_VOC_LABELS_V1 for the whole network, IMAGENET1K_V1 or V2 for"
        " its backbone (torchvision downloads them once, up to 240 MB), or none.",
    )


def build(options: Options, context: LearnerContext) -> TrainedLearner[Options]:
    """The learner, not fitted. Raises PluginError where torchvision does not work."""
    vision.builder("segmentation", options.architecture)
    return TrainedLearner(DESIGN, options, context, None if options.weights == "none" else start)


def load(folder: Path, context: LearnerContext) -> TrainedModel[Options]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    return learner.load(DESIGN, folder, context)


def network(options: Options, classes: int, image_size: int) -> nn.Module:  # noqa: ARG001 - any size will do
    """The segmenter with random weights; its first output is the background."""
    make = vision.builder("segmentation", options.architecture)
    return MapNet(make(weights=None, weights_backbone=None, num_classes=classes + 1), "backbone")


def start(net: MapNet, setting: Setting[Options], progress: ProgressCallback) -> None:
    """Fills the network, or its backbone, with torchvision's weights; layers with an output a class stay random."""
    options = setting.options
    features = BACKBONES[options.architecture]
    vision.start(net.model, net.encoder, options.weights, options.architecture, features, progress)


DESIGN = Segmenter("torchvision-segmenter", Options, network)
