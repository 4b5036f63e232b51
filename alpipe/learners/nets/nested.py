"""U-Net++ (Zhou et al. 2018, 2020): a U-Net at every depth, sharing nested dense skip connections.

Node X(i, j) lies at level i (1/2ⁱ of the size) and sees all earlier nodes of its level and the one below:
X(i, j) = conv([X(i, 0), …, X(i, j − 1), up(X(i + 1, j − 1))]), X(i, 0) = conv(down(X(i − 1, 0))). Each X(0, j), j ≥ 1,
carries a head (deep supervision) and is the output of a U-Net of depth j.

The papers put two 3×3 convolutions everywhere. Here they are at X(i, 0), i ≥ 1, alone, and one elsewhere; at level 0,
where a channel costs the most, a 1×1 convolution before it brings what is joined to the channels of the level: with
features 16 … 256 that is half the multiply-adds. The part from below is narrowed where it has a quarter of the pixels,
and then raised by repeating them: the 3×3 convolution that follows smooths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from alpipe.learners.nets.blocks import RGB, STANDARD, Conv, ConvNormAct


class Node(nn.Sequential):
    """Two 3×3 convolutions: what stands at each X(i, 0), i ≥ 1."""

    def __init__(self, inputs: int, outputs: int, conv: Conv) -> None:
        super().__init__(ConvNormAct(inputs, outputs, conv=conv), ConvNormAct(outputs, outputs, conv=conv))


class Encoder(nn.Module):
    """(B, 3, H, W) → the maps X(0, 0) … X(depth, 0): map i is (B, features[i], H/2ⁱ, W/2ⁱ)."""

    def __init__(self, features: Sequence[int], conv: Conv) -> None:
        super().__init__()
        deeper = (Node(*widths, conv) for widths in pairwise(features))
        self.levels = nn.ModuleList([ConvNormAct(RGB, features[0]), *deeper])

    def forward(self, images: torch.Tensor, depth: int | None = None) -> list[torch.Tensor]:
        """All maps, or those down to ``depth``."""
        maps = [self.levels[0](images)]
        for level in self.levels[1:] if depth is None else self.levels[1 : depth + 1]:
            maps.append(level(functional.max_pool2d(maps[-1], 2)))
        return maps


class Joint(nn.Module):
    """X(i, j), j ≥ 1: joins the earlier nodes of a level with the one below by a 3×3 convolution over all of them."""

    def __init__(self, earlier: int, width: int, below: int, conv: Conv) -> None:
        super().__init__()
        self.below = nn.Conv2d(below, width, 1, bias=False)
        self.joined = ConvNormAct((earlier + 1) * width, width, conv=conv)

    def forward(self, earlier: list[torch.Tensor], below: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.joined(torch.cat([*earlier, _raised(self.below(below))], dim=1))
        return made


class ThinJoint(nn.Module):
    """X(0, j): as a Joint, but the 3×3 convolution is over a sum of 1×1 ones."""

    def __init__(self, earlier: int, width: int, below: int, conv: Conv) -> None:
        super().__init__()
        self.below = nn.Conv2d(below, width, 1, bias=False)
        self.beside = nn.Conv2d(earlier * width, width, 1, bias=False)
        self.joined = ConvNormAct(width, width, conv=conv)

    def forward(self, earlier: list[torch.Tensor], below: torch.Tensor) -> torch.Tensor:
        beside = torch.cat(earlier, dim=1) if len(earlier) > 1 else earlier[0]  # of one alone it would be a copy
        made: torch.Tensor = self.joined(self.beside(beside) + _raised(self.below(below)))
        return made


class NestedUNet(nn.Module):
    """(B, 3, H, W) → one (B, channels, H, W) tensor of logits for each depth 1 … len(features) − 1.

    H and W must be multiples of 2 to the power of the depth. ``dropout`` is the share of X(0, j)'s channels that a
    training step leaves out before each head.
    """

    def __init__(self, channels: int, features: Sequence[int], conv: Conv = STANDARD, dropout: float = 0.0) -> None:
        super().__init__()
        self.depth = len(features) - 1
        self.encoder = Encoder(features, conv)
        self.joints = nn.ModuleDict()
        for level, width in enumerate(features[:-1]):
            for column in range(1, self.depth - level + 1):
                joint = Joint if level else ThinJoint
                self.joints[_name(level, column)] = joint(column, width, features[level + 1], conv)
        self.dropout = nn.Dropout2d(dropout)
        self.heads = nn.ModuleList(nn.Conv2d(features[0], channels, 1) for _ in range(self.depth))
        self.features = self.encoder_channels = features[-1]

    def forward(self, images: torch.Tensor, depth: int | None = None) -> list[torch.Tensor]:
        """Logits of the heads of depth 1 … ``depth`` (all by default). Nothing deeper is computed."""
        return [head(self.dropout(made)) for head, made in zip(self.heads, self.columns(images, depth), strict=False)]

    def columns(self, images: torch.Tensor, depth: int | None = None) -> list[torch.Tensor]:
        """(B, features[0], H, W) each: X(0, 1) … X(0, ``depth``), what the heads see. Nothing deeper is computed."""
        depth = self.depth if depth is None else depth
        levels = [[first] for first in self.encoder(images, depth)]  # of each level, the nodes made so far
        for column in range(1, depth + 1):
            for level in range(depth - column + 1):
                levels[level].append(self.joints[_name(level, column)](levels[level], levels[level + 1][column - 1]))
        return levels[0][1:]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32: mean over the image of the deepest encoder map."""
        deepest: torch.Tensor = self.encoder(images)[-1]
        return deepest.float().mean(dim=(2, 3))


def _raised(x: torch.Tensor) -> torch.Tensor:
    """Twice as high and wide."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _name(level: int, column: int) -> str:
    return f"x{level}_{column}"
