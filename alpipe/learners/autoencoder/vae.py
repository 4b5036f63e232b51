"""The variational autoencoder (Kingma & Welling 2014, "Auto-encoding variational Bayes"), over any encoder.

An image x is thought to come from a latent vector z ~ N(0, I) through a decoder, p(x | z). The encoder gives
q(z | x) = N(mean, diag σ²), an approximation of the posterior. Both are fitted by making large the evidence lower bound

    ELBO(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ N(0, I))  ≤  log p(x).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from alpipe.learners.autoencoder.likelihoods import Likelihood, dimensions

GRID = 4
"""Maps are pooled to GRID × GRID places before the heads: enough to tell where things are, few enough for a linear
layer, and the same number for every size of image.
"""

LOG_VARIANCE_LIMIT = 15.0
"""log σ² stays within ± this: σ between 5.5e-4 and 1.8e3, far beyond what training arrives at, and nothing that is made
from it overflows or vanishes in float32.
"""


class Elbo(NamedTuple):
    """The terms of the bound, each (B,) float32: an estimate of E_q[log p(x | z)] and the exact KL divergence, both in
    nats, and how many numbers each image is.
    """

    log_likelihood: torch.Tensor
    divergence: torch.Tensor
    dimensions: torch.Tensor

    def value(self, beta: float = 1.0) -> torch.Tensor:
        """(B,) log-likelihood − β · divergence; β = 1 is the bound itself, others are β-VAE (Higgins et al. 2017)."""
        return self.log_likelihood - beta * self.divergence


class VAE(nn.Module):
    """An encoder with two linear heads, a decoder and a likelihood.

    ``encoder``: (B, 3, H, W) → a vector (B, F), a map (B, D, h, w), or a list of maps whose last is the deepest.
    ``features``: F, or D · GRID² for maps. ``decoder``: (B, latent) → what the likelihood expects, (B, 3, H, W) for
    images. It gives back the terms of the bound, with one draw of z an image.
    """

    def __init__(
        self, encoder: nn.Module, features: int, latent: int, decoder: nn.Module, likelihood: Likelihood
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean_head = nn.Linear(features, latent)
        self.log_variance_head = nn.Linear(features, latent)
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent = latent

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log σ² of q(z | x), each (B, latent) float32. σ = exp(½ log σ²) is positive by construction."""
        found = self.encoder(images)
        deepest = found if isinstance(found, torch.Tensor) else found[-1]
        if deepest.ndim == 4:
            deepest = functional.adaptive_avg_pool2d(deepest, GRID)
        flat = deepest.flatten(1)
        return self.mean_head(flat).float(), bounded(self.log_variance_head(flat).float())

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """What the decoder makes of (B, latent), float32."""
        decoded: torch.Tensor = self.decoder(latents)
        return decoded.float()

    def forward(
        self,
        images: torch.Tensor,
        target: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ) -> Elbo:
        """The terms of the bound for (B, 3, H, W) images.

        ``target`` is the image that the decoder should give (the images themselves by default), ``inside`` says which
        of its pixels count (B, 1, H, W), ``noise`` is the standard normal ε of the draw (B, latent).
        """
        target = images if target is None else target
        mean, log_variance = self.encode(images)
        decoded = self.decode(reparameterise(mean, log_variance, noise))
        log_likelihood: torch.Tensor = self.likelihood(decoded, target, inside)
        return Elbo(log_likelihood, divergence(mean, log_variance), dimensions(target, inside))


def reparameterise(mean: torch.Tensor, log_variance: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """z = mean + σ ε with ε ~ N(0, I): a draw from q(z | x) through which gradients reach both (Kingma & Welling 2014,
    section 2.4). ``noise`` is ε; by default it is drawn from torch's global generator.
    """
    noise = torch.randn_like(mean) if noise is None else noise
    return mean + torch.exp(0.5 * log_variance) * noise


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, diag σ²) ‖ N(0, I)) = ½ Σ (mean² + σ² − 1 − log σ²), (B,) nats (Kingma & Welling 2014, appendix B)."""
    # expm1 keeps the digits where σ² is almost 1 and the terms cancel.
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(dim=1)


def bounded(log_variance: torch.Tensor) -> torch.Tensor:
    """log σ² squeezed smoothly into ± LOG_VARIANCE_LIMIT; almost unchanged near 0, and never without a gradient as
    a hard limit would be.
    """
    return LOG_VARIANCE_LIMIT * torch.tanh(log_variance / LOG_VARIANCE_LIMIT)
