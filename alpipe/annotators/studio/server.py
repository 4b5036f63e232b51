"""The life cycle of a local Label Studio server: in an environment of its own, on loopback only, one a home folder.

The home holds ``data`` (the server's database), ``files`` (the images it serves), ``server.log``, ``server.json``
(process and port) and ``credentials.json`` (0600). Tokens and passwords travel by environment, never by command line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from alpipe import daemons
from alpipe.annotators.studio import install
from alpipe.errors import AnnotatorError
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.types import Progress

START_TIMEOUT = 180.0
COLD_START, WARM_START = 40, 6
"""Seconds that a start usually takes with and without the database's migrations; only for the progress display."""

USERNAME = "alpipe@localhost"

PASSED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
})  # fmt: skip
PASSED_KINDS = ("LC_", "AWS_", "GOOGLE_APPLICATION_", "GOOGLE_CLOUD_", "AZURE_BLOB_")
"""What the server gets of the caller's environment. It takes a setting from each name it knows, with or without a
prefix of its own: DATABASE_NAME would move its database out of its private folder, DEBUG or HOST change its pages.
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs and accepts our token. A person logs in at ``url`` with ``username`` and ``password``."""

    url: str
    token: str = field(repr=False)
    home: Path
    pid: int
    files_root: Path
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server. ``files_root`` is the folder that it serves, where that is on this machine."""

    url: str
    token: str = field(repr=False)
    files_root: Path | None


def home_in(private: Path, stated: Path | None) -> Path:
    """The home of a project's server: a stated one, so that several projects can share a server, else the project's own
    in its private folder.
    """
    return private / "labelstudio" if stated is None else beside(private, stated)


def beside(private: Path, stated: Path) -> Path:
    """A path as options state it: relative to the project's folder, from wherever the command is run."""
    return private.parent / stated.expanduser()


def up(
    home: Path,
    *,
    port: int | None = None,
    executable: Path | None = None,
    progress: ProgressCallback = no_progress,
    timeout: float = START_TIMEOUT,
) -> Server:
    """The home's server, started if it does not run yet; what it held before is still there.

    Without ``port`` the last one is taken again, or a free one; without ``executable`` the one that is found, or
    installed. The server outlives the caller. Raises AnnotatorError where the port is taken, the home is a folder of
    others or open to them, the server dies, or it is not up after ``timeout`` seconds.
    """
    home = home.resolve()
    _make_home(home)
    with _locked(home, timeout):
        running = status(home)
        if running is not None:
            if port is not None and httpx.URL(running.url).port != port:
                raise AnnotatorError(
                    f"Label Studio already runs at {running.url}; stop it first: alpipe labelstudio down"
                )
            return running
        state = _alive(home)  # it may still be starting, for a caller that was killed
        if state is None:
            chosen = executable or install.find() or install.install(progress=progress)
            state = _launch(home, chosen, _port(home, port))
        try:
            return _wait(home, state, timeout, progress)
        except AnnotatorError:
            daemons.stop(state["pid"], "Label Studio")
            raise


def status(home: Path) -> Server | None:
    """The home's server, if its process is alive, says that it is up and accepts the token."""
    home = home.resolve()
    state = _alive(home)
    return _server(home, state) if state is not None and _answers(home, state) else None


def down(home: Path) -> bool:
    """Stops the home's server; whether one ran. Only a process that ``up`` started is ever signalled."""
    home = home.resolve()
    if not home.is_dir():
        return False
    with _locked(home, timeout=5):
        state = _alive(home)
        if state is None:
            return False
        daemons.stop(state["pid"], "Label Studio")
        _write(home / "server.json", {"port": state["port"]})
        return True


