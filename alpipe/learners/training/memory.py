"""How many images a training step may hold."""

from __future__ import annotations

import os

import torch

from alpipe.learners.nets.cost import Memory

SHARE = 0.25
"""Share of the device's memory that a training may take: others live there too."""

KEPT = 3
"""A step keeps each layer's output, its gradient, and a working copy now and then."""


def batch_size(wanted: int, used: Memory, device: torch.device) -> int:
    """``wanted`` images, or as many as fit, but 2 at least, since batch norm needs them. ``used`` is what one image of
    the size that the training sees takes.

    It goes by the memory that the machine has, not by what is free at the moment: the same training on the same machine
    takes the same steps.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    weights = 6 * used.weights  # the weights, their average, the best so far, gradients and two moments
    fits = int((SHARE * total - weights) // (KEPT * max(1, used.outputs)))
    return max(2, min(wanted, fits))
