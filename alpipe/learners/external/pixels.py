"""Between alpipe's images and embeddings and those of networks trained on ImageNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from alpipe.learners.training.data import FILL

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels: red, green, blue in [0, 1]."""

Maps: TypeAlias = (
    torch.Tensor | Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | tuple[Sequence[torch.Tensor], Any]
)
"""Feature maps, the deepest last: one, by name (torchvision), in a list (smp), or in a list beside a ViT's tokens."""


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Alpipe's input, (pixel − 128) / 64, as pixels in [0, 1]."""
    return (images * 64 + FILL) / 255


def normalised(images: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    """Alpipe's input with the ``mean`` and ``std`` of three channels in [0, 1] that a network was trained with."""
    centre, spread = (torch.as_tensor(value, device=images.device)[:, None, None] for value in (mean, std))
    return (to_unit(images) - centre) / spread


def pooled(maps: Maps) -> torch.Tensor:
    """(B, D) float32: the mean over the image of the deepest map, the last one."""
    found: Any = maps[0] if isinstance(maps, tuple) else maps
    if not isinstance(found, torch.Tensor):
        found = list(found.values() if isinstance(found, Mapping) else found)[-1]
    deepest: torch.Tensor = found
    return deepest.float().mean(dim=(2, 3))


def channels(encoder: nn.Module) -> int:
    """Channels of the encoder's deepest map, by trying it; it is left in training mode."""
    encoder.eval()
    with torch.no_grad():
        found = pooled(encoder(torch.zeros(1, 3, 64, 64))).shape[1]
    encoder.train()
    return int(found)
