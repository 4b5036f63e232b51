"""A ConvNet after the CS231n notes: INPUT → [[CONV → RELU]×N → POOL?]×M → [FC → RELU]×K → FC.

Stanford's course notes "Convolutional Neural Networks for Visual Recognition" give the pattern, the arithmetic of
output sizes, and the conversion of fully connected layers into convolutions; two departures: a batch norm stands
between each CONV and its RELU, which the notes allow, and dropout before the last FC.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from alpipe.errors import ConfigError
from alpipe.learners.nets.blocks import RGB, STANDARD, Conv, conv2d


class Layer(NamedTuple):
    """A window of F×F places that moves by S places over an input with P zeros around it."""

    name: str
    kind: Literal["conv", "pool"]
    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The pattern's numbers. ``features``: channels of each of the M stages; ``convs``: N, convolutions a stage;
    ``kernel``, ``stride`` (of a stage's first convolution, the others move by 1) and ``padding`` of the convolutions;
    ``pool``: 2×2 max pooling after each stage, or none; ``last_pool``: the mean of the last map, as one more POOL, or
    none; ``hidden``: neurons of each of the K hidden fully connected layers.
    """

    features: tuple[int, ...]
    convs: int = 1
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: Literal["max", "none"] = "max"
    last_pool: Literal["average", "none"] = "none"
    hidden: tuple[int, ...] = ()

    def stages(self) -> list[list[Layer]]:
        """The layers of each stage that move over places, in order."""
        made = []
        for stage in range(1, len(self.features) + 1):
            layers = [
                Layer(f"stage {stage}, conv {conv}", "conv", self.kernel, self.stride if conv == 1 else 1, self.padding)
                for conv in range(1, self.convs + 1)
            ]
            if self.pool == "max":
                layers.append(Layer(f"stage {stage}, pool", "pool", 2, 2, 0))
            made.append(layers)
        return made

    def layers(self) -> list[Layer]:
        """The layers of all stages."""
        return [layer for stage in self.stages() for layer in stage]

    @property
    def step(self) -> int:
        """Input pixels between two places of the last map: the product of the strides."""
        step = 1
        for layer in self.layers():
            step *= layer.stride
        return step

    def last_map(self, image_size: int) -> int:
        """The side of the last map, by (W − F + 2P) / S + 1, which must be whole at every layer.

        Raises ConfigError, which names the layer where it is not.
        """
        side = image_size
        for name, _, kernel, stride, padding in self.layers():
            span = side - kernel + 2 * padding
            if span < 0 or span % stride:
                raise ConfigError(
                    f"{name}: (W − F + 2P)/S + 1 = ({side} − {kernel} + 2·{padding})/{stride} + 1 ="
                    f" {span / stride + 1:g} is not a whole, positive number of places, for an image of {image_size}"
                    f" pixels; {self._advice(image_size)}"
                )
            side = span // stride + 1
        return side

    def fitting_size(self, wanted: int) -> int:
        """The largest image size up to ``wanted`` at which every layer's arithmetic comes out whole, or the smallest
        there is. Sizes that do lie ``step`` apart: they are the last map's 1, 2, 3, … places gone back through the
        layers, W = (places − 1)·S + F − 2P.
        """
        places = 1
        while (smallest := self._back(places)) < 1:  # padding can make up for a whole image, which is none
            places += 1
        return smallest + max(0, wanted - smallest) // self.step * self.step

    def _back(self, places: int) -> int:
        side = places
        for _, _, kernel, stride, padding in reversed(self.layers()):
            side = (side - 1) * stride + kernel - 2 * padding
            if side < 1:
                return side
        return side

    def _advice(self, image_size: int) -> str:
        below = self.fitting_size(image_size)
        above = below + self.step if below < image_size else below
        sizes = f"{below} or {above}" if below < image_size else f"{above}"
        return f"with these layers it may be {sizes}, or change kernel, stride, padding, convs, pool or features"