def connect(home: Path) -> Connection:
    """LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY from the environment, else the home's own server.

    Raises AnnotatorError where there is neither. Whether the server answers shows at the first request.
    """
    url, token = os.environ.get("LABEL_STUDIO_URL", "").strip(), os.environ.get("LABEL_STUDIO_API_KEY", "").strip()
    if url and not token:
        raise AnnotatorError(f"LABEL_STUDIO_URL is set ({url}) but not LABEL_STUDIO_API_KEY: set it to an access token")
    if url:
        _check_address(url, token)
        return Connection(url.rstrip("/"), token, None)
    home = home.resolve()
    state = _alive(home)
    if state is None:
        raise AnnotatorError(
            f"no Label Studio runs in {home}: start it with 'alpipe labelstudio up',"
            " or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
        )
    server = _server(home, state)
    return Connection(server.url, server.token, server.files_root)


def _check_address(url: str, token: str) -> None:
    parts = urlsplit(url)
    if "@" in parts.netloc:  # it would be shown with the address, in messages and reports
        raise AnnotatorError(
            "LABEL_STUDIO_URL holds a name or password: leave them out, LABEL_STUDIO_API_KEY is enough"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise AnnotatorError(
            f"LABEL_STUDIO_URL={urlunsplit((*parts[:3], '', ''))} is no address: write it as https://labels.example.org,"
            " without anything behind it"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise AnnotatorError("LABEL_STUDIO_API_KEY is no token: it holds blanks, line breaks or unusual characters")


# ── starting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _launch(home: Path, executable: Path, port: int) -> dict[str, Any]:
    if not os.access(executable, os.X_OK):
        raise AnnotatorError(f"{executable} is not an executable file; is Label Studio installed there?")
    credentials = _credentials(home)
    for folder in ("data", "files"):
        _private(home / folder)
    _write(home / "server.json", {"port": port})
    arguments = [str(executable), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    try:
        pid = daemons.start(arguments, _environment(home, credentials), home / "server.log")
    except OSError as error:
        raise AnnotatorError(f"{executable} cannot be started: {error.strerror}") from error
    state = {"port": port, "pid": pid, "identity": daemons.identity(pid)}
    _write(home / "server.json", state)
    return state


def _environment(home: Path, credentials: dict[str, str]) -> dict[str, str]:
    """Of the caller's environment what every program needs, and the server's documented settings."""
    kept = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(PASSED_KINDS)}
    return kept | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(home / "data"),
        "LABEL_STUDIO_USERNAME": credentials["username"],
        "LABEL_STUDIO_PASSWORD": credentials["password"],
        "LABEL_STUDIO_USER_TOKEN": credentials["token"],
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(home / "files"),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "PYTHONUNBUFFERED": "1",
    }


def _wait(home: Path, state: dict[str, Any], timeout: float, progress: ProgressCallback) -> Server:
    usual = WARM_START if (home / "data" / "label_studio.sqlite3").exists() else COLD_START
    begun = time.monotonic()
    while (elapsed := time.monotonic() - begun) < timeout:
        if _alive(home) is None:
            raise AnnotatorError(f"Label Studio ended while starting: {_last_line(home)} (log: {home / 'server.log'})")
        if _owns_port(home, state["port"]) and _answers(home, state):
            _use_write_ahead_log(home)
            progress(Progress("starting Label Studio", usual, usual, f"up after {elapsed:.0f} s"))
            return _server(home, state)
        progress(Progress("starting Label Studio", min(int(elapsed), usual - 1), usual, f"{elapsed:.0f} s"))
        time.sleep(0.25)
    raise AnnotatorError(
        f"Label Studio was not up after {timeout:.0f} s: {_last_line(home)} (log: {home / 'server.log'})"
    )


def _use_write_ahead_log(home: Path) -> None:
    """Submitting an answer takes about 40 % less time so, and readers do not block; the database file remembers it."""
    with contextlib.suppress(sqlite3.Error):  # it works without
        database = sqlite3.connect(home / "data" / "label_studio.sqlite3", timeout=2)
        try:
            database.execute("PRAGMA journal_mode=WAL")
        finally:
            database.close()


def _owns_port(home: Path, port: int) -> bool:
    """Whether our process listens on our port: it says so in its log. (A busy port silently becomes the next one.)"""
    log = (home / "server.log").read_text("utf-8", "replace")
    if "Starting development server at" not in log:
        return False
    if f"Starting development server at http://127.0.0.1:{port}/" not in log:
        raise AnnotatorError(f"port {port} was taken while Label Studio started; try again")
    return True


def _answers(home: Path, state: dict[str, Any]) -> bool:
    url = f"http://127.0.0.1:{state['port']}"
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
        try:
            if client.get("/health").json().get("status") != "UP":
                return False
            headers = {"Authorization": f"Token {_credentials(home)['token']}"}
            return client.get("/api/current-user/whoami", headers=headers).status_code == httpx.codes.OK
        except (httpx.HTTPError, ValueError, AttributeError):
            return False


def _last_line(home: Path) -> str:
    lines = [line for line in (home / "server.log").read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it wrote nothing"


def _port(home: Path, wanted: int | None) -> int:
    if wanted is not None:
        if not _is_free(wanted):
            raise AnnotatorError(f"port {wanted} is in use by another program; choose another one")
        return wanted
    last = _read(home / "server.json").get("port")
    if isinstance(last, int) and _becomes_free(last):
        return last
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _becomes_free(port: int, patience: float = 2.0) -> bool:
    """A server that was just stopped holds its port a moment longer."""
    ends = time.monotonic() + patience
    while not (free := _is_free(port)) and time.monotonic() < ends:
        time.sleep(0.05)
    return free


# ── the process ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _alive(home: Path) -> dict[str, Any] | None:
    """What ``server.json`` says, if that very process still runs."""
    state = _read(home / "server.json")
    pid = state.get("pid")
    if not isinstance(pid, int) or not isinstance(state.get("port"), int):
        return None
    return state if daemons.runs(pid, state.get("identity")) else None


def _server(home: Path, state: dict[str, Any]) -> Server:
    credentials = _credentials(home)
    return Server(
        url=f"http://127.0.0.1:{state['port']}",
        token=credentials["token"],
        home=home,
        pid=state["pid"],
        files_root=home / "files",
        username=credentials["username"],
        password=credentials["password"],
    )


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _credentials(home: Path) -> dict[str, str]:
    """Made at the first start; the server takes them over then and never again."""
    path = home / "credentials.json"
    stored = _read(path)
    if all(isinstance(stored.get(name), str) for name in ("username", "password", "token")):
        return stored
    made = {"username": USERNAME, "password": secrets.token_urlsafe(12), "token": secrets.token_hex(20)}
    _write(path, made)
    return made


def _make_home(home: Path) -> None:
    """A home of ours is made private; a folder that was there for something else keeps its rights, and will do only
    where nobody else can look into it.
    """
    try:
        about = home.stat() if home.exists() else None
        is_ours = about is None or (home / "server.json").is_file()
    except OSError as error:
        raise AnnotatorError(f"{home} cannot be looked into: {error.strerror}; check the option home") from error
    if about is None or is_ours:
        _private(home)
    elif not stat.S_ISDIR(about.st_mode):
        raise AnnotatorError(f"{home} is no folder: name another one for the option home")
    elif about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise AnnotatorError(
            f"{home} was not made by alpipe and is open to other users (mode {about.st_mode & 0o777:o}): name a folder"
            " that does not exist yet for the option home, or close it (chmod 700)"
        )


def _private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise AnnotatorError(f"{folder}: cannot be made a private folder: {error.strerror}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AnnotatorError(f"{path}: cannot be read ({error}); delete it and start the server again") from error
    return value if isinstance(value, dict) else {}


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all, and readable by the owner only from the first moment."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
    temporary.replace(path)


@contextlib.contextmanager
def _locked(home: Path, timeout: float) -> Iterator[None]:
    """One start or stop at a time; the lock falls with the process that holds it."""
    with (home / "lock").open("w") as file:
        ends = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise AnnotatorError(f"another start or stop of the server in {home} is under way") from None
                time.sleep(0.1)
        yield
