"""What hard negatives weigh in the loss of a dense detector."""

from __future__ import annotations

import torch


def focus(centres: torch.Tensor, negatives: torch.Tensor, positive: torch.Tensor, weight: float) -> torch.Tensor:
    """(P,) weight of the class loss at places with (P, 2) centres: ``weight`` within the (M, 4) boxes of hard
    negatives, 1 elsewhere and where an object is learnt (``positive``, (P,)): a false box may lie around a true one.
    """
    inside = (centres > negatives[:, None, :2]) & (centres < negatives[:, None, 2:])
    within = inside.all(dim=2).any(dim=0) & ~positive
    return torch.where(within, weight, 1.0)
