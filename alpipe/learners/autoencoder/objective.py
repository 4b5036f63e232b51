"""Batches and losses of an autoencoder's training: images alone, no labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from alpipe.learners.autoencoder.likelihoods import Gaussian
from alpipe.learners.autoencoder.vae import VAE, divergence, reparameterise
from alpipe.learners.training.augment import Augmentation, Augmenter
from alpipe.learners.training.data import Frames, pad, to_input
from alpipe.types import ByteArray, FloatArray

GREY_LEVELS = 64.0
"""Grey levels of 8-bit images that are 1 in a network's input (``to_input``)."""

ROUNDING = 1 / (GREY_LEVELS * 12**0.5)
"""Standard deviation of the rounding to whole grey levels, in a network's input: no scale below it means anything."""


class View(NamedTuple):
    """Images (B, side, side, 3) uint8, each in the top left corner, and the (height, width) of each, (B, 2)."""

    pixels: ByteArray
    sizes: npt.NDArray[np.int64]


class Squares(NamedTuple):
    """Sums over some images: squared errors of the reconstruction, KL divergence in nats, numbers reconstructed."""

    squares: torch.Tensor
    divergence: torch.Tensor
    numbers: torch.Tensor


def part(pixels: ByteArray, side: int, rng: np.random.Generator) -> ByteArray:
    """What is seen of an image (h, w, 3) within a square: all of it, or where it is larger, a random part."""
    top, left = (int(rng.integers(max(0, extent - side) + 1)) for extent in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def view(images: list[ByteArray], side: int) -> View:
    """The images, none larger than the square, in squares."""
    sizes = np.array([image.shape[:2] for image in images], np.int64)
    return View(np.stack([pad(image, side, side) for image in images]), sizes)


def inside(sizes: npt.NDArray[np.int64], side: int, device: torch.device) -> torch.Tensor:
    """(B, 1, side, side) float32: 1 within the images of (height, width), which stand in the top left corner."""
    places = torch.arange(side)
    rows, columns = (places < torch.from_numpy(extent)[:, None] for extent in (sizes[:, 0], sizes[:, 1]))
    return (rows[:, :, None] & columns[:, None, :]).float()[:, None].to(device)


def fixed_noise(count: int, latent: int) -> FloatArray:
    """(count, latent) standard normal noise, always the same, in pairs of opposite sign (antithetic): what is odd in
    the noise cancels exactly, which makes means over few draws much steadier.
    """
    half = np.random.default_rng(0).standard_normal(((count + 1) // 2, latent)).astype(np.float32)
    return np.stack([half, -half], axis=1).reshape(-1, latent)[:count]


class AutoencoderObjective:
    """The negative bound, −(log p(x | z) − β KL), in nats per number of the image."""

    def __init__(
        self,
        train: Frames,
        held_back: Frames | None,
        augmentation: Augmentation,
        batch_size: int,
        side: int,
        beta: float,
        device: torch.device,
    ) -> None:
        self._train, self._held_back = train, held_back
        self._change = Augmenter(augmentation, (side, side)) if augmentation != Augmentation() else None
        self._batch_size, self._side = batch_size, side
        self._beta, self._device = beta, device

    def batch(self, rng: np.random.Generator) -> View:
        chosen = rng.integers(len(self._train), size=self._batch_size)
        return view([self._see(self._train[int(index)].pixels, rng) for index in chosen], self._side)

    def loss(self, net: nn.Module, batch: View) -> torch.Tensor:
        images = to_input(batch.pixels, self._device)
        elbo = cast("VAE", net)(images, inside=inside(batch.sizes, self._side, self._device))
        loss: torch.Tensor = -elbo.value(self._beta).sum() / elbo.dimensions.sum()
        return loss

    def validation_loss(self, net: nn.Module) -> float | None:
        """The negative bound of the images held back, with the scale that suits them best: while training the scale is
        that of the batch, so the network has none of its own yet.
        """
        if self._held_back is None:
            return None
        vae = cast("VAE", net)
        squares, nats, numbers = self.measure(vae, self._held_back)
        variance = cast("Gaussian", vae.likelihood).optimal_variance(squares, numbers)
        return float(0.5 * (torch.log(2 * torch.pi * variance) + squares / numbers / variance) + nats / numbers)

    def calibrate(self, vae: VAE) -> None:
        """Sets the scale to that of the images held back, or where there are none, of those trained on."""
        squares, _, numbers = self.measure(vae, self._held_back or self._train)
        likelihood = cast("Gaussian", vae.likelihood)
        likelihood.calibrate(likelihood.optimal_variance(squares, numbers))

    @torch.inference_mode()
    def measure(self, vae: VAE, frames: Frames) -> Squares:
        """How well the images are reconstructed, by one draw of z each, and at what divergence."""
        noise = torch.from_numpy(fixed_noise(self._batch_size, vae.latent)).to(self._device)
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        total = Squares(zero, zero, zero)
        for seen in self._views(frames):
            images = to_input(seen.pixels, self._device)
            counted = inside(seen.sizes, self._side, self._device)
            mean, log_variance = vae.encode(images)
            decoded = vae.decode(reparameterise(mean, log_variance, noise[: len(mean)]))
            found = (
                ((decoded - images).square() * counted).sum(),
                divergence(mean, log_variance).sum(),
                counted.sum() * images.shape[1],
            )
            total = Squares(*(before + more for before, more in zip(total, found, strict=True)))
        return total

    def _views(self, frames: Frames) -> Iterator[View]:
        rng = np.random.default_rng(0)
        for start in range(0, len(frames), self._batch_size):
            indices = range(start, min(start + self._batch_size, len(frames)))
            yield view([part(frames[index].pixels, self._side, rng) for index in indices], self._side)

    def _see(self, pixels: ByteArray, rng: np.random.Generator) -> ByteArray:
        """An image as it is trained on; changed at random, it fills the square, grey included."""
        return self._change(pixels, rng).pixels if self._change else part(pixels, self._side, rng)
