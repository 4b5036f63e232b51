"""Likelihoods p(x | z) of a variational autoencoder: what the decoder's output says of the image.

Both take the decoder's output and the image as (B, C, H, W), and optionally ``inside`` (B, 1, H, W), 1 where there is
image and 0 where there is padding. Padding is no part of the image: it neither costs nor counts.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional


class Likelihood(Protocol):
    """What a likelihood has to be (a module, since it may have a state)."""

    def __call__(self, decoded: torch.Tensor, target: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        """log p(x | z) in nats, (B,) float32: summed over the pixels and channels inside."""


class Bernoulli(nn.Module):
    """Independent Bernoulli pixels; the decoder's output is logits, the image lies in [0, 1].

    log p(x | z) = Σ x log π + (1 − x) log (1 − π), π = sigmoid(logit) (Kingma & Welling 2014, appendix C.1). For grey
    values between 0 and 1 it is no normalised density, but the bound that is customary for digits.
    """

    def forward(self, decoded: torch.Tensor, target: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        cost = functional.binary_cross_entropy_with_logits(decoded.float(), target.float(), reduction="none")
        return -_sum(cost, inside)


class Gaussian(nn.Module):
    """Independent Gaussian pixels around the decoder's output, with one scale σ for all pixels of all images.

    log p(x | z) = −½ Σ ((x − μ)² / σ² + log 2πσ²). With ``scale`` given, σ is fixed. Without, it is the one that
    maximises the likelihood, which has a closed form, σ² = mean of (x − μ)² (Rybkin et al. 2021, "Simple and effective
    VAE training with calibrated decoders"): of the batch while training, so that reconstruction and KL divergence
    are in balance at every step and without a weight to tune; afterwards that of the images given to ``calibrate``.

    σ never falls below ``floor`` (in units of the image), where the density would describe the rounding of pixels.
    """

    scale: torch.Tensor

    def __init__(self, scale: float | None = None, floor: float = 1e-3) -> None:
        super().__init__()
        if not (scale is None or scale > 0) or not floor > 0:
            raise ValueError(f"scale {scale} and floor {floor} must be positive")
        self.fitted, self.floor = scale is None, floor
        self.register_buffer("scale", torch.tensor(1.0 if scale is None else scale))

    def forward(self, decoded: torch.Tensor, target: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        squares = _sum((decoded.float() - target.float()).square(), inside)
        count = dimensions(target, inside)
        variance = self.scale.square()
        if self.fitted and self.training:
            # Detached: at the optimum the derivative by σ is zero, so the gradient is the same with and without.
            variance = self.optimal_variance(squares.detach().sum(), count.sum())
        return -0.5 * (squares / variance + count * torch.log(2 * math.pi * variance))

    def optimal_variance(self, squares: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """σ² that maximises the likelihood of ``count`` values whose squared errors sum up to ``squares``."""
        return (squares / count).clamp_min(self.floor**2)

    def calibrate(self, variance: torch.Tensor) -> None:
        """Sets σ² for use after training. Does nothing where σ is fixed."""
        if self.fitted:
            self.scale.copy_(variance.sqrt())


def dimensions(target: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
    """(B,) float32: how many numbers each image is, pixels inside times channels."""
    if inside is None:
        return torch.full((len(target),), float(target[0].numel()), device=target.device)
    return inside.float().flatten(1).sum(dim=1) * target.shape[1]


def _sum(values: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
    """(B,) sum over the pixels inside and the channels."""
    return (values if inside is None else values * inside).flatten(1).sum(dim=1)
