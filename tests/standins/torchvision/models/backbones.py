"""Tiny classifiers, named inside as torchvision names the parts of its own, and their maps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn

CHANNELS = (8, 16)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class ResNet(nn.Module):
    """Its stages stand beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = _block(8, CHANNELS[0], 4)
        self.layer2 = _block(CHANNELS[0], CHANNELS[1], 4)
        self.fc = nn.Linear(CHANNELS[1], 1000)


class MobileNet(nn.Module):
    """Its blocks stand in ``features``, by number."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_block(3, CHANNELS[0], 8), _block(CHANNELS[0], CHANNELS[1], 4))
        self.classifier = nn.Linear(CHANNELS[1], 1000)


CLASSIFIERS = {"resnet50": ResNet, "resnet101": ResNet, "mobilenet_v3_large": MobileNet}


class IntermediateLayerGetter(nn.ModuleDict):
    """The children of a module up to the last wanted one; gives the outputs of the wanted ones under new names."""

    def __init__(self, model: nn.Module, return_layers: Mapping[str, str]) -> None:
        parts = dict(model.named_children())
        last = list(parts).index(list(return_layers)[-1])
        super().__init__(dict(list(parts.items())[: last + 1]))
        self.return_layers = dict(return_layers)

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        out: OrderedDict[str, torch.Tensor] = OrderedDict()
        for name, part in self.items():
            x = part(x)
            if name in self.return_layers:
                out[self.return_layers[name]] = x
        return out


def maps(name: str, low: str, high: str) -> IntermediateLayerGetter:
    """The two maps of a backbone, the deepest last."""
    net = CLASSIFIERS[name]()
    if isinstance(net, MobileNet):
        return IntermediateLayerGetter(net.features, {"0": low, "1": high})
    return IntermediateLayerGetter(net, {"layer1": low, "layer2": high})
