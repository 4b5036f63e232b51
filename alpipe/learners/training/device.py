"""Where to compute and in which precision."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from alpipe.errors import ConfigError
from alpipe.protocols import LearnerContext

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CLEARLY_FASTER = 1.3
"""So much faster a lower precision must be to be chosen: less is not worth its errors, nor told apart from noise."""


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and the dtype of matrix products on it; weights are always kept in float32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def identity(self) -> tuple[str, str]:
        """What a training depends on of it: the kind of device, and the precision."""
        return self.device.type, self.precision

    @property
    def precision(self) -> str:
        """The name of the dtype, as in the configuration."""
        return next(name for name, dtype in PRECISIONS.items() if dtype is self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """Runs matrix products and convolutions within it in ``dtype``."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)


def resolve(context: LearnerContext) -> Compute:
    """The device and precision that the project asks for; ``auto`` takes the fastest of what is there.

    Raises ConfigError for a device that is unknown or absent, and for an unknown precision.
    """
    device = _device(context.device)
    if context.precision == "auto":
        return Compute(device, _fast_dtype(device))
    if context.precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {context.precision!r}; use auto or one of {', '.join(PRECISIONS)}")
    return Compute(device, PRECISIONS[context.precision])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if _bf16_pays() else torch.float32


@cache
def _bf16_pays() -> bool:
    """Whether convolutions in bfloat16 are clearly faster on this CPU. Having the instructions does not tell: on some
    processors that have them they are twice as fast as float32, on others half as fast; so it is measured, once.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False
    shapes = ((4, 64, 32, 32), (64, 64, 3, 3))
    given = {
        dtype: [torch.ones(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last) for shape in shapes]
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = dict.fromkeys(given, math.inf)
    with torch.inference_mode():
        for _ in range(20):  # in turns, so that another process that comes and goes slows both
            for dtype, (image, weight) in given.items():
                started = time.perf_counter()
                torch.nn.functional.conv2d(image, weight, padding=1)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    return seconds[torch.bfloat16] * CLEARLY_FASTER <= seconds[torch.float32]


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seeds torch and asks for deterministic kernels within the block; leaves the process as it was."""
    before = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
