"""The dense detector's network: a small residual trunk, a top-down path to stride 4, and two heads."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from alpipe.learners.nets.blocks import ConvNormAct, Residual

STRIDE = 4
"""Image pixels between two places of the output."""

MULTIPLE = 32
"""Sides of the input must be multiples of this."""

PRIOR = 0.01
"""Class probability at the start: with rare objects, anything higher drowns the first steps (RetinaNet)."""


class DenseDetector(nn.Module):
    """(B, 3, H, W) → class logits (B, C, H/4, W/4) and distances (B, 4, H/4, W/4) in pixels, each positive, from the
    place's centre to the left, top, right and bottom edge of the box around it.
    """

    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * factor // 4 for factor in (2, 4, 6, 8, 8)]  # strides 2, 4, 8, 16, 32
        self.stem = ConvNormAct(3, widths[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNormAct(before, after, stride=2), *(Residual(after) for _ in range(depth)))
            for before, after in pairwise(widths)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths[1:])
        self.smooth = nn.ModuleList(ConvNormAct(width, width) for _ in widths[2:])
        self.class_tower = nn.Sequential(ConvNormAct(width, width), ConvNormAct(width, width))
        self.box_tower = nn.Sequential(ConvNormAct(width, width), ConvNormAct(width, width))
        self.class_head = nn.Conv2d(width, classes, 1)
        self.box_head = nn.Conv2d(width, 4, 1)
        self.features = widths[-1] + width
        _start(self.class_head, -math.log((1 - PRIOR) / PRIOR))
        _start(self.box_head, 1.0)

    def trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Deepest features (B, D, H/32, W/32) and the top-down map (B, width, H/4, W/4)."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        top = self.lateral[-1](maps[-1])
        for level in reversed(range(len(maps) - 1)):
            top = functional.interpolate(top, scale_factor=2.0, mode="nearest") + self.lateral[level](maps[level])
            top = self.smooth[level](top)
        return maps[-1], top

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, top = self.trunk(images)
        logits = self.class_head(self.class_tower(top)).float()
        # exp grows evenly in ratio, which suits boxes from tiny to huge; clamped, no step can overflow
        distances = torch.exp(self.box_head(self.box_tower(top)).float().clamp(-4, 6)) * STRIDE
        return logits, distances

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32: means over the image of the deepest and of the finest features."""
        deep, fine = self.trunk(images)
        return torch.cat([deep.float().mean(dim=(2, 3)), fine.float().mean(dim=(2, 3))], dim=1)


def _start(head: nn.Conv2d, bias: float) -> None:
    nn.init.normal_(head.weight, std=0.01)
    if head.bias is not None:
        nn.init.constant_(head.bias, bias)
