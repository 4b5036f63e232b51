"""Stands in for torchvision.models: weights by name, which cannot be downloaded."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

from torchvision.models import backbones, detection, segmentation


class _Weights:
    url = "https://nowhere.invalid/weights.pth"

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> dict[str, Any]:
        raise URLError("there is no internet behind a stand-in")


def get_model_weights(name: str) -> dict[str, _Weights]:
    """By name, as torchvision's enumerations are asked too."""
    if name in backbones.CLASSIFIERS:
        return {"IMAGENET1K_V1": _Weights(), "IMAGENET1K_V2": _Weights()}
    return {"COCO_V1" if name in detection.ALL else "COCO_WITH_VOC_LABELS_V1": _Weights()}


__all__ = ["detection", "get_model_weights", "segmentation"]
