"""Batches and losses of a classifier's training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from alpipe.errors import TrainingError
from alpipe.learners.training.augment import Augmentation, Augmenter
from alpipe.learners.training.data import Frames, pad, to_input
from alpipe.types import ByteArray, Example, ImageClass


@dataclass(frozen=True, slots=True)
class Labelled:
    """Frames with the (N,) index of the class of each."""

    frames: Frames
    class_index: npt.NDArray[np.int64]


def gather(examples: Sequence[Example], classes: Sequence[str], image_size: int) -> Labelled:
    """Reads the images. Raises TrainingError for labels that are no class of the image, or an unknown class."""
    index = {name: i for i, name in enumerate(classes)}
    found = []
    for example in examples:
        key, labels = example.item.key, example.labels
        if not isinstance(labels, ImageClass):
            raise TrainingError(
                f"item {key} is labelled with {type(labels).__name__}; a classifier learns from image classes"
            )
        if labels.name not in index:
            raise TrainingError(f"item {key} is of class {labels.name!r}; the classes are {', '.join(classes)}")
        found.append(index[labels.name])
    return Labelled(Frames([example.item for example in examples], image_size), np.array(found, np.int64))


class ClassObjective:
    """Cross-entropy with label smoothing; classes are drawn equally often, however many images they have, and within a
    class those with a hard negative, an image that was taken for another class, ``more_often`` than the others.
    """

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        augmentation: Augmentation,
        batch_size: int,
        image_size: int,
        label_smoothing: float,
        device: torch.device,
        hard: npt.NDArray[np.bool_] | None = None,
        more_often: float = 1.0,
    ) -> None:
        self._train, self._validation = train, validation
        self._canvas, self._batch_size, self._device = (image_size, image_size), batch_size, device
        self._augmenter, self._label_smoothing = Augmenter(augmentation, self._canvas), label_smoothing
        weights = np.ones(len(train.class_index)) if hard is None else np.where(hard, more_often, 1.0)
        chances = weights / np.bincount(train.class_index, weights)[train.class_index]
        self._chances = chances / chances.sum()

    def batch(self, rng: np.random.Generator) -> tuple[ByteArray, npt.NDArray[np.int64]]:
        chosen = rng.choice(len(self._chances), self._batch_size, p=self._chances)
        pixels = [self._augmenter(self._train.frames[int(index)].pixels, rng).pixels for index in chosen]
        return np.stack(pixels), self._train.class_index[chosen]

    def loss(self, net: nn.Module, batch: tuple[ByteArray, npt.NDArray[np.int64]]) -> torch.Tensor:
        pixels, truth = batch
        target = torch.from_numpy(truth).to(self._device)
        logits = net(to_input(pixels, self._device))
        return functional.cross_entropy(logits, target, label_smoothing=self._label_smoothing)

    def validation_loss(self, net: nn.Module) -> float | None:
        count = len(self._validation.frames)
        if not count:
            return None
        total = 0.0
        for start in range(0, count, self._batch_size):
            chosen = range(start, min(start + self._batch_size, count))
            pixels = np.stack([pad(self._validation.frames[index].pixels, *self._canvas) for index in chosen])
            target = torch.from_numpy(self._validation.class_index[chosen]).to(self._device)
            total += float(functional.cross_entropy(net(to_input(pixels, self._device)), target, reduction="sum"))
        return total / count
