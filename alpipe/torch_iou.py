"""IoU and matching of boxes and masks on any device of PyTorch: `boxes` and `rle` over again, for tensors.

What lies on a GPU need not leave it to be compared. Every function gives what its namesake gives for arrays, bit for
bit: boxes are compared in float64 where either side is, else in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alpipe import boxes, rle
from alpipe.errors import DataError
from alpipe.types import Rle

BLOCK = 1 << 22
"""Pairs of boxes, or pixels of masks, that are held at a time; a sum of so many ones is still exact in float32."""


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(N, M) intersection over union in [0, 1] of (N, 4) and (M, 4) xyxy boxes; 0 where the union has no area."""
    dtype = _dtype(a, b)
    a, b = a.to(dtype), b.to(dtype)
    width, height = (
        (torch.minimum(a[:, None, high], b[:, high]) - torch.maximum(a[:, None, low], b[:, low])).clamp(min=0)
        for low, high in ((0, 2), (1, 3))
    )
    intersection = width * height
    # the least number changes no area but 0: without any, the intersection is 0 too
    return intersection / (_areas(a)[:, None] + (_areas(b) + torch.finfo(dtype).tiny) - intersection)


def best(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of (N, 4) boxes the other of (M, 4) that it overlaps most: its IoU (N,) in [0, 1], and which (N,), the
    first of equal ones, −1 where it overlaps none. Of N×M pairs only a block is held at a time.
    """
    value, which = a.new_zeros(len(a), dtype=_dtype(a, b)), torch.full((len(a),), -1, dtype=torch.long, device=a.device)
    for start in range(0, len(a) if len(b) else 0, _rows(b)):
        part = slice(start, start + _rows(b))
        value[part], found = iou(a[part], b).max(dim=1)
        which[part] = torch.where(value[part] > 0, found, -1)
    return value, which


def match(candidates: torch.Tensor, truths: torch.Tensor, threshold: float) -> torch.Tensor:
    """(N,) index of the truth each candidate is matched with, or −1: greedy and one-to-one in the order given (best
    score first), as `boxes.match` does it.

    Pairs are compared on the device; the few that overlap enough are dealt out on the host.
    """
    near = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for start in range(0, len(candidates), _rows(truths)):
        overlaps = iou(candidates[start : start + _rows(truths)], truths)
        row, column = torch.nonzero((overlaps >= threshold) & (overlaps > 0), as_tuple=True)
        near.append(((row + start).cpu().numpy(), column.cpu().numpy(), overlaps[row, column].cpu().numpy()))
    rows, columns, overlap = map(np.concatenate, zip(*near, strict=True))
    matched = boxes.deal(rows, columns, overlap, len(candidates), len(truths))
    return torch.from_numpy(matched).to(candidates.device)


def mask_iou(a: Sequence[Rle], b: Sequence[Rle], device: torch.device | str = "cpu") -> torch.Tensor:
    """(N, M) float32 intersection over union in [0, 1] of run-length masks of one size; 0 where both are empty. Masks
    are unpacked on the device, some at a time, and intersections are a product of matrices.

    Raises DataError for masks of different sizes, and for counts that are damaged.
    """
    if len({mask[:2] for mask in (*a, *b)}) > 1:
        raise DataError("masks of different sizes cannot be compared")
    found = torch.zeros((len(a), len(b)), device=device)
    if not a or not b:
        return found
    at_once = max(1, BLOCK // max(1, a[0].height * a[0].width))
    for top in range(0, len(a), at_once):
        ours = _unpacked(a[top : top + at_once], device)
        for left in range(0, len(b), at_once):
            theirs = _unpacked(b[left : left + at_once], device)
            common = _common(ours, theirs)
            either = ours.sum(dim=1, dtype=torch.long)[:, None] + theirs.sum(dim=1, dtype=torch.long) - common
            found[top : top + len(ours), left : left + len(theirs)] = common / either.clamp(min=1)
    return found


def _dtype(a: torch.Tensor, b: torch.Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)


def _rows(others: torch.Tensor) -> int:
    """How many boxes are compared with all the others at a time."""
    return max(1, BLOCK // max(1, len(others)))


def _areas(xyxy: torch.Tensor) -> torch.Tensor:
    sides = (xyxy[:, 2:] - xyxy[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def _unpacked(masks: Sequence[Rle], device: torch.device | str) -> torch.Tensor:
    """(K, pixels) float32 of 0 and 1, column by column of each mask."""
    turns = [np.cumsum(runs) for runs in rle.run_lengths(*masks)]  # where a run ends, 0 turns into 1 or back
    row = torch.from_numpy(np.repeat(np.arange(len(turns)), [len(ends) for ends in turns])).to(device)
    at = torch.from_numpy(np.concatenate(turns)).to(device)
    count = torch.zeros((len(masks), masks[0].height * masks[0].width + 1), dtype=torch.int32, device=device)
    count.index_put_((row, at), torch.ones_like(at, dtype=torch.int32), accumulate=True)
    return (count.cumsum(dim=1, dtype=torch.int32)[:, :-1] & 1).float()


def _common(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(N, M) pixels that are 1 in both; float32 counts so many exactly as a block has."""
    parts = zip(torch.split(a, BLOCK, dim=1), torch.split(b, BLOCK, dim=1), strict=True)
    return torch.stack([(x @ y.T).long() for x, y in parts]).sum(dim=0)