class Encoder(nn.Sequential):
    """(B, 3, H, W) → the map after each stage, the deepest last."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stage in self:
            images = stage(images)
            maps.append(images)
        return maps


class ConvNet(nn.Module):
    """(B, 3, W, W) → (B, classes) logits, for images of one size W. Raises ConfigError for a layout that does not fit
    the size, and for channels that cannot be cut into the groups of ``conv``.
    """

    def __init__(
        self, layout: Layout, classes: int, image_size: int, dropout: float = 0.0, conv: Conv = STANDARD
    ) -> None:
        super().__init__()
        self.layout, self.image_size = layout, image_size
        places = layout.last_map(image_size)
        before = (RGB, *layout.features[:-1])
        self.encoder = Encoder(
            *(_stage(*given, conv) for given in zip(before, layout.features, layout.stages(), strict=True))
        )
        self.encoder_channels = layout.features[-1]
        averaged = layout.last_pool == "average"
        self.last_pool = nn.AvgPool2d(places, stride=1) if averaged else nn.Identity()
        self.places = 1 if averaged else places
        widths = (self.encoder_channels * self.places**2, *layout.hidden)
        layers = [(nn.Linear(*pair), nn.ReLU(inplace=True)) for pair in pairwise(widths)]
        self.hidden = nn.Sequential(*(layer for both in layers for layer in both))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)
        self.features = widths[-1]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, features) float32: what the last fully connected layer sees."""
        last: torch.Tensor = self.last_pool(self.encoder(images)[-1])
        made: torch.Tensor = self.hidden(last.flatten(1))
        return made.float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(self.embed(images)))
        return logits.float()


class SlidingConvNet(nn.Module):
    """(B, 3, H, W) → (B, classes, h, w) logits, H and W at least the size that the ConvNet was made for: what it says
    of each crop of that size, a crop each ``layout.step`` pixels from the top left corner on, in one pass.

    The weights are the ConvNet's own: the first FC becomes a convolution with a kernel of the last map's size, the
    others 1×1 ones.
    """

    def __init__(self, net: ConvNet) -> None:
        super().__init__()
        self.encoder, self.encoder_channels, self.features = net.encoder, net.encoder_channels, net.features
        self.last_pool, self.dropout, self.image_size = net.last_pool, net.dropout, net.image_size
        kernels = (net.places, *(1 for _ in net.layout.hidden))
        linear = [layer for layer in (*net.hidden, net.head) if isinstance(layer, nn.Linear)]
        *hidden, self.head = (_as_convolution(*given) for given in zip(linear, kernels, strict=True))
        self.hidden = nn.Sequential(*(layer for one in hidden for layer in (one, nn.ReLU(inplace=True))))

    def seen(self, images: torch.Tensor) -> torch.Tensor:
        """(B, features, h, w): what the last layer sees."""
        made: torch.Tensor = self.hidden(self.last_pool(self.encoder(images)[-1]))
        return made

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, features) float32: the mean over the places of what the last layer sees; images may be of any size."""
        right, below = (max(0, self.image_size - side) for side in (images.shape[3], images.shape[2]))
        return self.seen(functional.pad(images, (0, right, 0, below))).float().mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(self.seen(images)))
        return logits.float()


def convolutional(net: ConvNet) -> SlidingConvNet:
    """The network with its fully connected layers turned into convolutions, on the same weights.

    Raises ConfigError where a convolution pads: the zeros around a crop would be the crop's neighbours in the larger
    image, and the numbers would differ.
    """
    for layer in net.layout.layers():
        if layer.padding:
            raise ConfigError(
                f"{layer.name} pads by {layer.padding}: over a larger image it would see neighbours where a crop has"
                " zeros; a network that slides needs padding 0"
            )
    return SlidingConvNet(net)


def _stage(inputs: int, outputs: int, layers: list[Layer], conv: Conv) -> nn.Sequential:
    made: list[nn.Module] = []
    for _, kind, kernel, stride, padding in layers:
        if kind == "pool":
            made.append(nn.MaxPool2d(kernel, stride))
            continue
        how = conv if inputs != RGB else STANDARD  # three channels are too few to be cut up
        made += [conv2d(inputs, outputs, kernel, stride, padding, how), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*made)


def _as_convolution(layer: nn.Linear, kernel: int) -> nn.Conv2d:
    """The convolution that does at each place what the layer does with a flattened kernel×kernel map."""
    channels = layer.in_features // kernel**2
    with torch.device("meta"):
        made = nn.Conv2d(channels, layer.out_features, kernel)
    made.weight = nn.Parameter(layer.weight.detach().view(layer.out_features, channels, kernel, kernel))
    made.bias = nn.Parameter(layer.bias.detach())
    return made.train(layer.training)
