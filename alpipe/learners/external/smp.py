"""Any model of segmentation_models_pytorch, with any of its encoders."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from alpipe.errors import ConfigError
from alpipe.learners.external.packages import brief, fetching, package
from alpipe.learners.external.segmentation import MULTIPLE, MapNet, MapOptions, Segmenter
from alpipe.learners.training import learner
from alpipe.learners.training.learner import Setting, TrainedLearner, TrainedModel
from alpipe.protocols import LearnerContext, ProgressCallback
from alpipe.types import Progress, Task

TASKS = frozenset({Task.SEGMENT})

INSTALL = "alpipe[smp]"
REQUIRES = {"segmentation_models_pytorch": INSTALL}

TIMM = "tu-"
"""What encoders of timm begin with; their name says which weights they have."""


class Options(MapOptions):
    """Settings of a model of segmentation_models_pytorch."""

    architecture: str = Field("Unet", description="Unet, UnetPlusPlus, FPN, DeepLabV3Plus, Segformer or another one.")
    encoder: str = Field("resnet34", description="Any encoder of the package; tu-NAME for one of timm.")
    weights: str = Field(
        "imagenet",
        description="What the encoder starts from: imagenet, or others that the package has for it (downloaded once"
        " from the Hugging Face hub), or none.",
    )


def build(options: Options, context: LearnerContext) -> TrainedLearner[Options]:
    """The learner, not fitted. Raises PluginError where the package does not work, ConfigError for names that it does
    not know.
    """
    _check(options)
    return TrainedLearner(DESIGN, options, context, None if options.weights == "none" else start)


def load(folder: Path, context: LearnerContext) -> TrainedModel[Options]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    return learner.load(DESIGN, folder, context)


def network(options: Options, classes: int, image_size: int) -> nn.Module:  # noqa: ARG001 - any size will do
    """The model with random weights; its first output is the background. Raises ConfigError where it cannot be made."""
    _check(options)
    try:
        return MapNet(_model(options, classes + 1, None), "encoder")
    except Exception as error:  # each encoder has conditions and errors of its own
        raise ConfigError(
            f"segmentation_models_pytorch cannot make a {options.architecture} with encoder {options.encoder!r}"
            f" ({brief(error)}); choose another encoder"
        ) from error


def start(net: MapNet, setting: Setting[Options], progress: ProgressCallback) -> None:
    """Fills the encoder with the package's weights. Raises TrainingError where they cannot be had."""
    smp, options = _package(), setting.options
    what = f"weights {options.weights!r} of encoder {options.encoder!r}"
    progress(Progress("train", 0, 0, f"loading {what}; they are downloaded the first time"))
    with fetching(what):
        weights: str | bool = True if options.encoder.startswith(TIMM) else options.weights
        model = _model(options, 1 + len(setting.classes), weights)
        pixels = smp.encoders.get_preprocessing_params(options.encoder, options.weights)
    if pixels["input_space"] != "RGB":
        raise ConfigError(f"{what} want {pixels['input_space']} images; choose others")
    net.encoder.load_state_dict(model.encoder.state_dict())
    most = float(pixels["input_range"][1])  # 1, or 255 where mean and std are those of bytes
    net.mean.copy_(torch.tensor(pixels["mean"]) / most)
    net.std.copy_(torch.tensor(pixels["std"]) / most)


def _package() -> Any:
    return package("segmentation_models_pytorch", INSTALL)


def _model(options: Options, outputs: int, weights: str | bool | None) -> Any:
    more = {"dynamic_img_size": True} if options.architecture == "DPT" else {}  # else its encoders take one size alone
    return getattr(_package(), options.architecture)(
        encoder_name=options.encoder, encoder_weights=weights, in_channels=3, classes=outputs, **more
    )


def _check(options: Options) -> None:
    smp = _package()
    known = smp.encoders.encoders
    made = smp.MODEL_ARCHITECTURES_MAPPING.values()
    _one_of("architecture", options.architecture, [kind.__name__ for kind in made])
    if not options.encoder.startswith(TIMM):
        _one_of("encoder", options.encoder, known)
        _one_of("weights", options.weights, [*known[options.encoder]["pretrained_settings"], "none"])


def _one_of(option: str, value: str, known: Iterable[str]) -> None:
    names = list(known)
    if value not in names:
        near = difflib.get_close_matches(value, names, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"learner 'smp': unknown {option} {value!r}; {hint}")


def _multiple(options: Options) -> int:
    # PAN halves a map of 1/16 of the size three times
    return 128 if options.architecture == "PAN" else MULTIPLE


DESIGN = Segmenter("smp", Options, network, _multiple)
