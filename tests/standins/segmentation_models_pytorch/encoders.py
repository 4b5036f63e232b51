"""Stands in for segmentation_models_pytorch.encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Encoder(nn.Module):
    """Gives the image itself and its maps, the deepest last."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels, self.output_stride = [3, 8, 16], 32
        self.stages = nn.ModuleList([_block(3, 8, 8), _block(8, 16, 4)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = [x]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


encoders: dict[str, dict[str, Any]] = {
    name: {"pretrained_settings": {"imagenet": {}, "ssl": {}}} for name in ("resnet18", "resnet34")
}


def get_encoder(name: str, in_channels: int = 3, depth: int = 5, weights: str | None = None) -> Encoder:
    """The encoder; weights would come from the hub."""
    if name not in encoders:
        raise KeyError(f"Wrong encoder name `{name}`, supported encoders: {list(encoders)}")
    if weights is not None:
        raise OSError("there is no hub behind a stand-in")
    return Encoder()


def get_preprocessing_params(encoder_name: str, pretrained: str = "imagenet") -> dict[str, Any]:
    """What the weights were trained with."""
    return {"input_space": "RGB", "input_range": [0, 1], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
