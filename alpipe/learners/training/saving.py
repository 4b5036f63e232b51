"""Models on disk: tensors in ``model.safetensors``, what they are in ``model.json``. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from alpipe.errors import DataError
from alpipe.types import Task

Options = TypeVar("Options", bound=BaseModel)

TENSORS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True, slots=True)
class Description:
    """What the tensors are: which learner made them, with which options, for what. ``image_size`` is the longer side,
    in pixels, at which the network sees images; ``facts`` are what the training found out (steps, losses, the versions
    it ran with, what it chose).
    """

    learner: str
    format: int
    task: str
    classes: tuple[str, ...]
    image_size: int
    options: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, net: nn.Module, description: Description) -> None:
    """Writes both files; each appears whole or not at all, the description last."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    write_whole(folder / TENSORS, tensors_to_bytes(state))
    write_whole(folder / DESCRIPTION, json.dumps(asdict(description), indent=1, ensure_ascii=False).encode())


def describe(folder: Path, learner: str, format_version: int) -> Description:
    """The description of the model saved there. Raises DataError where there is none, or of another kind."""
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_bytes())
        found = Description(**values)
        found = Description(**(asdict(found) | {"classes": tuple(found.classes), "image_size": int(found.image_size)}))
        Task(found.task)
        if not isinstance(found.facts, dict) or found.image_size < 1:
            raise ValueError("facts or image_size are not what they should be")
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no model is saved there ({DESCRIPTION} is missing); train one") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: the model's description is damaged ({error}); train again") from error
    if found.learner != learner:
        raise DataError(f"{path}: the model was made by learner {found.learner!r}, not by {learner!r}")
    if found.format != format_version:
        raise DataError(f"{path}: the model is of format {found.format}, expected {format_version}; train again")
    return found


def options_of(description: Description, kind: type[Options], folder: Path) -> Options:
    """The options that the model was made with. Raises DataError where this version does not know them."""
    try:
        return kind(**description.options)
    except (ValidationError, TypeError) as error:
        raise DataError(f"{folder / DESCRIPTION}: the model's options do not fit this version; train again") from error


def restore(folder: Path, net: nn.Module) -> None:
    """Fills the network with the tensors saved there. Raises DataError where they are damaged or do not fit."""
    restore_file(folder / TENSORS, net)


def restore_file(path: Path, net: nn.Module) -> None:
    """Fills the network with the tensors in the file. Raises DataError where they are damaged or do not fit."""
    try:
        net.load_state_dict(tensors_from_bytes(path.read_bytes()))
    except FileNotFoundError as error:
        raise DataError(f"{path}: the model's tensors are missing; train again") from error
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: the model's tensors are damaged or do not fit ({reason}); train again") from error


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes. Raises DataError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside the file and renames, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint in the file (tensors and plain values only), or None where there is none or it is damaged."""
    try:
        loaded: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # torch raises a dozen kinds on damaged files
        return None
    return loaded if isinstance(loaded, dict) else None
