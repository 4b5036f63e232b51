"""A Prefect server of the project's own, on loopback, for the demo and for schedules without a server at hand."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx

from alpipe import daemons
from alpipe.errors import AlpipeError

NAME = "the Prefect server"
STATE = "server.json"
START_SECONDS = 120.0


class Server(NamedTuple):
    """A server that runs: its pages' address, the address of its API, and the process."""

    url: str
    api: str
    pid: int


def settings(home: Path, port: int) -> dict[str, str]:
    """The environment of a private server and of the runs that report to it. Sends nothing anywhere."""
    api = f"http://127.0.0.1:{port}/api"
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # In-memory leases would kill healthy runs when the server restarts (PrefectHQ/prefect #21064).
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }


def up(home: Path) -> Server:
    """Starts the server of this home, or finds it running. Raises AlpipeError with the log's name where it fails."""
    running = status(home)
    if running is not None:
        return running
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    pid = daemons.start(command, {**_without_prefect(os.environ), **settings(home, port)}, log)
    known = daemons.identity(pid)
    server = Server(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/api", pid)
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(server):
        if not daemons.runs(pid, known) or time.monotonic() > deadline:
            daemons.stop(pid, NAME)
            raise AlpipeError(f"the Prefect server did not start; its log is {log}")
        time.sleep(0.2)
    (home / STATE).write_text(json.dumps({**server._asdict(), "identity": known}), encoding="utf-8")
    return server


def status(home: Path) -> Server | None:
    """The server of this home, if it runs and answers."""
    try:
        state = json.loads((home / STATE).read_text(encoding="utf-8"))
        server = Server(state["url"], state["api"], int(state["pid"]))
    except (OSError, ValueError, KeyError):
        return None
    return server if daemons.runs(server.pid, state.get("identity")) and _healthy(server) else None


def down(home: Path) -> bool:
    """Stops the server of this home; whether there was one."""
    server = status(home)
    if server is None:
        return False
    daemons.stop(server.pid, NAME)
    (home / STATE).unlink(missing_ok=True)
    return True


def _without_prefect(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("PREFECT_")}


def _healthy(server: Server) -> bool:
    try:
        return httpx.get(f"{server.api}/health", timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
