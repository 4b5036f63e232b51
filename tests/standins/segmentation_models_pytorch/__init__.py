"""Stands in for segmentation_models_pytorch where it is not installed: tiny networks behind the names alpipe uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from segmentation_models_pytorch import encoders

__version__ = "0.0+standin"


class SegmentationModel(nn.Module):
    """An encoder, a head on its deepest map, logits of the image's size."""

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.encoder = encoders.get_encoder(encoder_name, in_channels, encoder_depth, encoder_weights)
        self.segmentation_head = nn.Sequential(nn.Conv2d(self.encoder.out_channels[-1], classes, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(side % self.encoder.output_stride for side in x.shape[-2:]):
            raise RuntimeError(f"Wrong input shape height={x.shape[-2]}, width={x.shape[-1]}.")
        masks = self.segmentation_head(self.encoder(x)[-1])
        return functional.interpolate(masks, size=x.shape[-2:], mode="bilinear", align_corners=False)


class Unet(SegmentationModel):
    """As the real one from outside."""


class UnetPlusPlus(SegmentationModel):
    """As the real one from outside."""


MODEL_ARCHITECTURES_MAPPING = {kind.__name__.lower(): kind for kind in (Unet, UnetPlusPlus)}
