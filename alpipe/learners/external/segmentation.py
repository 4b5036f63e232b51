"""Segmenters of other packages as alpipe trains and asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar, final

import torch
from pydantic import Field
from torch import nn

from alpipe.learners.external.pixels import MEAN, STD, channels, normalised, pooled
from alpipe.learners.segmentation.labelled import gather
from alpipe.learners.segmentation.objective import MapObjective
from alpipe.learners.segmentation.sampling import PartSampler, reach_of
from alpipe.learners.training.augment import Augmenter
from alpipe.learners.training.data import Frame, canvas_size, round_up
from alpipe.learners.training.learner import Setting
from alpipe.learners.training.negatives import EMPTY_SHARE, EmptyShare
from alpipe.learners.training.options import Auto, FitOptions, long_side, steps_for
from alpipe.learners.training.tiling import Tiling
from alpipe.types import Example, Item, MapPrediction, Negative, Task

MULTIPLE = 32
"""The deepest maps of most networks are 1/32 of the image a side."""

TILE, SHARED = 1024, 128
"""Larger images, as the network sees them, are predicted in tiles of this side that share so many pixels."""

REPEAT_BELOW = 0.25
"""Images with a class that a smaller share of the images have are drawn more often."""


class MapOptions(FitOptions):
    """Settings of every segmenter of another package."""

    image_size: Annotated[int, Field(ge=32, le=4096)] | Auto = Field(
        "auto",
        description="Longer side, in pixels, at which the network sees an image; smaller images stay as they are."
        " auto: that of the largest training image, 512 at most.",
    )
    crop_size: int = Field(
        256, ge=32, le=4096, multiple_of=32, description="Training sees random parts of this many pixels a side."
    )
    learning_rate: float = Field(5e-4, gt=0, le=1, description="Peak learning rate of AdamW.")
    negative_weight: float = Field(3.0, ge=1, le=100, description="Weight of the background in hard negatives.")
    empty_share: EmptyShare = Field("auto", description=EMPTY_SHARE)


Opt = TypeVar("Opt", bound=MapOptions)


class MapNet(nn.Module):
    """A ``model`` that gives logits of the images' size, and its part, by name, that gives feature maps, the deepest
    last. Images are alpipe's input, (B, 3, H, W) around zero; the model gets them as ImageNet's networks want them.

    ``mean`` and ``std`` (3,) are those of the pixels in [0, 1] that its weights were trained with.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, encoder: str) -> None:
        super().__init__()
        self.model, self._encoder = model, encoder
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))
        self.features = channels(self.encoder)

    @property
    def encoder(self) -> nn.Module:
        """Images → feature maps."""
        found: nn.Module = getattr(self.model, self._encoder)
        return found

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Logits (B, 1 + C, H, W), as a network with one head."""
        made = self.model(normalised(images, self.mean, self.std))
        return [made["out"] if isinstance(made, dict) else made]  # torchvision gives a dict, smp a tensor

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32: mean over the image of the deepest map."""
        return pooled(self.encoder(normalised(images, self.mean, self.std)))


@final
class Segmenter(Generic[Opt]):
    """The design of a segmenter: ``make`` gives its network with random weights, for options, a number of classes and a
    size of images; ``multiple`` is what the sides of its input must be multiples of.
    """

    format, task, batch_size = 1, Task.SEGMENT, 8

    def __init__(
        self,
        name: str,
        options: type[Opt],
        make: Callable[[Opt, int, int], nn.Module],
        multiple: Callable[[Opt], int] = lambda _: MULTIPLE,
    ) -> None:
        self.name, self.options, self._make, self._multiple = name, options, make, multiple

    def image_size(self, options: Opt, train: Sequence[Example]) -> int:
        return options.image_size if options.image_size != "auto" else long_side(train, 512)

    def steps(self, images: int, batch_size: int) -> int:
        return steps_for(images, batch_size, passes=1600, passes_an_image=10, most=12_000)

    def sees(self, setting: Setting[Opt]) -> int:
        return min(setting.image_size, setting.options.crop_size)

    def multiple(self, setting: Setting[Opt]) -> int:
        return self._multiple(setting.options)

    def tiling(self, setting: Setting[Opt]) -> Tiling:  # noqa: ARG002
        return Tiling(TILE, SHARED)

    def network(self, setting: Setting[Opt]) -> nn.Module:
        return self._make(setting.options, len(setting.classes), setting.image_size)

    def objective(
        self,
        setting: Setting[Opt],
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        batch_size: int,
        device: torch.device,
    ) -> MapObjective:
        options, multiple = setting.options, self.multiple(setting)
        labelled = gather(train, negatives, setting.classes, setting.image_size)
        crop = round_up(options.crop_size, multiple)
        height, width = (min(side, crop) for side in canvas_size(labelled.frames.sizes, multiple))
        reach = reach_of((height, width), options.scale, options.rotate)
        return MapObjective(
            PartSampler(labelled, len(setting.classes), reach, REPEAT_BELOW, setting.options.empty_share),
            Augmenter(options.augmentation(), (height, width)),
            gather(validation, (), setting.classes, setting.image_size),
            TILE,
            multiple,
            batch_size,
            options.negative_weight,
            device,
        )

    def predict(
        self,
        net: Any,
        images: torch.Tensor,
        batch: Sequence[tuple[Item, Frame]],
        setting: Setting[Opt],  # noqa: ARG002
    ) -> list[MapPrediction]:
        probs = torch.softmax(net(images)[-1].float(), dim=1).cpu().numpy()
        predictions = []
        for one, (item, frame) in zip(probs, batch, strict=True):
            height, width = frame.pixels.shape[:2]
            predictions.append(MapPrediction(item.key, one[:, :height, :width].copy(), frame.size))
        return predictions

    scan = predict
