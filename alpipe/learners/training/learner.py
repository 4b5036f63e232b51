"""What is the same in every trained learner: fit, predict, embed, save, load. A Design says what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, final, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from alpipe import __version__
from alpipe.errors import DataError, TrainingError
from alpipe.learners.nets.cost import memory as memory_of
from alpipe.learners.nets.fold import folded
from alpipe.learners.training import memory, saving, trainer
from alpipe.learners.training.data import Frame, round_up
from alpipe.learners.training.device import Compute, reproducible, resolve
from alpipe.learners.training.inference import stream
from alpipe.learners.training.options import FitOptions
from alpipe.learners.training.tiling import Tiling
from alpipe.protocols import LearnerContext, ProgressCallback, no_progress
from alpipe.types import Example, FloatArray, Item, Negative, Prediction, Task

Opt = TypeVar("Opt", bound=FitOptions)

Run: TypeAlias = Callable[[Any, torch.Tensor, Sequence[tuple[Item, Frame]], Any], Sequence[Any]]
"""(network, images, items with their frames, setting) → one result an item."""

MEASURED_AT = 256
"""The memory of an image is measured at this size, in pixels a side, and scaled up for larger ones."""


@dataclass(frozen=True, slots=True)
class Setting(Generic[Opt]):
    """What a network is for: its options, its classes in order, the longer side of the images that it sees, in pixels,
    and ``facts`` that its training found out.
    """

    options: Opt
    classes: tuple[str, ...]
    image_size: int
    facts: dict[str, Any] = field(default_factory=dict)


Start: TypeAlias = Callable[[Any, Setting[Any], ProgressCallback], None]
"""Fills a fresh network with weights that a training starts from. Raises TrainingError where they cannot be loaded."""


class Network(Protocol):
    """What every network has besides its ``forward``; ``encoder`` and its channels only where it can be pretrained."""

    features: int
    """Length of its embeddings."""

    encoder: nn.Module
    """Images → feature maps, the deepest last: the part that can be pretrained."""

    encoder_channels: int
    """Channels of the deepest map."""

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) → (B, features) float32."""


class Design(Protocol[Opt]):
    """What one learner has that others have not."""

    name: str
    format: int
    """Counts up when saved models of before no longer fit."""

    task: Task
    options: type[Opt]
    batch_size: int
    """Images a step where memory allows."""

    def image_size(self, options: Opt, train: Sequence[Example]) -> int:
        """The longer side, in pixels, at which the network sees images."""

    def steps(self, images: int, batch_size: int) -> int:
        """Steps of a training on so many images, where the options leave it to the learner."""

    def sees(self, setting: Setting[Opt]) -> int:
        """The longer side, in pixels, of the images of a training step, or of the crops of them."""

    def multiple(self, setting: Setting[Opt]) -> int:
        """Sides of the network's input are multiples of this."""

    def network(self, setting: Setting[Opt]) -> Any:
        """A fresh network: an ``nn.Module`` that is a ``Network``."""

    def objective(
        self,
        setting: Setting[Opt],
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        batch_size: int,
        device: torch.device,
    ) -> trainer.Objective[Any]:
        """What the network is to learn. Raises TrainingError for labels that do not fit."""

    def predict(
        self, net: Any, images: torch.Tensor, batch: Sequence[tuple[Item, Frame]], setting: Setting[Opt]
    ) -> Sequence[Prediction]:
        """The predictions of a batch."""

    def scan(
        self, net: Any, images: torch.Tensor, batch: Sequence[tuple[Item, Frame]], setting: Setting[Opt]
    ) -> Sequence[Prediction]:
        """The predictions of a batch for scoring, with the members of an ensemble where there is one."""


@runtime_checkable
class Tiled(Protocol):
    """What a design has besides, whose images may be larger than memory."""

    def tiling(self, setting: Setting[Any]) -> Tiling:
        """How images are cut that are larger than a tile."""


@runtime_checkable
class Choosing(Protocol):
    """What a design has besides, which chooses something after the training that its predictions need."""

    needs: frozenset[str]
    """Names of the facts that it chooses."""

    def choose(self, model: Any, train: Sequence[Example], validation: Sequence[Example]) -> dict[str, Any]:
        """These facts, from a ``TrainedModel`` that lacks them."""


