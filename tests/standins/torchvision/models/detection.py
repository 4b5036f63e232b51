"""Stands in for torchvision.models.detection: the same calls and results, one box a place of the deepest map."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from torchvision.models.backbones import CHANNELS, maps


class _Transform(nn.Module):
    """Normalises the images, resizes each (to 800 pixels on the shorter side, if nobody says otherwise), pads them."""

    def __init__(self) -> None:
        super().__init__()
        self.image_mean, self.image_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.as_tensor(value, dtype=image.dtype) for value in (self.image_mean, self.image_std))
        return (image - mean[:, None, None]) / std[:, None, None]

    def resize(self, image: torch.Tensor, target: Any = None) -> tuple[torch.Tensor, Any]:
        raise NotImplementedError("alpipe resizes images by itself")

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> tuple[torch.Tensor, Any]:
        assert all(image.dim() == 3 for image in images)
        pairs = zip(images, targets or [None] * len(images), strict=True)
        done = [self.resize(self.normalize(image), target) for image, target in pairs]
        height, width = (max(image.shape[axis] for image, _ in done) for axis in (1, 2))
        batch = torch.stack(
            [functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image, _ in done]
        )
        return batch, targets and [target for _, target in done]


class _BackboneWithFPN(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = maps(name, "0", "1")
        self.fpn = nn.ModuleList(nn.Conv2d(channels, 8, 1) for channels in CHANNELS)
        self.out_channels = 8

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return OrderedDict(
            (name, layer(found)) for layer, (name, found) in zip(self.fpn, self.body(x).items(), strict=True)
        )


class _Head(nn.Module):
    """Logits and box sides at each place of the last map."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.cls_logits, self.bbox_reg = nn.Conv2d(8, num_classes, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"cls_logits": self.cls_logits(x[-1]), "bbox_regression": self.bbox_reg(x[-1])}


class _Detector(nn.Module):
    """``names``: of its losses. Labels are from 1 on for objects; one-stage detectors have an output 0 that they can
    give too, as torchvision's have.
    """

    def __init__(self, backbone: str, names: tuple[str, ...], num_classes: int, limits: dict[str, Any]) -> None:
        super().__init__()
        self.transform, self.backbone = _Transform(), _BackboneWithFPN(backbone)
        head = _Head(num_classes)
        if "loss_objectness" in names:
            self.rpn = nn.Module()
            self.rpn.head = head
        else:
            self.head = head
        self._names, self._limits = names, limits

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        if self.training:
            self._check(targets)
        batch, targets = self.transform(images, targets)
        maps_ = list(self.backbone(batch).values())
        made = self.head(maps_) if hasattr(self, "head") else self.rpn.head(maps_)
        logits = made["cls_logits"].flatten(2).transpose(1, 2)
        boxes = self._boxes(made["bbox_regression"], batch.shape[2:])
        return self._losses(logits, boxes, targets) if self.training else self._detections(logits, boxes)

    @staticmethod
    def _check(targets: Any) -> None:
        assert targets is not None, "targets should not be none when in training mode"
        for target in targets:
            assert target["boxes"].dim() == 2
            assert target["boxes"].shape[-1] == 4
            assert target["boxes"].dtype == torch.float32
            assert target["labels"].dtype == torch.int64
            assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()

    @staticmethod
    def _boxes(sides: torch.Tensor, size: Any) -> torch.Tensor:
        height, width = sides.shape[2:]
        ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centre = torch.stack([xs * size[1] / width, ys * size[0] / height], dim=-1).flatten(0, 1)
        reach = 8 * functional.softplus(sides.flatten(2).transpose(1, 2).float())
        low, high = centre - reach[..., :2], centre + reach[..., 2:]
        limits = torch.tensor([size[1], size[0]])
        return torch.cat([torch.minimum(low.clamp(min=0), limits), torch.minimum(high, limits)], dim=-1)

    def _losses(self, logits: torch.Tensor, boxes: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
        truth = torch.zeros_like(logits)
        distance = boxes.new_zeros(())
        for index, target in enumerate(targets):
            for box, label in zip(target["boxes"], target["labels"], strict=True):
                centre = (boxes[index, :, :2] + boxes[index, :, 2:]) / 2
                place = int((centre - (box[:2] + box[2:]) / 2).abs().sum(dim=1).argmin())
                truth[index, place, label] = 1
                distance = distance + (boxes[index, place] - box).abs().mean() / 100
        drawn = torch.randperm(logits.shape[1])[: max(1, logits.shape[1] // 2)]  # torchvision draws proposals
        each = functional.binary_cross_entropy_with_logits(logits[:, drawn].float(), truth[:, drawn].float())
        return {name: (each if number % 2 == 0 else distance) for number, name in enumerate(self._names)}

    def _detections(self, logits: torch.Tensor, boxes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        first = 0 if hasattr(self, "head") else 1
        made = []
        for scores, places in zip(torch.sigmoid(logits), boxes, strict=True):
            place, label = (scores[:, first:] > self._limits["score_thresh"]).nonzero(as_tuple=True)
            label = label + first
            order = scores[place, label].argsort(descending=True, stable=True)[: self._limits["detections_per_img"]]
            place, label = place[order], label[order]
            made.append({"boxes": places[place], "labels": label, "scores": scores[place, label]})
        return made


def _build(
    backbone: str,
    names: tuple[str, ...],
    *,
    weights: None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: None = None,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    if weights is not None or weights_backbone is not None:
        raise NotImplementedError("a stand-in has no weights in its constructor")
    prefix = "box_" if "loss_objectness" in names else ""
    defaults = {"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 100}
    limits = {name: kwargs.pop(f"{prefix}{name}", value) for name, value in defaults.items()}
    assert not kwargs, f"unexpected {', '.join(kwargs)}"
    return _Detector(backbone, names, num_classes or 91, limits)


_TWO_STAGES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
fasterrcnn_resnet50_fpn_v2 = partial(_build, "resnet50", _TWO_STAGES)
fasterrcnn_mobilenet_v3_large_fpn = partial(_build, "mobilenet_v3_large", _TWO_STAGES)
retinanet_resnet50_fpn_v2 = partial(_build, "resnet50", ("classification", "bbox_regression"))
fcos_resnet50_fpn = partial(_build, "resnet50", ("classification", "bbox_regression", "bbox_ctrness"))

ALL = (
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
)
