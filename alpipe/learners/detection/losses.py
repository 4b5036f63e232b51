"""Losses of the detector."""

from __future__ import annotations

import torch
from torch.nn import functional

NEGATIVE_WEIGHT, NEGATIVE_POWER = 0.75, 2
"""α and γ of the varifocal loss, as in its paper."""


def varifocal_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Elementwise cross-entropy of logits against targets in [0, 1], weighted by the target where it is positive, and
    by α pᵞ elsewhere (Zhang et al. 2021, "VarifocalNet", eq. 2): of the many places without object only those that
    seem to have one count, while those with one are never damped.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    easy = NEGATIVE_WEIGHT * torch.sigmoid(logits) ** NEGATIVE_POWER
    return entropy * torch.where(target > 0, target, easy)


def overlaps(predicted: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) IoU and generalised IoU (Rezatofighi et al. 2019) of (N, 4) xyxy boxes with (N, 4), all with an area."""
    inner = torch.minimum(predicted[:, 2:], truth[:, 2:]) - torch.maximum(predicted[:, :2], truth[:, :2])
    outer = torch.maximum(predicted[:, 2:], truth[:, 2:]) - torch.minimum(predicted[:, :2], truth[:, :2])
    intersection, hull = inner.clamp(min=0).prod(dim=1), outer.prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (predicted, truth)]
    union = areas[0] + areas[1] - intersection
    iou = intersection / union
    return iou, iou - (hull - union) / hull


def hardest(loss: torch.Tensor, positive: torch.Tensor, ratio: float, least: int) -> torch.Tensor:
    """Which of (B, P) places to learn from: the positive ones, and of the others those of highest loss, ``ratio`` for
    each positive one of the image, at least ``least`` (Shrivastava et al. 2016, online hard example mining).
    """
    wanted = (positive.sum(dim=1, keepdim=True) * ratio).clamp(min=least)
    order = loss.detach().masked_fill(positive, -1).argsort(dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(loss.shape[1], device=loss.device).expand_as(order))
    return positive | (rank < wanted)
