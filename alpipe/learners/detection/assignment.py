"""Which places of the network's output are to find which object.

Task alignment (Feng et al. 2021, "TOOD: Task-aligned One-stage Object Detection"): an object is learnt at the places
that already find it best, by class and by box alike, so that good scores and good boxes come from the same places.
What a network that has seen a few images finds well is chance, so alignment is weighed by a prior: an object is best
learnt in its middle, on the level that suits its size (as FCOS and FPN choose levels, but with soft edges).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from alpipe.torch_iou import iou

PLACES = 10
"""Most places that learn one object."""

SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""How much class score and IoU count in the alignment of a place with an object, as in YOLOv8."""

NEAREST = 1e-9
"""Alignment of a place with an object that no box overlaps yet: below that of any real overlap."""

SUITS = 4.0
"""Side of the objects, in strides, that a level is best for."""

CENTRED = 4.0
"""How sharply the prior falls from an object's middle: to exp(-4) at the middle of an edge."""


class Assignment(NamedTuple):
    """Of an image's P places: ``owner`` (P,), index of the object learnt there; ``share`` (P,) in [0, 1], how well the
    place is aligned with it: 1 at the object's best place, 0 where no object is learnt.
    """

    owner: torch.Tensor
    share: torch.Tensor


@torch.no_grad()
def assign(
    probs: torch.Tensor,
    boxes: torch.Tensor,
    centres: torch.Tensor,
    strides: torch.Tensor,
    truth: torch.Tensor,
    class_index: torch.Tensor,
) -> Assignment:
    """Places of one image for its (N, 4) true boxes of (N,) classes, given the class probabilities (P, C) and boxes
    (P, 4) found at the places, whose centres are (P, 2) and strides (P,), finest first.

    An object's candidates are the places within its box, or within one place of the finest level from its middle where
    the box is smaller than that. It takes the ``PLACES`` best of them, by prior times alignment; of several objects at
    a place, the one of highest IoU has it, save that an object keeps its best place.
    """
    if not len(truth):
        return Assignment(torch.zeros_like(centres[:, 0], dtype=torch.long), torch.zeros_like(centres[:, 0]))
    overlap = iou(truth, boxes)
    middle, half = (truth[:, :2] + truth[:, 2:]) / 2, (truth[:, 2:] - truth[:, :2]) / 2
    away = (centres - middle[:, None]).abs() / half.clamp(min=float(strides[0]))[:, None]  # in half sides
    side = 2 * half.prod(dim=1).sqrt()
    octaves = torch.log2(side[:, None] / (SUITS * strides))
    prior = torch.exp(-CENTRED * away.pow(2).sum(dim=2) - octaves.pow(2)).clamp(min=1e-6)
    score = probs[:, class_index].T
    alignment = prior * (score**SCORE_POWER * overlap**OVERLAP_POWER + NEAREST)
    best = torch.where(away.amax(dim=2) <= 1, alignment, 0).topk(min(PLACES, len(centres)), dim=1)
    chosen = torch.zeros_like(alignment).scatter_(1, best.indices, best.values)
    claim = torch.where(chosen > 0, overlap + NEAREST, 0)
    claim.scatter_add_(1, best.indices[:, :1], torch.ones_like(best.values[:, :1]))  # over any other's IoU
    claimed, owner = claim.max(dim=0)
    aligned = chosen.gather(0, owner[None])[0]
    highest = aligned.new_zeros(len(truth)).scatter_reduce_(0, owner, aligned, "amax")
    share = torch.where(claimed > 0, aligned / highest[owner].clamp(min=1e-30), 0)
    return Assignment(owner, share)
