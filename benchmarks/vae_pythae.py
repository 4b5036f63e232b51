"""pythae's half of ``benchmarks.vae``: runs where pythae is installed, which need not be where alpipe is.

    python -m benchmarks.vae_pythae JOBS.npz WEIGHTS.npz

Trains pythae's VAE with its own default layers and its own trainer, and hands over the weights.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig


def main() -> None:
    logging.disable(logging.INFO)
    torch.set_num_threads(1)  # as many as alpipe's half; the nets are too small for more
    given = np.load(sys.argv[1])
    made: dict[str, Any] = {}
    for number, job in enumerate(json.loads(str(given["jobs"]))):
        train, validation = (given["images"][given[f"{part}-{job['seed']}"]] for part in ("train", "validation"))
        for name, tensor in fit(train, validation, **job).items():
            made[f"{number}/{name}"] = tensor.numpy()
    np.savez(sys.argv[2], **made)


def fit(
    train: np.ndarray, validation: np.ndarray, *, seed: int, rate: float, epochs: int, batch: int, latent: int
) -> dict[str, torch.Tensor]:
    """Weights of pythae's VAE, those of the epoch of least validation loss, as its trainer keeps them."""
    torch.manual_seed(seed)
    model = VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=latent, reconstruction_loss="bce"))
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=len(validation),
            learning_rate=rate,  # Adam, the default
            seed=seed,
            no_cuda=True,
        )
        TrainingPipeline(model=model, training_config=config)(
            train_data=train.reshape(-1, 1, 8, 8), eval_data=validation.reshape(-1, 1, 8, 8)
        )
        final = next(Path(folder).glob("*/final_model"))
        best = VAE.load_from_folder(str(final))
    state: dict[str, torch.Tensor] = best.state_dict()
    return state


if __name__ == "__main__":
    main()
