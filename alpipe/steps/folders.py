"""A project's private folder: models that are always whole, and work that is done by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from alpipe.errors import BusyError


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


@contextmanager
def alone(file: Path, work: str) -> Iterator[None]:
    """Holds the file as a lock, which falls with this process. Raises BusyError where another process of this machine
    holds it; ``work`` says in words what it does then.
    """
    with file.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read(40).strip()
            raise BusyError(f"another {work} runs (process {holder}): wait until it ends, or stop it") from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def hash_folder(folder: Path) -> str:
    """SHA-256 over names and contents of the files of a saved model."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(np.fromfile(path, np.uint8).tobytes())
    return digest.hexdigest()
