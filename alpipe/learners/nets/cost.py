"""What a network costs: weights, multiply-adds, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

CPU = torch.device("cpu")


class Memory(NamedTuple):
    """Bytes in float32: of the ``weights``, of all layer ``outputs`` of one image together, which is what a training
    step keeps, and of the ``largest`` of these.
    """

    weights: int
    outputs: int
    largest: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one image: trainable ``parameters``, ``multiply_adds`` of convolutions and matrix products, and memory."""

    parameters: int
    multiply_adds: int
    memory: Memory


def cost(net: nn.Module, height: int, width: int) -> Cost:
    """The cost of a pass over one (3, height, width) image. The network is left as it was.

    Nothing is computed: shapes alone are followed, so that a huge input costs nothing either.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes seconds to start, as the meta device does

    with FlopCounterMode(display=False) as counter:
        used = memory(net, height, width, torch.device("meta"))
    parameters = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return Cost(parameters, counter.get_total_flops() // 2, used)


def memory(net: nn.Module, height: int, width: int, device: torch.device = CPU) -> Memory:
    """The memory of a pass over one (3, height, width) image, made on the device. The network is left as it was."""
    sizes: list[int] = []

    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    weights = dict((*net.named_parameters(), *net.named_buffers()))
    hooks = [module.register_forward_hook(note) for module in net.modules() if not list(module.children())]
    was_training = net.training
    try:
        moved = {name: tensor.detach().to(device) for name, tensor in weights.items()}
        with torch.no_grad():
            torch.func.functional_call(net.eval(), moved, (torch.zeros(1, 3, height, width, device=device),))
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    held = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return Memory(held, sum(sizes), max(sizes, default=0))
