"""Torchvision's detectors as alpipe trains and asks them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from alpipe.boxes import areas, iou
from alpipe.learners.detection.labelled import Labelled
from alpipe.learners.external.pixels import channels, normalised, pooled, to_unit
from alpipe.learners.training.augment import Augmentation, Augmenter
from alpipe.learners.training.data import Frame, canvas_size, pad, to_input
from alpipe.learners.training.device import reproducible
from alpipe.learners.training.options import Auto
from alpipe.types import BoxPrediction, ByteArray, FloatArray

MULTIPLE = 32
"""Torchvision pads the sides of a batch to multiples of this; images that have them need no padding."""

SAME_PLACE = 0.5
"""IoU from which boxes of different classes are answers to the same place."""


class DetectionNet(nn.Module):
    """A detector of ``torchvision.models.detection``. Images are alpipe's input, (B, 3, H, W) around zero; they are
    seen at the size that they come in.

    ``keep_norms``: the batch norms of the backbone keep the statistics that they come with, since detectors are trained
    on few images a step (He et al. 2017 and torchvision's own recipes do so with pretrained backbones).
    """

    def __init__(self, model: Any, keep_norms: bool) -> None:
        super().__init__()
        model.transform.resize = _keep_size
        self.model, self.keep_norms = model, keep_norms
        self.features = channels(model.backbone.body)

    def train(self, mode: bool = True) -> DetectionNet:
        super().train(mode)
        if mode and self.keep_norms:
            _hold_norms(self.model.backbone.body)
        return self

    def forward(self, images: torch.Tensor) -> Any:
        """What is computed of every image alike, to count its cost: the maps, and the dense heads on them. The work on
        each proposal (the box head of Faster R-CNN) is not in it.
        """
        maps = list(self.model.backbone(to_unit(images)).values())
        return self.model.head(maps) if hasattr(self.model, "head") else self.model.rpn.head(maps)

    def loss(self, images: torch.Tensor, boxes: Sequence[FloatArray], labels: Sequence[Any]) -> torch.Tensor:
        """The sum of the detector's own losses; in training mode only. ``boxes`` (N, 4) xyxy and ``labels`` (N,) from 1
        on, one array an image.
        """
        targets = [
            {"boxes": torch.from_numpy(xyxy).to(images.device), "labels": torch.from_numpy(label).to(images.device)}
            for xyxy, label in zip(boxes, labels, strict=True)
        ]
        with _float32(images):
            losses = self.model(list(to_unit(images)), targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def detect(self, images: torch.Tensor) -> list[dict[str, npt.NDArray[Any]]]:
        """``boxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,) of each image, best first; not in training mode."""
        with _float32(images):
            found = self.model(list(to_unit(images)))
        return [{name: value.float().cpu().numpy() for name, value in one.items()} for one in found]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32: mean over the image of the backbone's deepest map."""
        transform = self.model.transform
        return pooled(self.model.backbone.body(normalised(images, transform.image_mean, transform.image_std)))


def _float32(images: torch.Tensor) -> AbstractContextManager[object]:
    """Torchvision decodes boxes in the dtype of its heads' output, and bfloat16 tells 700 pixels from 704 at best."""
    return torch.autocast(images.device.type, enabled=False)


def _keep_size(image: torch.Tensor, target: Any = None) -> tuple[torch.Tensor, Any]:
    return image, target


def _hold_norms(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


class BoxBatch(NamedTuple):
    """``pixels`` (B, H, W, 3) uint8; of each image ``boxes`` (N, 4) in network pixels and ``labels`` (N,) from 1 on."""

    pixels: ByteArray
    boxes: list[FloatArray]
    labels: list[npt.NDArray[np.int64]]


class OwnLosses:
    """The losses that a torchvision detector computes by itself. Images with hard negatives are drawn more often; what
    was taken for an object there is background to all of these losses.
    """

    def __init__(
        self,
        train: Labelled,
        validation: Labelled,
        augmentation: Augmentation,
        batch_size: int,
        device: torch.device,
        empty_share: float | Auto = "auto",
    ) -> None:
        self._train, self._validation, self._batch_size, self._device = train, validation, batch_size, device
        self._augment = Augmenter(augmentation, canvas_size(train.frames.sizes, MULTIPLE))
        self._chances = train.chances(empty_share=empty_share)

    def batch(self, rng: np.random.Generator) -> BoxBatch:
        made, labels = [], []
        for index in rng.choice(len(self._chances), self._batch_size, p=self._chances):
            one = self._augment(self._train.frames[int(index)].pixels, rng, xyxy=self._train.boxes[index])
            made.append(one)
            labels.append(self._train.class_index[index][one.kept] + 1)
        return BoxBatch(np.stack([one.pixels for one in made]), [one.xyxy for one in made], labels)

    def loss(self, net: Any, batch: BoxBatch) -> torch.Tensor:
        loss: torch.Tensor = net.loss(to_input(batch.pixels, self._device), batch.boxes, batch.labels)
        return loss

    def validation_loss(self, net: Any) -> float | None:
        """The same losses, which torchvision computes in training mode only: batch norms are kept from learning, and
        what the losses draw at random (anchors and proposals) is the same each time.
        """
        frames = self._validation.frames
        if not len(frames):
            return None
        total = 0.0
        net.train()
        _hold_norms(net)
        with reproducible(0):
            for start in range(0, len(frames), self._batch_size):
                chosen = range(start, min(start + self._batch_size, len(frames)))
                canvas = canvas_size([frames.sizes[index] for index in chosen], MULTIPLE)
                pixels = np.stack([pad(frames[index].pixels, *canvas) for index in chosen])
                boxes = [self._validation.boxes[index] for index in chosen]
                labels = [self._validation.class_index[index] + 1 for index in chosen]
                total += float(self.loss(net, BoxBatch(pixels, boxes, labels))) * len(chosen)
        net.eval()
        return total / len(frames)


def prediction(key: str, found: dict[str, npt.NDArray[Any]], frame: Frame, classes: int) -> BoxPrediction:
    """What a detector says of one image, in image pixels.

    Torchvision gives each box one class and its score. The other classes of its row of ``probs`` have the best score of
    those boxes of the class that overlap it by an IoU of ``SAME_PLACE`` or more, or else 0: suppression is by class, so
    a place of which the detector is unsure carries a box for each class.
    """
    width, height = frame.size
    edges = np.array([width, height, width, height], np.float32)
    xyxy = np.clip(found["boxes"] / np.array(frame.scale * 2, np.float32), 0, edges).astype(np.float32)
    seen = (areas(xyxy) > 0) & (found["labels"] >= 1)  # label 0 is the background
    xyxy, scores = xyxy[seen], found["scores"][seen].astype(np.float32)
    index = found["labels"][seen].astype(np.int64) - 1
    near = np.where(iou(xyxy, xyxy) >= SAME_PLACE, scores, 0)  # (N, N): what box j says of the place of box i
    probs = np.zeros((len(xyxy), classes), np.float32)
    for name in np.unique(index):
        probs[:, name] = near[:, index == name].max(axis=1)
    probs[np.arange(len(index)), index] = scores
    return BoxPrediction(key, xyxy, scores, probs, index)
