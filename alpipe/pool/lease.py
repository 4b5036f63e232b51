"""Who holds a step of the loop: names of running processes, and a heartbeat that keeps a lease alive."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alpipe.errors import AlpipeError


def owner_id() -> str:
    """``host:pid:starttime`` of this process: unique over restarts, and checkable by others on the same host."""
    return f"{_host()}:{os.getpid()}:{_started(os.getpid()) or 'unknown'}"


def owner_is_dead(owner: str) -> bool:
    """Whether the owner was a process of this host that has ended. False where that cannot be known from here."""
    host, pid, started = (*owner.rsplit(":", 2), "", "")[:3]
    if host != _host() or not pid.isdigit():
        return False
    if Path("/proc/self/stat").exists():
        return _started(int(pid)) != started
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@cache
def _host() -> str:
    """The host's name and, where there is one, the process namespace: containers may share a name but no processes."""
    try:
        return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When the process started, in ticks since which boot; None where it has ended or there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return None if state in "ZX" else f"{fields[18]}-{_boot()}"


class Heartbeat:
    """Whether the lease that ``keep_alive`` renews is still ours."""

    def __init__(self) -> None:
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """True once a renewal was refused: another run has taken over, and this one should stop."""
        return self._lost.is_set()


@contextmanager
def keep_alive(renew: Callable[[], bool], every: float) -> Iterator[Heartbeat]:
    """Calls ``renew`` every so many seconds from a thread of its own until the block ends or a renewal is refused.

    A renewal that fails (the store is busy) is tried again at the next beat.
    """
    heartbeat, stop = Heartbeat(), threading.Event()

    def beat() -> None:
        while not stop.wait(every):
            try:
                if not renew():
                    heartbeat._lost.set()
                    return
            except AlpipeError:
                continue

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield heartbeat
    finally:
        stop.set()
        thread.join()
