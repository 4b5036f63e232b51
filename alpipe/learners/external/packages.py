"""What is not ours: packages that may be missing, and weights that have to be downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from alpipe.errors import AlpipeError, PluginError, TrainingError


def package(name: str, install: str) -> Any:
    """The package or module, imported. Raises PluginError where it is absent or does not work; ``install`` is what pip
    is to install.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # compiled packages for another torch raise RuntimeError, OSError and others
        raise PluginError(
            f"{name} cannot be imported ({brief(error)}); install one that fits torch {torch.__version__}:"
            f' pip install "{install}"'
        ) from error


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """Turns whatever goes wrong in a download within it into a TrainingError of one line."""
    try:
        yield
    except AlpipeError:
        raise
    except Exception as error:  # networks, hubs, caches and checksums fail with a dozen kinds
        raise TrainingError(
            f"{what} cannot be loaded ({brief(error)}); connect to the internet for the first training with them, or"
            " set weights: none to start from random ones"
        ) from error


def fill(net: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> list[str]:
    """Fills the network with those tensors that fit by name and shape; returns the names of its tensors whose shape is
    another (of layers with an output a class). Raises TrainingError where one has no counterpart at all.
    """
    own = net.state_dict()
    lacking = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    if lacking:
        raise TrainingError(f"{what} do not fit the network: {lacking[0]} and {len(lacking) - 1} more are not in them")
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    fits = {name: state[name] for name in own if name in state and name not in other}
    net.load_state_dict(fits, strict=False)
    return other


def brief(error: Exception) -> str:
    """The first line of what went wrong, in words."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
