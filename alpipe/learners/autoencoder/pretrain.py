"""Pretraining: an encoder learns from images without labels by standing in an autoencoder."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from alpipe.errors import TrainingError
from alpipe.learners.autoencoder.likelihoods import Gaussian
from alpipe.learners.autoencoder.model import split
from alpipe.learners.autoencoder.nets import MULTIPLE, ConvDecoder
from alpipe.learners.autoencoder.objective import ROUNDING, AutoencoderObjective
from alpipe.learners.autoencoder.options import AutoencoderOptions
from alpipe.learners.autoencoder.vae import GRID, VAE
from alpipe.learners.training import trainer
from alpipe.learners.training.data import Frames
from alpipe.learners.training.device import resolve
from alpipe.learners.training.saving import write_whole
from alpipe.protocols import LearnerContext, ProgressCallback, no_progress
from alpipe.types import Item

FORMAT = 1

MOST = 64
"""Side of the square by default, at most."""

LARGEST = 512
"""Side of the square, at most, for encoders that take no smaller one."""


def pretrain(
    encoder: nn.Module,
    channels: int,
    items: Sequence[Item],
    options: AutoencoderOptions,
    context: LearnerContext,
    *,
    image_size: int,
    seed: int,
    progress: ProgressCallback = no_progress,
    resume_from: Path | None = None,
) -> dict[str, torch.Tensor]:
    """The encoder's weights after it was trained as the encoder of an autoencoder on the items' images.

    ``encoder``: (B, 3, H, W) → map (B, channels, h, w), or a list of maps whose last has ``channels``; it is copied
    and stays as it is. ``image_size`` is the longer side, in pixels, at which the learner sees images: parts of images
    of that size are trained on, so that the encoder learns at the scale at which it will be used. The decoder is thrown
    away. The keys are those of ``encoder.state_dict()``, the tensors are on the CPU.

    The same seed and the same encoder on the same machine give the same weights. Raises TrainingError where there is
    no image, DataError for one that cannot be read.
    """
    if not items:
        raise TrainingError("there is no image to pretrain on; add unlabelled images")
    longest = max(max(item.width, item.height) for item in items)
    side = _least_side(encoder, options.side(min(image_size, longest), MOST))
    compute = resolve(context)
    train, held_back = split(items, options.held_back, seed)
    objective = AutoencoderObjective(
        Frames(train, image_size),
        Frames(held_back, image_size) if held_back else None,
        options.augmentation(),
        options.batch_size,
        side,
        options.beta,
        compute.device,
    )
    keys, start = [item.key for item in items], _digest(encoder.state_dict())
    vae = trainer.train(
        lambda: VAE(
            copy.deepcopy(encoder),
            channels * GRID**2,
            options.latent,
            ConvDecoder(side, options.width, options.latent),
            Gaussian(floor=ROUNDING),
        ),
        objective,
        trainer.recipe(options, options.steps_with(len(items)), options.batch_size),
        compute,
        seed=seed,
        identity=trainer.fingerprint(
            ("pretrain", FORMAT, options, *compute.identity, seed, image_size, keys, start), (), ()
        ),
        progress=progress,
        resume_from=resume_from,
        logs=context.logs,
    ).net
    return {name: tensor.detach().cpu().contiguous() for name, tensor in vae.encoder.state_dict().items()}


def save(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes the weights as one safetensors file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, tensors_to_bytes(dict(weights)))


def _least_side(encoder: nn.Module, side: int) -> int:
    """The side, or the next multiple at which the encoder gives a map. Raises TrainingError where there is none."""
    probe = copy.deepcopy(encoder).eval()
    for wanted in range(side, LARGEST + 1, MULTIPLE):
        try:
            with torch.no_grad():
                probe(torch.zeros(1, 3, wanted, wanted))
        except RuntimeError:  # a layer's window is larger than its input
            continue
        return wanted
    raise TrainingError(f"the learner's encoder takes no image of up to {LARGEST} pixels; set pretrain: false")


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    """Says whether an encoder starts from the same weights."""
    return hashlib.sha256(
        tensors_to_bytes({name: tensor.cpu().contiguous() for name, tensor in state.items()})
    ).hexdigest()
