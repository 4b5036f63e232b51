"""The small convolutional networks of the autoencoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from alpipe.learners.nets.blocks import ConvNormAct

MULTIPLE = 16
"""Sides of the square that is encoded and decoded are multiples of this."""

_SMALLEST = 4  # side of the map between encoder and decoder, at least


def halvings(side: int) -> int:
    """How often a side is halved on its way to the map between encoder and decoder (4 to 7 places a side)."""
    count = 0
    while side % 2 == 0 and side // 2 >= _SMALLEST:
        side, count = side // 2, count + 1
    return count


def widths(side: int, width: int) -> list[int]:
    """Channels after each halving: doubled twice, then the same."""
    return [width * min(2**stage, 4) for stage in range(halvings(side))]


class ConvEncoder(nn.Sequential):
    """(B, 3, side, side) → (B, D, 4 … 7, 4 … 7): a stride-2 convolution a stage."""

    def __init__(self, side: int, width: int) -> None:
        channels = widths(side, width)
        super().__init__(
            *(ConvNormAct(inputs, outputs, stride=2) for inputs, outputs in pairwise([3, *channels])),
        )
        self.features = channels[-1]


class ConvDecoder(nn.Module):
    """(B, latent) → (B, 3, side, side): one linear layer to the smallest map, then a transposed convolution a stage.

    It fits any encoder, since all that it sees is the latent vector.
    """

    def __init__(self, side: int, width: int, latent: int) -> None:
        super().__init__()
        channels = widths(side, width)[::-1]
        smallest = side >> len(channels)
        self.first = nn.Sequential(
            nn.Linear(latent, channels[0] * smallest**2),
            nn.Unflatten(1, (channels[0], smallest, smallest)),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(
            *(Doubling(inputs, outputs) for inputs, outputs in pairwise(channels)),
            nn.ConvTranspose2d(channels[-1], 3, 4, stride=2, padding=1),
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self.stages(self.first(latents))
        return decoded


class Doubling(nn.Sequential):
    """Transposed convolution to twice the size, batch norm, ReLU. Kernel 4 at stride 2 covers all places evenly."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )
