"""Tells a process from a later one that was given the same number."""

from __future__ import annotations

import subprocess
from pathlib import Path


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