@final
class TrainedLearner(Generic[Opt]):
    """A design with its options, to be fitted, from the weights of ``start`` where it is given."""

    def __init__(self, design: Design[Opt], options: Opt, context: LearnerContext, start: Start | None = None) -> None:
        self._design, self._options, self._context, self._start = design, options, context, start

    def fit(
        self,
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        *,
        seed: int,
        progress: ProgressCallback = no_progress,
        resume_from: Path | None = None,
    ) -> TrainedModel[Opt]:
        design, options, context = self._design, self._options, self._context
        compute = resolve(context)
        if not train:
            raise TrainingError(f"there is no labelled image to train the {design.name} on; label some first")
        setting = Setting(options, context.classes, design.image_size(options, train))
        batch_size = _batch_size(design, setting, compute)
        usual = max(1, round(options.length * design.steps(len(train), batch_size)))
        steps = usual if options.steps == "auto" else options.steps
        trained = trainer.train(
            lambda: self._fresh(setting, progress),
            design.objective(setting, train, validation, negatives, batch_size, compute.device),
            trainer.recipe(options, steps, batch_size),
            compute,
            seed=seed,
            identity=trainer.fingerprint(
                (*_identity(design, setting, context), *compute.identity, batch_size, seed),
                (train, validation),
                negatives,
            ),
            progress=progress,
            resume_from=resume_from,
            logs=context.logs,
        )
        facts = {
            "seed": seed,
            "images": len(train),
            "validation_images": len(validation),
            "negatives": len(negatives),
            "steps": trained.steps,
            "steps_planned": steps,
            "batch_size": batch_size,
            "validation_loss": trained.validation_loss,
            "device": compute.device.type,
            "precision": compute.precision,
            "pretrained": context.encoder is not None or self._start is not None,
            "versions": {"alpipe": __version__} | {name: version(name) for name in ("torch", "albumentations")},
        }
        fitted = Setting(options, context.classes, setting.image_size, facts)
        model = TrainedModel(design, trained.net, fitted, context)
        return model.knowing(**design.choose(model, train, validation)) if isinstance(design, Choosing) else model

    def _fresh(self, setting: Setting[Opt], progress: ProgressCallback) -> Any:
        """The network as the training starts from it."""
        net = self._design.network(setting)
        if self._start is not None:
            self._start(net, setting, progress)
        if self._context.encoder is not None:
            saving.restore_file(self._context.encoder, net.encoder)
        return net


@final
class TrainedModel(Generic[Opt]):
    """A fitted design."""

    def __init__(self, design: Design[Opt], net: Any, setting: Setting[Opt], context: LearnerContext) -> None:
        self._design, self._net, self.setting, self._context = design, net, setting, context
        self._compute = resolve(context)
        self._quick = folded(net).to(self._compute.device, memory_format=torch.channels_last)

    @property
    def task(self) -> Task:
        return self._design.task

    @property
    def classes(self) -> tuple[str, ...]:
        return self.setting.classes

    def predict(self, items: Iterable[Item]) -> Iterator[Prediction]:
        return self.each(items, self._design.predict)

    def scan(self, items: Iterable[Item]) -> Iterator[Prediction]:
        return self.each(items, self._design.scan)

    def embed(self, items: Iterable[Item]) -> npt.NDArray[np.float32]:
        def run(net: Any, images: torch.Tensor, *_: Any) -> Sequence[FloatArray]:
            return list(net.embed(images).cpu().numpy())

        rows = list(self.each(items, run))
        return np.stack(rows) if rows else np.zeros((0, self._net.features), np.float32)

    def save(self, folder: Path) -> None:
        made = self.setting
        options = made.options.model_dump(mode="json")
        saving.save(
            folder,
            self._net,
            saving.Description(
                self._design.name,
                self._design.format,
                self.task,
                made.classes,
                made.image_size,
                options,
                made.facts,
            ),
        )

    def knowing(self, **facts: Any) -> TrainedModel[Opt]:
        """The same model with more facts."""
        made = self.setting
        more = Setting(made.options, made.classes, made.image_size, made.facts | facts)
        return TrainedModel(self._design, self._net, more, self._context)

    def each(self, items: Iterable[Item], run: Run) -> Iterator[Any]:
        """What ``run`` makes of each item, of the arguments of ``Design.predict``."""
        design, setting = self._design, self.setting
        tiling = design.tiling(setting) if isinstance(design, Tiled) else None
        return stream(
            items,
            setting.image_size,
            design.multiple(setting),
            self._compute,
            lambda images, batch: run(self._quick, images, batch, setting),
            tiling,
        )


def load(design: Design[Opt], folder: Path, context: LearnerContext) -> TrainedModel[Opt]:
    """The model saved in the folder, on the context's device. Raises DataError where the files are damaged."""
    description = saving.describe(folder, design.name, design.format)
    options = saving.options_of(description, design.options, folder)
    lacking = design.needs - set(description.facts) if isinstance(design, Choosing) else ()
    if lacking:
        raise DataError(f"{folder}: the model's description lacks {', '.join(sorted(lacking))}; train again")
    setting = Setting(options, description.classes, description.image_size, description.facts)
    net = design.network(setting)
    saving.restore(folder, net)
    return TrainedModel(design, net.eval(), setting, context)


def _batch_size(design: Design[Opt], setting: Setting[Opt], compute: Compute) -> int:
    if setting.options.batch_size != "auto":
        return setting.options.batch_size
    side = round_up(design.sees(setting), design.multiple(setting))
    tried = min(side, round_up(MEASURED_AT, design.multiple(setting)))
    with reproducible(0):
        used = memory_of(design.network(setting), tried, tried)
    outputs = used.outputs * side**2 // tried**2  # all but the last layers of networks grow with the area
    return memory.batch_size(design.batch_size, used._replace(outputs=outputs), compute.device)


def _identity(design: Design[Opt], setting: Setting[Opt], context: LearnerContext) -> tuple[object, ...]:
    encoder = saving.digest(context.encoder) if context.encoder else ""
    return design.name, design.format, setting, encoder
