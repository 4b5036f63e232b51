"""U-Net++ (Zhou et al. 2018, 2020): a U-Net at every depth, sharing nested dense skip connections.

Node X(i, j) lies at level i (1/2ⁱ of the size) and sees all earlier nodes of its level and the one below:
X(i, j) = conv([X(i, 0), …, X(i, j − 1), up(X(i + 1, j − 1))]), X(i, 0) = conv(down(X(i − 1, 0))). Each X(0, j), j ≥ 1,
carries a head (deep supervision) and is the output of a U-Net of depth j.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from alpipe.learners.nets.blocks import ConvNormAct


class Node(nn.Sequential):
    """Two 3×3 convolutions: what stands at each X(i, j)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(ConvNormAct(inputs, outputs), ConvNormAct(outputs, outputs))


class NestedUNet(nn.Module):
    """(B, 3, H, W) → one (B, channels, H, W) tensor of logits for each depth 1 … len(features) − 1.

    H and W must be multiples of 2 to the power of the depth.
    """

    def __init__(self, channels: int, features: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(features) - 1
        self.nodes = nn.ModuleDict()
        for level, width in enumerate(features):
            self.nodes[_name(level, 0)] = Node(features[level - 1] if level else 3, width)
            for column in range(1, self.depth - level + 1):
                self.nodes[_name(level, column)] = Node(column * width + features[level + 1], width)
        self.heads = nn.ModuleList(nn.Conv2d(features[0], channels, 1) for _ in range(self.depth))
        self.features = features[-1]

    def forward(self, images: torch.Tensor, depth: int | None = None) -> list[torch.Tensor]:
        """Logits of the heads of depth 1 … ``depth`` (all by default). Nothing deeper is computed."""
        depth = self.depth if depth is None else depth
        columns = [self._encode(images, depth)]
        for column in range(1, depth + 1):
            columns.append(
                [
                    self._node(level, column, [*(earlier[level] for earlier in columns)], columns[-1][level + 1])
                    for level in range(depth - column + 1)
                ]
            )
        return [head(made[0]) for head, made in zip(self.heads, columns[1:], strict=False)]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32: mean over the image of the deepest encoder map."""
        return self._encode(images, self.depth)[-1].float().mean(dim=(2, 3))

    def _encode(self, images: torch.Tensor, depth: int) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = [self.nodes[_name(0, 0)](images)]
        for level in range(1, depth + 1):
            maps.append(self.nodes[_name(level, 0)](functional.max_pool2d(maps[-1], 2)))
        return maps

    def _node(self, level: int, column: int, earlier: list[torch.Tensor], below: torch.Tensor) -> torch.Tensor:
        raised = functional.interpolate(below, scale_factor=2.0, mode="bilinear", align_corners=False)
        made: torch.Tensor = self.nodes[_name(level, column)](torch.cat([*earlier, raised], dim=1))
        return made


def _name(level: int, column: int) -> str:
    return f"x{level}_{column}"
