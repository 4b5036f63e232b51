"""Processes that outlive the command which starts them: started detached, known again, stopped with their children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from alpipe.errors import AlpipeError


def start(arguments: list[str], environment: Mapping[str, str], log: Path) -> int:
    """Starts a process in a session of its own, without input, its output in a log that is ours alone; its number.

    Raises OSError where the program, an absolute path, cannot be started.
    """
    return os.posix_spawn(  # not subprocess.Popen, which wants its children to end before it does
        arguments[0],
        arguments,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def runs(pid: int, known: str | None) -> bool:
    """Whether the process that had this identity still runs; collects it if it is a child of this one and ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return known is not None and identity(pid) == known


def stop(pid: int, name: str) -> None:
    """Ends the process group that ``pid`` leads: politely, after ten seconds by force. Raises AlpipeError."""
    known = identity(pid)
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        ends = time.monotonic() + patience
        while time.monotonic() < ends:
            if not runs(pid, known):
                return
            time.sleep(0.05)
    raise AlpipeError(f"{name} (process {pid}) does not end; stop it by hand")


def identity(pid: int) -> str | None:
    """The moment at which a running process started, as the system states it; None where there is none.

    A process that has ended but was not yet collected by its parent does not run.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():  # Linux
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"
    asked = subprocess.run(  # noqa: S603  # pid is a number
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(int(pid))], capture_output=True, text=True, check=False
    )
    words = asked.stdout.split()
    return " ".join(words[1:]) if words and not words[0].startswith("Z") else None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
