"""One push of a project at a time on this machine; those of others are put in order afterwards."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from alpipe.protocols import ProgressCallback
from alpipe.types import Progress

PATIENCE = 2.0
"""Seconds of waiting that need no word."""


@contextmanager
def exclusive(file: Path, progress: ProgressCallback, patience: float = PATIENCE) -> Iterator[None]:
    """Waits until no other process holds the file, and after ``patience`` seconds says for which one. The lock falls
    with the process that holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as stream:
        if not _is_free_within(stream, patience):
            stream.seek(0)
            holder = stream.read(40).strip() or "of unknown number"
            progress(Progress("push", 0, 1, f"waiting for the push of process {holder} to end ({file})"))
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def _is_free_within(stream: IO[str], patience: float) -> bool:
    """Whether the lock could be taken in that time."""
    ends = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends:
                return False
            time.sleep(0.05)
        else:
            return True
