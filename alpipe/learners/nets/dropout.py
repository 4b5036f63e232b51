"""Monte-Carlo dropout in the last layer alone (Gal & Ghahramani 2016), so that all before it is computed once."""

from __future__ import annotations

import torch
from torch import nn


def sample_last(
    layer: nn.Linear | nn.Conv2d, features: torch.Tensor, dropout: float, samples: int, seed: int = 0
) -> torch.Tensor:
    """(T, B, C, …) outputs of T thinned copies of the last layer, for features (B, D, …) that precede its dropout.

    Each copy lacks a random share ``dropout`` of the D inputs and has the others scaled by 1 / (1 − dropout). Leaving
    out an input is leaving out a column of the weights, so T copies are one layer with T·C outputs: nothing of the
    size of the features is drawn or copied. The copies depend on the seed alone: they are T fixed sub-networks, the
    same for every image, so that a prediction does not depend on its neighbours, and can be repeated.
    """
    if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
        raise ValueError(f"the last layer has a kernel of {layer.kernel_size}, expected (1, 1)")
    outputs, inputs = layer.weight.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    kept = (torch.rand(samples, 1, inputs, generator=generator) >= dropout).float() / (1 - dropout)
    thinned = (layer.weight.reshape(1, outputs, inputs) * kept.to(layer.weight.device)).flatten(0, 1)
    # one product, and not a convolution: its result has the channels first, as the softmax over them wants it
    made = torch.matmul(thinned, features.flatten(2) if features.ndim > 2 else features[..., None]).float()
    if layer.bias is not None:
        made += layer.bias.float().repeat(samples)[:, None]
    return made.reshape(len(features), samples, outputs, *features.shape[2:]).transpose(0, 1)
