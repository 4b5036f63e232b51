"""Models on disk: a folder under its own name is always whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Protocol

import numpy as np


class Saves(Protocol):
    """What can be written into a folder."""

    def save(self, folder: Path) -> None: ...


def save_whole(made: Saves, folder: Path) -> None:
    """Saves beside the folder and renames. A folder that another run put there meanwhile is left."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    made.save(temporary)
    if folder.is_dir():
        shutil.rmtree(temporary)
    else:
        temporary.replace(folder)


def hash_folder(folder: Path) -> str:
    """SHA-256 over names and contents of the files of a saved model."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(np.fromfile(path, np.uint8).tobytes())
    return digest.hexdigest()
