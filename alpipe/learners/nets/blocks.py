"""The blocks that all networks are made of, and the one choice of convolution that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from alpipe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Conv:
    """How a k×k convolution from C to D channels is made, and what it costs in weights.

    ``standard``: k²·C·D. ``group``: ``groups`` independent convolutions, k²·C·D / groups (Krizhevsky et al. 2012); with
    ``shuffle`` the output channels of all groups are interleaved, so that the next layer's groups see all of them
    (ShuffleNet, Zhang et al. 2018). ``separable``: k×k on each channel by itself, then 1×1 over the channels, with
    nothing in between, k²·C + C·D (MobileNet, Howard et al. 2017). Multiply-adds are the weights times the places of
    the output.
    """

    kind: Literal["standard", "group", "separable"] = "standard"
    groups: int = 4
    shuffle: bool = True


STANDARD = Conv()

RGB = 3
"""Channels of an image."""


class ChannelShuffle(nn.Module):
    """Interleaves the channels of g groups: channel (group i, place j) goes to j·g + i."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        apart = x.reshape(batch, self.groups, channels // self.groups, height, width)
        # the copy keeps channels last, which the next convolution wants
        return apart.transpose(1, 2).reshape(x.shape).contiguous(memory_format=torch.channels_last)


def conv2d(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int | None = None, conv: Conv = STANDARD
) -> nn.Module:
    """A convolution without bias, of the kind ``conv``; ``padding`` None keeps the size (with odd kernels).

    Raises ConfigError where the channels cannot be divided into the groups.
    """
    around = kernel // 2 if padding is None else padding
    if conv.kind == "standard" or kernel == 1:
        return nn.Conv2d(inputs, outputs, kernel, stride, around, bias=False)
    if conv.kind == "separable":
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, kernel, stride, around, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )
    if inputs % conv.groups or outputs % conv.groups:
        raise ConfigError(
            f"a convolution from {inputs} to {outputs} channels cannot be cut into {conv.groups} groups;"
            f" groups must divide the channels of every layer, as {_divisors(math.gcd(inputs, outputs))} would these"
        )
    grouped = nn.Conv2d(inputs, outputs, kernel, stride, around, groups=conv.groups, bias=False)
    return nn.Sequential(grouped, ChannelShuffle(conv.groups)) if conv.shuffle else grouped


def _divisors(number: int) -> str:
    found = [str(divisor) for divisor in range(2, number + 1) if number % divisor == 0]
    return " or ".join(found) if found else "none"


class ConvNormAct(nn.Sequential):
    """Convolution with 'same' padding, batch norm, ReLU. The first layer, with its 3 channels, stays standard."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, conv: Conv = STANDARD) -> None:
        super().__init__(
            conv2d(inputs, outputs, kernel, stride, conv=conv if inputs != RGB else STANDARD),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3×3 convolutions around a shortcut; starts out as the identity."""

    def __init__(self, channels: int, conv: Conv = STANDARD) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels, conv=conv)
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.second = nn.Sequential(conv2d(channels, channels, conv=conv), norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))
