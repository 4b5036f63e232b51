"""alpipe's variational autoencoder against pythae's on the digits of scikit-learn: same layers, same epochs, same loss.

    python -m benchmarks.vae                                           where pythae is installed beside alpipe
    python -m benchmarks.vae --pythae-python VENV/bin/python           where it has an environment of its own

The layers are pythae's default ones for the VAE (64 → 512 → 2 · latent, latent → 512 → 64, ReLU), the likelihood is
Bernoulli on grey values in [0, 1] (pythae: reconstruction_loss="bce"), both losses are the negative bound with β = 1,
and both optimise by Adam with the same batches' size and the same number of passes over the training images. Of the
same learning rates, each takes the one with the best bound on the validation images. What differs is the trainer:

    pythae          constant rate, the weights of the best epoch by validation (its own trainer)
    alpipe          warm-up and cosine, moving average of the weights, the best of 8 by validation (its own trainer)
    alpipe, plain   alpipe's network with pythae's way of training: tells how much of a difference is the trainer's

The bound is estimated by one function for all of them, with the same noise, on test images that nothing has seen.
Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from alpipe.learners.autoencoder.likelihoods import Bernoulli
from alpipe.learners.autoencoder.vae import VAE
from alpipe.learners.training import trainer
from alpipe.learners.training.device import resolve
from alpipe.protocols import LearnerContext, no_progress
from alpipe.types import Task

LATENT, HIDDEN, BATCH, EPOCHS = 8, 512, 64, 100
RATES = (1e-3, 3e-3, 1e-2)
DRAWS = 64
"""Draws of z an image for the bound."""

HOW_TO_GET = (
    "pythae is not there. Beside alpipe: pip install 'alpipe[bench]'. Elsewhere: python -m venv VENV;"
    " VENV/bin/pip install torch pythae==0.1.2; then --pythae-python VENV/bin/python"
)


@dataclass(frozen=True)
class Half:
    """A trained autoencoder as functions: images (B, 64) → mean and log σ²; z → logits (B, 64)."""

    encode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    decode: Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pythae-python", default=sys.executable, help="Python of the environment that has pythae")
    parser.add_argument("--quick", action="store_true", help="one seed, 3 epochs, one rate: to see that it works")
    given = parser.parse_args()
    seeds, epochs, rates = (1, 3, RATES[:1]) if given.quick else (given.seeds, EPOCHS, RATES)
    if subprocess.run([given.pythae_python, "-c", "import pythae"], capture_output=True).returncode:
        sys.exit(HOW_TO_GET)
    torch.set_num_threads(1)
    started = time.monotonic()
    images = torch.from_numpy((load_digits().data / 16).astype(np.float32))
    splits = {seed: split(len(images), seed) for seed in range(seeds)}
    arms: dict[str, dict[int, list[Half]]] = {
        "pythae": pythae(given.pythae_python, images, splits, rates, epochs),
        "alpipe": {s: [alpipe(images, p, s, rate, epochs) for rate in rates] for s, p in splits.items()},
        "alpipe, plain": {s: [plain(images, p, s, rate, epochs) for rate in rates] for s, p in splits.items()},
    }
    test: dict[str, list[float]] = {arm: [] for arm in arms}
    print(f"{'seed':<5}" + "".join(f"{arm:>28}" for arm in arms) + "   test bound, nats an image (learning rate)")
    for seed, parts in splits.items():
        cells = []
        for arm, halves in arms.items():
            bounds = [bound(half, images[parts["validation"]]) for half in halves[seed]]
            best = int(np.argmax(bounds))
            test[arm].append(bound(halves[seed][best], images[parts["test"]]))
            cells.append(f"{test[arm][-1]:>18.3f} ({rates[best]:.0e})")
        print(f"{seed:<5}" + "".join(f"{cell:>28}" for cell in cells))
    print(f"{'mean':<5}" + "".join(f"{np.mean(values):>28.3f}" for values in test.values()))
    paired = np.array(test["alpipe"]) - np.array(test["pythae"])
    result = {
        "name": "vae digits, test bound in nats an image",
        "value": round(float(np.mean(test["alpipe"])), 3),
        "goal": round(float(np.mean(test["pythae"])), 3),
        "plain": round(float(np.mean(test["alpipe, plain"])), 3),
        "paired_differences": [round(float(value), 3) for value in paired],
        "seeds": seeds,
        "epochs": epochs,
        "seconds": round(time.monotonic() - started),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result))


def split(count: int, seed: int) -> dict[str, np.ndarray]:
    """Which images are for training (70 %), validation (10 %) and test (20 %)."""
    order = np.random.default_rng(seed).permutation(count)
    train, validation, test = np.split(order, [int(0.7 * count), int(0.8 * count)])
    return {"train": train, "validation": validation, "test": test}


@torch.inference_mode()
def bound(half: Half, images: torch.Tensor) -> float:
    """Mean evidence lower bound in nats an image, the same arithmetic and noise whoever made the autoencoder."""
    mean, log_variance = half.encode(images)
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(len(images))
    for _ in range(DRAWS):
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
        total -= functional.binary_cross_entropy_with_logits(half.decode(z), images, reduction="none").sum(dim=1)
    return float((total / DRAWS - divergence).mean())


# ── pythae ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def pythae(
    python: str, images: torch.Tensor, splits: dict[int, dict[str, np.ndarray]], rates: tuple[float, ...], epochs: int
) -> dict[int, list[Half]]:
    """Trained by pythae in its own process; the weights come back and stand in the same layers."""
    shared = {"epochs": epochs, "batch": BATCH, "latent": LATENT}
    jobs = [{"seed": seed, "rate": rate, **shared} for seed in splits for rate in rates]
    parts = {f"{part}-{seed}": at for seed, found in splits.items() for part, at in found.items()}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "jobs.npz", Path(folder) / "weights.npz"
        np.savez(source, images=images.numpy(), jobs=json.dumps(jobs), **parts)
        command = [python, "-m", "benchmarks.vae_pythae", str(source), str(target)]
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])
        weights = dict(np.load(target))
    made: dict[int, list[Half]] = {seed: [] for seed in splits}
    for number, job in enumerate(jobs):
        made[int(job["seed"])].append(_from_pythae(weights, number))
    return made


def _from_pythae(weights: dict[str, Any], number: int) -> Half:
    def linear(name: str) -> nn.Linear:
        weight, bias = (torch.from_numpy(weights[f"{number}/{name}.{part}"]) for part in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer

    body, mean, log_variance = (linear(f"encoder.{name}") for name in ("layers.0.0", "embedding", "log_var"))
    first, last = linear("decoder.layers.0.0"), linear("decoder.layers.1.0")  # pythae puts a sigmoid behind the last
    assert body.weight.shape == (HIDDEN, 64)
    assert last.weight.shape == (64, HIDDEN)

    def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(body(images))
        return mean(hidden), log_variance(hidden)

    return Half(encode, lambda z: last(torch.relu(first(z))))


# ── alpipe ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def make() -> VAE:
    """alpipe's VAE over pythae's default layers."""
    encoder = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 64))
    return VAE(encoder, HIDDEN, LATENT, decoder, Bernoulli())


class Digits:
    """What alpipe's trainer needs: batches of training images, and the negative bound."""

    def __init__(self, train: torch.Tensor, validation: torch.Tensor) -> None:
        self._train, self._validation = train, validation

    def batch(self, rng: np.random.Generator) -> torch.Tensor:
        return self._train[rng.integers(len(self._train), size=BATCH)]

    def loss(self, net: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(-net(batch).value().mean() / 64)

    def validation_loss(self, net: nn.Module) -> float | None:
        noise = torch.randn(len(self._validation), LATENT, generator=torch.Generator().manual_seed(1))
        return -float(net(self._validation, noise=noise).value().mean())


def alpipe(images: torch.Tensor, parts: dict[str, np.ndarray], seed: int, rate: float, epochs: int) -> Half:
    """Trained by alpipe's trainer, for as many steps as the epochs have."""
    steps = epochs * -(-len(parts["train"]) // BATCH)
    vae = trainer.train(
        make,
        Digits(images[parts["train"]], images[parts["validation"]]),
        trainer.Recipe(steps, BATCH, rate, 0.0),
        resolve(LearnerContext(Task.CLASSIFY, (), "cpu", "fp32")),
        seed=seed,
        identity="",
        progress=no_progress,
        resume_from=None,
    )
    return Half(vae.encode, vae.decode)


def plain(images: torch.Tensor, parts: dict[str, np.ndarray], seed: int, rate: float, epochs: int) -> Half:
    """Trained as pythae's trainer does it."""
    torch.manual_seed(seed)
    vae = make()
    digits = Digits(images[parts["train"]], images[parts["validation"]])
    train = images[parts["train"]]
    optimiser = torch.optim.Adam(vae.parameters(), lr=rate)
    best, best_loss = copy.deepcopy(vae), float("inf")
    for _ in range(epochs):
        for chosen in torch.randperm(len(train)).split(BATCH):
            optimiser.zero_grad()
            (-vae(train[chosen]).value().mean()).backward()
            optimiser.step()
        with torch.inference_mode():
            loss = digits.validation_loss(vae)
        if loss is not None and loss < best_loss:
            best, best_loss = copy.deepcopy(vae), loss
    return Half(best.encode, best.decode)


if __name__ == "__main__":
    main()
