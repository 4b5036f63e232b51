"""Losses of the dense detector."""

from __future__ import annotations

import torch
from torch.nn import functional


def focal_loss(logits: torch.Tensor, heat: torch.Tensor, focus: torch.Tensor) -> torch.Tensor:
    """Sum of the penalty-reduced focal loss over (B, C, h, w) logits and targets in [0, 1]; 1 is a positive.

    CornerNet (Law & Deng 2018), eq. 1: −(1 − p)² log p at positives, −(1 − y)⁴ p² log(1 − p) elsewhere. ``focus``
    (B, h, w) weighs places.
    """
    probability = torch.sigmoid(logits)
    positive = (heat >= 1).float()
    hit = -functional.logsigmoid(logits) * (1 - probability) ** 2 * positive
    miss = -functional.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4 * (1 - positive)
    return ((hit + miss) * focus[:, None]).sum()


def to_boxes(distances: torch.Tensor, stride: int) -> torch.Tensor:
    """(B, 4, h, w) xyxy in pixels of distances (left, top, right, bottom) from the places' centres."""
    height, width = distances.shape[2:]
    xs = (torch.arange(width, device=distances.device) + 0.5) * stride
    ys = ((torch.arange(height, device=distances.device) + 0.5) * stride)[:, None]
    left, top, right, bottom = distances.unbind(dim=1)
    return torch.stack([xs - left, ys - top, xs + right, ys + bottom], dim=1)


def giou_loss(predicted: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sum of 1 − GIoU (Rezatofighi et al. 2019) over (B, 4, h, w) xyxy boxes and (B, h, w) weights.

    A predicted box holds its place's centre, so it has an area.
    """
    px1, py1, px2, py2 = predicted.unbind(dim=1)
    tx1, ty1, tx2, ty2 = truth.unbind(dim=1)
    inner_w = (torch.minimum(px2, tx2) - torch.maximum(px1, tx1)).clamp(min=0)
    inner_h = (torch.minimum(py2, ty2) - torch.maximum(py1, ty1)).clamp(min=0)
    intersection = inner_w * inner_h
    union = (px2 - px1) * (py2 - py1) + (tx2 - tx1) * (ty2 - ty1) - intersection
    hull = (torch.maximum(px2, tx2) - torch.minimum(px1, tx1)) * (torch.maximum(py2, ty2) - torch.minimum(py1, ty1))
    giou = intersection / union - (hull - union) / hull
    return ((1 - giou) * weight).sum()
