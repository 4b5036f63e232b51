"""Stands in for torchvision.models.segmentation: a backbone, a 1×1 classifier, logits of the image's size."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from torchvision.models.backbones import CHANNELS, maps


class _Segmenter(nn.Module):
    def __init__(self, backbone: nn.Module, deepest: str, num_classes: int) -> None:
        super().__init__()
        self.backbone, self._deepest = backbone, deepest
        self.classifier = nn.Sequential(nn.BatchNorm2d(CHANNELS[-1]), nn.Conv2d(CHANNELS[-1], num_classes, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classifier(self.backbone(x)[self._deepest])
        made = functional.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return OrderedDict(out=made)


def _build(
    backbone: str,
    names: tuple[str, str],
    *,
    weights: None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: None = None,
    **kwargs: Any,
) -> nn.Module:
    if weights is not None or weights_backbone is not None:
        raise NotImplementedError("a stand-in has no weights in its constructor")
    return _Segmenter(maps(backbone, *names), names[-1], num_classes or 21)


deeplabv3_resnet50 = partial(_build, "resnet50", ("aux", "out"))
deeplabv3_resnet101 = partial(_build, "resnet101", ("aux", "out"))
deeplabv3_mobilenet_v3_large = partial(_build, "mobilenet_v3_large", ("aux", "out"))
lraspp_mobilenet_v3_large = partial(_build, "mobilenet_v3_large", ("low", "high"))
fcn_resnet50 = partial(_build, "resnet50", ("aux", "out"))
