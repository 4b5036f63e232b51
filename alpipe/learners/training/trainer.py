"""The training loop. It knows nothing of tasks: an Objective gives it batches and losses.

Step s draws its batch and its dropout from (seed, s) alone, so that a training that was killed and resumed takes the
same steps as one that ran through.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from alpipe.errors import TrainingError
from alpipe.labels import to_json
from alpipe.learners.training.curves import Curves
from alpipe.learners.training.device import Compute, reproducible
from alpipe.learners.training.options import RecipeOptions
from alpipe.learners.training.saving import load_checkpoint, write_whole
from alpipe.protocols import ProgressCallback
from alpipe.types import Example, Negative, Progress

Batch = TypeVar("Batch")
Net = TypeVar("Net", bound=nn.Module)

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 15.0
SHOW_SECONDS = 0.5
VALIDATIONS = 16
"""About how often the best weights are looked for, spread over the training."""

PATIENT_FROM = 0.3
"""Share of the steps before which no training is given up: the averaged weights have hardly moved."""


class Objective(Protocol[Batch]):
    """What is to be learnt. ``batch`` runs in threads, ahead of the step that uses it."""

    def batch(self, rng: np.random.Generator) -> Batch:
        """Images and targets of one step; all randomness comes from ``rng``."""

    def loss(self, net: nn.Module, batch: Batch) -> torch.Tensor:
        """Scalar to be made small."""

    def validation_loss(self, net: nn.Module) -> float | None:
        """Loss on held-back examples, without augmentation; None where there are none."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: AdamW, linear warm-up, then cosine to zero. ``patience`` is how many validations in a row without
    a better loss end the training; 0: none do.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int = 0
    clip_norm: float = 10.0
    warmup_share: float = 0.05


class Trained(NamedTuple, Generic[Net]):
    """A network in eval mode, after how many ``steps`` it ended, and its ``validation_loss``, if there is one."""

    net: Net
    steps: int
    validation_loss: float | None


def recipe(options: RecipeOptions, steps: int, batch_size: int) -> Recipe:
    """The recipe that a learner's options ask for."""
    return Recipe(steps, batch_size, options.learning_rate, options.weight_decay, options.patience)


