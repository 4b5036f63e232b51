"""What hard negatives weigh in the loss of a dense detector."""

from __future__ import annotations

import torch

MIDDLE = 0.5
"""Share of a hard negative's sides within which places weigh more: there a detector looks for an object of that box."""


def focus(
    centres: torch.Tensor, negatives: torch.Tensor, objects: torch.Tensor, positive: torch.Tensor, weight: float
) -> torch.Tensor:
    """(P,) weight of the class loss at places with (P, 2) centres: ``weight`` in the middle of the (M, 4) boxes of hard
    negatives, 1 elsewhere, within the (N, 4) true ``objects`` and where one is learnt (``positive``, (P,)): a false box
    may lie around a true one or on a part of it, and the places there are to stay as sure as they are.
    """
    sides = negatives[:, 2:] - negatives[:, :2]
    low, high = negatives[:, :2] + sides * (1 - MIDDLE) / 2, negatives[:, 2:] - sides * (1 - MIDDLE) / 2
    chosen = _within(centres, low, high) & ~_within(centres, objects[:, :2], objects[:, 2:]) & ~positive
    return torch.where(chosen, weight, 1.0)


def _within(centres: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """(P,) whether each place lies in one of the boxes with these corners (N, 2)."""
    return ((centres > low[:, None]) & (centres < high[:, None])).all(dim=2).any(dim=0)
