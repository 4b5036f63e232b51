"""The autoencoder that stands alone: fitted to the labelled images, it says how badly others fit them, and embeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from alpipe.errors import TrainingError
from alpipe.learners.autoencoder.likelihoods import Gaussian, dimensions
from alpipe.learners.autoencoder.nets import ConvDecoder, ConvEncoder
from alpipe.learners.autoencoder.objective import (
    GREY_LEVELS,
    ROUNDING,
    AutoencoderObjective,
    fixed_noise,
    inside,
)
from alpipe.learners.autoencoder.options import AutoencoderOptions
from alpipe.learners.autoencoder.vae import GRID, VAE, Elbo, divergence, reparameterise
from alpipe.learners.training import saving, trainer
from alpipe.learners.training.data import Frame, Frames
from alpipe.learners.training.device import resolve
from alpipe.learners.training.inference import stream
from alpipe.protocols import LearnerContext, ProgressCallback, no_progress
from alpipe.types import FloatArray, ImageFit, Item

NAME, FORMAT = "vae", 1

MOST = 32
"""Side of the square by default, at most: other kinds of images stand out as well as at 64, in a fifth of the time."""

DRAWS = 4
"""Draws of z for the bound of an image: two and their opposites."""


def fit(
    items: Sequence[Item],
    options: AutoencoderOptions,
    context: LearnerContext,
    *,
    seed: int,
    progress: ProgressCallback = no_progress,
    resume_from: Path | None = None,
) -> Autoencoder:
    """An autoencoder fitted to the images of the items.

    The same seed on the same machine gives the same model; ``resume_from`` is a folder for checkpoints, as for
    learners. Raises TrainingError where there is no image, DataError for one that cannot be read.
    """
    if not items:
        raise TrainingError("there is no image to fit the autoencoder to")
    side = options.side(max(max(item.width, item.height) for item in items), MOST)
    compute = resolve(context)
    train, held_back = split(items, options.held_back, seed)
    objective = AutoencoderObjective(
        Frames(train, side),
        Frames(held_back, side) if held_back else None,
        options.augmentation(),
        options.batch_size,
        side,
        options.beta,
        compute.device,
    )
    keys = [item.key for item in items]
    vae = trainer.train(
        lambda: make(side, options),
        objective,
        trainer.recipe(options, options.steps_with(len(items)), options.batch_size),
        compute,
        seed=seed,
        identity=trainer.fingerprint((NAME, FORMAT, options, *compute.identity, seed, side, keys), (), ()),
        progress=progress,
        resume_from=resume_from,
        logs=context.logs,
    ).net
    with compute.autocast():
        objective.calibrate(vae)
    return Autoencoder(vae, options, side, context)


def load(folder: Path, context: LearnerContext) -> Autoencoder:
    """The autoencoder saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    description = saving.describe(folder, NAME, FORMAT)
    options = saving.options_of(description, AutoencoderOptions, folder)
    vae = make(description.image_size, options)
    saving.restore(folder, vae)
    return Autoencoder(vae, options, description.image_size, context)


def make(side: int, options: AutoencoderOptions) -> VAE:
    """The network for squares of a side, not trained."""
    encoder = ConvEncoder(side, options.width)
    decoder = ConvDecoder(side, options.width, options.latent)
    return VAE(encoder, encoder.features * GRID**2, options.latent, decoder, Gaussian(floor=ROUNDING))


def split(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Items to train on and items held back, drawn by the seed. At least one is trained on."""
    order = np.random.default_rng(seed).permutation(len(items))
    kept = min(int(len(items) * share), len(items) - 1)
    return [items[at] for at in sorted(order[kept:])], [items[at] for at in sorted(order[:kept])]


class Autoencoder:
    """A fitted autoencoder."""

    def __init__(self, vae: VAE, options: AutoencoderOptions, side: int, context: LearnerContext) -> None:
        self._options, self._side, self._context = options, side, context
        self._compute = resolve(context)
        self._vae = vae.to(self._compute.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._noise = torch.from_numpy(fixed_noise(DRAWS, vae.latent)).to(self._compute.device)

    def predict(self, items: Iterable[Item]) -> Iterator[ImageFit]:
        """How badly each image fits the images that the autoencoder was fitted to, in the order of the items.

        The negative evidence lower bound in nats per dimension, of the density of grey levels from 0 to 255: about
        what it costs to say one value of one pixel by a code made for the images fitted to. An even guess would cost
        log 256 = 5.5; images that fit cost less.

        The expectation over z is the mean over DRAWS draws with noise that is the same for every image, so that a
        value depends on the image alone. The decoder's output at the mean of q(z | x) alone would be cheaper, but is
        no bound: it leaves out what the encoder does not know, and that is large for images of a new kind.
        """
        return stream(items, self._side, self._side, self._compute, self._fits)

    def novelty(self, items: Iterable[Item]) -> Iterator[float]:
        """The values of ``predict`` alone; larger is more novel."""
        return (fit.nats for fit in self.predict(items))

    def embed(self, items: Iterable[Item]) -> npt.NDArray[np.float32]:
        """(N, latent) float32, one row an item in the order given: the means of q(z | x)."""

        def run(images: torch.Tensor, _: list[tuple[Item, Frame]]) -> list[FloatArray]:
            return list(self._vae.encode(images)[0].cpu().numpy())

        rows = list(stream(items, self._side, self._side, self._compute, run))
        return np.stack(rows) if rows else np.zeros((0, self._vae.latent), np.float32)

    def save(self, folder: Path) -> None:
        """Writes tensors (safetensors) and a JSON description into the folder."""
        context, options = self._context, self._options.model_dump(mode="json")
        described = saving.Description(NAME, FORMAT, context.task, context.classes, self._side, options)
        saving.save(folder, self._vae, described)

    def _fits(self, images: torch.Tensor, batch: list[tuple[Item, Frame]]) -> list[ImageFit]:
        sizes = np.array([frame.pixels.shape[:2] for _, frame in batch], np.int64)
        counted = inside(sizes, self._side, images.device)
        elbo = self._bound(images, counted)
        # The density of grey levels is that of network inputs by the change of variables.
        nats = -elbo.value() / elbo.dimensions + np.log(GREY_LEVELS)
        return [ImageFit(item.key, float(value)) for (item, _), value in zip(batch, nats.cpu(), strict=True)]

    def _bound(self, images: torch.Tensor, counted: torch.Tensor) -> Elbo:
        """The terms of the bound, the log-likelihood as the mean over the draws."""
        mean, log_variance = self._vae.encode(images)
        log_likelihood = torch.zeros(len(images), device=images.device)
        for noise in self._noise:
            decoded = self._vae.decode(reparameterise(mean, log_variance, noise))
            log_likelihood += self._vae.likelihood(decoded, images, counted) / DRAWS
        return Elbo(log_likelihood, divergence(mean, log_variance), dimensions(images, counted))
