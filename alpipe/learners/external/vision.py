"""What torchvision's detectors and segmenters share: the package, and its weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from alpipe.learners.external.packages import fetching, fill, package
from alpipe.protocols import ProgressCallback
from alpipe.types import Progress

INSTALL = "alpipe[torchvision]"
REQUIRES = {"torchvision": INSTALL}


def builder(kind: str, architecture: str) -> Any:
    """The function of ``torchvision.models.KIND`` that builds the network. Raises PluginError where it is not there."""
    return getattr(package(f"torchvision.models.{kind}", INSTALL), architecture)


def start(
    net: nn.Module, backbone: nn.Module, weights: str, architecture: str, features: str, progress: ProgressCallback
) -> None:
    """Fills the network with torchvision's ``weights`` of the ``architecture``, but for layers with an output a class;
    or, where they are of ImageNet, its ``backbone`` with those of the classifier ``features``. Raises TrainingError
    where they cannot be had.
    """
    models = package("torchvision.models", INSTALL)
    whole = not weights.startswith("IMAGENET")
    owner = architecture if whole else features
    what = f"torchvision's weights {weights} of {owner}"
    progress(Progress("train", 0, 0, f"loading {what}; they are downloaded the first time"))
    found = models.get_model_weights(owner)[weights]
    with fetching(f"{what} ({found.url})"):
        state = found.get_state_dict(progress=False, check_hash=True)
    # a MobileNet's backbone is the classifier's part ``features``
    state = state if whole else {name.removeprefix("features."): tensor for name, tensor in state.items()}
    fill(net if whole else backbone, state, what)
