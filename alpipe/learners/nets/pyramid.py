"""The detector's network: a small residual encoder, a feature pyramid, and a head on each of its levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from alpipe.learners.nets.blocks import STANDARD, Conv, ConvNormAct, Residual

STRIDES = (4, 8, 16, 32)
"""Image pixels between two places of each map that the encoder gives."""

MULTIPLE = STRIDES[-1]
"""Sides of the input must be multiples of this."""

PRIOR = 0.01
"""Class probability at the start: with rare objects, anything higher drowns the first steps (RetinaNet)."""

START = math.log(4.0)
"""Log of a box's side at the start, in strides of its level."""


class Encoded(NamedTuple):
    """What is said of an image's P places, level by level, but for the classes: ``classes`` (B, width, P, 1), the
    features that their last layer looks at; ``boxes`` (B, P, 4) xyxy in image pixels; ``quality`` (B, P), logits of the
    IoU that the boxes have with the objects.
    """

    classes: torch.Tensor
    boxes: torch.Tensor
    quality: torch.Tensor


class Encoder(nn.Module):
    """(B, 3, H, W) → maps of strides 4, 8, 16 and 32: a convolution of stride 2, then ``depth`` residual blocks."""

    def __init__(self, width: int, depth: int, conv: Conv) -> None:
        super().__init__()
        stem, *widths = (_rounded(width * share) for share in (0.5, 0.75, 1.5, 2.0, 3.0))
        self.stem = ConvNormAct(3, stem, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(before, after, stride=2, conv=conv), *(Residual(after, conv) for _ in range(depth))
            )
            for before, after in pairwise([stem, *widths])
        )
        self.widths = tuple(widths)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(images)
        maps: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Head(nn.Module):
    """What one level of the pyramid says: features for the classes, and for the boxes."""

    def __init__(self, width: int, depth: int, conv: Conv) -> None:
        super().__init__()
        self.classes = nn.Sequential(*(ConvNormAct(width, width, conv=conv) for _ in range(depth)))
        self.boxes = nn.Sequential(*(ConvNormAct(width, width, conv=conv) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.classes(x).flatten(2), self.boxes(x).flatten(2)


class PyramidDetector(nn.Module):
    """(B, 3, H, W) → class logits (B, P, C), boxes (B, P, 4) xyxy in image pixels, and logits of the boxes' quality
    (B, P), at the P places of all levels from stride ``finest`` to 32.

    A box is its centre's offset from the place and the logs of its sides, in strides: so it always has an area, and a
    place beside an object of two pixels can say its box as well as one within.
    """

    def __init__(
        self, classes: int, width: int, depth: int, finest: int = 4, dropout: float = 0.0, conv: Conv = STANDARD
    ) -> None:
        super().__init__()
        self.strides = STRIDES[STRIDES.index(finest) :]
        self.encoder = Encoder(width, depth, conv)
        widths = self.encoder.widths[-len(self.strides) :]
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths)
        self.smooth = nn.ModuleList(ConvNormAct(width, width, conv=conv) for _ in widths)
        self.heads = nn.ModuleList(Head(width, 1, conv) for _ in widths)
        self.dropout = nn.Dropout2d(dropout)
        self.class_head = nn.Conv2d(width, classes, 1)
        self.box_head = nn.Conv2d(width, 5, 1)
        self.encoder_channels = self.encoder.widths[-1]
        self.features = self.encoder_channels + width
        _start(self.class_head, [-math.log((1 - PRIOR) / PRIOR)] * classes)
        _start(self.box_head, [0.0, 0.0, START, START, 0.0])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        encoded = self.encode(images)
        return self.classify(encoded.classes), encoded.boxes, encoded.quality

    def encode(self, images: torch.Tensor) -> Encoded:
        """All but the dropout and the last layer of the classes."""
        levels = self._pyramid(self.encoder(images))
        classes, boxes = zip(*(head(level) for head, level in zip(self.heads, levels, strict=True)), strict=True)
        centres, strides = places([level.shape[2:] for level in levels], self.strides, images.device)
        raw = self.box_head(torch.cat(boxes, dim=2)[..., None])[..., 0].float().transpose(1, 2)
        middle = centres + raw[..., :2] * strides[:, None]
        # exp grows evenly in ratio, which suits boxes from tiny to huge; clamped, no step can overflow
        half = torch.exp(raw[..., 2:4].clamp(-4, 6)) * strides[:, None] / 2
        return Encoded(
            torch.cat(classes, dim=2)[..., None], torch.cat([middle - half, middle + half], dim=2), raw[..., 4]
        )

    def classify(self, classes: torch.Tensor) -> torch.Tensor:
        """Class logits (B, P, C) of ``Encoded.classes``; in training, and in no other case, with dropout."""
        logits: torch.Tensor = self.class_head(self.dropout(classes))
        return logits[..., 0].float().transpose(1, 2)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32: means over the image of the deepest and of the finest features."""
        maps = self.encoder(images)
        fine = self._pyramid(maps)[0]
        return torch.cat([maps[-1].float().mean(dim=(2, 3)), fine.float().mean(dim=(2, 3))], dim=1)

    def _pyramid(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The levels, finest first, each of ``width`` channels; coarse ones are added into finer ones."""
        top: torch.Tensor | None = None
        levels = []
        for lateral, smooth, x in zip(
            reversed(self.lateral), reversed(self.smooth), reversed(maps[-len(self.strides) :]), strict=True
        ):
            here = lateral(x)
            if top is not None:
                here = here + functional.interpolate(top, scale_factor=2.0, mode="nearest")
            top = smooth(here)
            levels.append(top)
        return levels[::-1]


def places(
    sizes: Sequence[Sequence[int]], strides: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (P, 2), x and y in image pixels, and strides (P,) of the places of levels of (h, w), level by level."""
    centres, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append((torch.stack([xs, ys], dim=2).reshape(-1, 2) + 0.5) * stride)
        steps.append(torch.full((height * width,), float(stride)))
    return torch.cat(centres).to(device), torch.cat(steps).to(device)


def _rounded(channels: float) -> int:
    return max(8, round(channels / 8) * 8)


def _start(head: nn.Conv2d, bias: Sequence[float]) -> None:
    nn.init.normal_(head.weight, std=0.01)
    with torch.no_grad():
        if head.bias is not None:
            head.bias.copy_(torch.tensor(bias))