def fingerprint(
    settings: Sequence[object], examples: Sequence[Sequence[Example]], negatives: Sequence[Negative]
) -> str:
    """Says whether a checkpoint belongs to this very training: same settings, images, labels and negatives."""
    parts = [repr(setting) for setting in settings]
    parts += [json.dumps([(one.item.key, to_json(one.labels)) for one in some]) for some in examples]
    parts += [json.dumps([asdict(negative) for negative in negatives])]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def train(
    make: Callable[[], Net],
    objective: Objective[Any],
    recipe: Recipe,
    compute: Compute,
    *,
    seed: int,
    identity: str,
    progress: ProgressCallback,
    resume_from: Path | None,
    logs: Path | None = None,
) -> Trained[Net]:
    """A network that ``make`` makes, trained: the moving average of the weights, the best by validation loss if there
    is one. ``identity`` is a fingerprint; a checkpoint with another one is left aside. ``logs`` is a folder for
    TensorBoard's event files.

    Raises TrainingError where the loss is not finite, or memory does not suffice.
    """
    with reproducible(seed):
        net = make()
    run = _Run(net, objective, recipe, compute, seed)
    path = resume_from / CHECKPOINT if resume_from else None
    if path:
        run.resume(load_checkpoint(path, compute.device), identity, progress)
    pace = _Pace(run.step, recipe)
    saved = time.monotonic()
    with reproducible(seed), _Ahead(run.draw, run.step, compute) as batches, Curves(logs, run.step) as curves:
        while not run.ended:
            try:
                loss = run.advance(batches.next())
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"{compute.device} has too little memory for batches of {recipe.batch_size} images;"
                    " lower batch_size or image_size"
                ) from error
            if path and (run.ended or time.monotonic() - saved >= CHECKPOINT_SECONDS):
                run.keep(path, identity)
                saved = time.monotonic()
            if run.validated_at == run.step:
                curves.add("loss/validation", run.validation_loss, run.step)
            if pace.due(run.step) or run.ended:
                value, speed = float(loss), pace.rate(run.step)
                curves.add("loss/train", value, run.step)
                curves.add("learning rate", learning_rate_at(run.step - 1, recipe), run.step)
                curves.add("images a second", speed, run.step)
                curves.add("share of time waiting for images", pace.share(batches.waited), run.step)
                progress(Progress("train", run.step, recipe.steps, pace.describe(run.step, value, run.validation_loss)))
    if run.step < recipe.steps:
        progress(Progress("train", recipe.steps, recipe.steps, f"loss {run.best_loss:.3f} at its best: stopped early"))
    return Trained(run.result(), run.step, run.best_loss if run.best is not None else None)


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate of a step (from 0): linear warm-up, then half a cosine."""
    warmup = max(1, round(recipe.steps * recipe.warmup_share))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for the weights of products only: norms and biases are left free."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class _Ahead(Generic[Batch]):
    """Draws the batches of the coming steps in threads, so that the network does not wait for images."""

    def __init__(self, draw: Callable[[int], Batch | None], step: int, compute: Compute) -> None:
        workers = 2 if compute.device.type == "cpu" else min(8, os.cpu_count() or 2)
        self._pool, self._draw, self._step = ThreadPoolExecutor(workers), draw, step
        self._waiting: deque[Future[Batch | None]] = deque()
        self.waited = 0.0
        for _ in range(workers + 1):
            self._submit()

    def __enter__(self) -> _Ahead[Batch]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def next(self) -> Batch:
        before = time.monotonic()
        made = self._waiting.popleft().result()
        self.waited += time.monotonic() - before
        self._submit()
        assert made is not None  # noqa: S101 - only past the last step
        return made

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(self._draw, self._step))
        self._step += 1


class _Pace:
    """When to show progress, and what."""

    def __init__(self, step: int, recipe: Recipe) -> None:
        self._first, self._recipe = step, recipe
        self._started = self._shown = time.monotonic()

    def due(self, step: int) -> bool:
        """The first step, the last, and now and then between."""
        now = time.monotonic()
        if now - self._shown < SHOW_SECONDS and step not in (self._first + 1, self._recipe.steps):
            return False
        self._shown = now
        return True

    def rate(self, step: int) -> float:
        """Images a second since the start."""
        return (step - self._first) * self._recipe.batch_size / max(time.monotonic() - self._started, 1e-9)

    def share(self, seconds: float) -> float:
        """Seconds as a share of the time since the start."""
        return seconds / max(time.monotonic() - self._started, 1e-9)

    def describe(self, step: int, loss: float, validation_loss: float | None) -> str:
        speed = self.rate(step)
        left = (self._recipe.steps - step) * self._recipe.batch_size / speed
        beside = "" if validation_loss is None else f" (validation {validation_loss:.3f})"
        return f"loss {loss:.3f}{beside}, {speed:.0f} images/s, {left:.0f} s left"


class _Run(Generic[Net, Batch]):
    """The state of one training: weights, their moving average, optimiser, the best so far, and the step."""

    def __init__(self, net: Net, objective: Objective[Batch], recipe: Recipe, compute: Compute, seed: int) -> None:
        self.net: Net = net.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average: Net = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.objective, self.recipe, self.compute, self.seed = objective, recipe, compute, seed
        self.optimiser = torch.optim.AdamW(parameter_groups(net, recipe.weight_decay), lr=0.0, fused=True)
        # float16 gradients of small losses vanish unless they are scaled up; bfloat16 has float32's range
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype is torch.float16)
        self.step = 0
        self.best: dict[str, torch.Tensor] | None = None
        self.best_loss = math.inf
        self.since_best = 0
        self.validation_loss: float | None = None
        self.validated_at = -1

    @property
    def ended(self) -> bool:
        patience = self.recipe.patience
        return self.step >= self.recipe.steps or bool(patience and self.since_best >= patience)

    def draw(self, step: int) -> Batch | None:
        if step >= self.recipe.steps:
            return None
        return self.objective.batch(np.random.default_rng((self.seed, step)))

    def advance(self, batch: Batch) -> torch.Tensor:
        """One step of the optimiser; returns the loss."""
        torch.manual_seed((self.seed * 1_000_003 + self.step) % 2**63)
        self.net.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.step, self.recipe)
        with self.compute.autocast():
            loss = self.objective.loss(self.net, batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {float(loss.detach())} at step {self.step + 1} of {self.recipe.steps};"
                f" {self._advice()}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        self._average()
        self._validate()
        return loss.detach()

    def _advice(self) -> str:
        return f"lower learning_rate (now {self.recipe.learning_rate:g}) or use precision fp32"

    @torch.no_grad()
    def _average(self) -> None:
        # The horizon grows with the training, and is a twentieth of it at most, so that short trainings forget too.
        decay = min((1 + self.step) / (10 + self.step), 1 - 1 / max(2.0, min(self.recipe.steps / 20, 1000)))
        now = self.net.state_dict()
        for name, kept in self.average.state_dict().items():
            if kept.is_floating_point():
                kept.lerp_(now[name], 1 - decay)
            else:
                kept.copy_(now[name])

    def _validate(self) -> None:
        every = max(1, self.recipe.steps // VALIDATIONS)
        if (self.recipe.steps - self.step) % every:
            return
        with torch.inference_mode(), self.compute.autocast():
            loss = self.objective.validation_loss(self.average)
        if loss is None:
            return
        if not math.isfinite(loss):
            raise TrainingError(f"the validation loss became {loss} at step {self.step}; {self._advice()}")
        self.validation_loss, self.validated_at = loss, self.step
        if self.step > self.recipe.steps * PATIENT_FROM:
            self.since_best += 1
        if loss < self.best_loss:
            self.best_loss, self.since_best = loss, 0
            self.best = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}

    def result(self) -> Net:
        if self.best is not None:
            self.average.load_state_dict(self.best)
        return self.average

    def keep(self, path: Path, identity: str) -> None:
        """Leaves a checkpoint."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(
            {
                "identity": identity,
                "step": self.step,
                "net": self.net.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "best": self.best,
                "best_loss": self.best_loss,
                "since_best": self.since_best,
            },
            content,
        )
        write_whole(path, content.getvalue())

    def resume(self, checkpoint: dict[str, Any] | None, identity: str, progress: ProgressCallback) -> None:
        """Goes on from a checkpoint of this training."""
        if checkpoint is None:
            return
        if checkpoint.get("identity") != identity:
            progress(Progress("train", 0, self.recipe.steps, "the checkpoint is of another training: starting anew"))
            return
        self.net.load_state_dict(checkpoint["net"])
        self.average.load_state_dict(checkpoint["average"])
        self.optimiser.load_state_dict(checkpoint["optimiser"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.step, self.best, self.best_loss = checkpoint["step"], checkpoint["best"], checkpoint["best_loss"]
        self.since_best = checkpoint["since_best"]
        progress(Progress("train", self.step, self.recipe.steps, "going on from a checkpoint"))
