"""Starting and stopping a local server, without one: what goes wrong is stated, and no other process is touched."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpipe.annotators.studio import install, server
from alpipe.daemons import identity
from alpipe.errors import AnnotatorError
from alpipe.types import Progress


@pytest.fixture(autouse=True)
def no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "ALPIPE_LABELSTUDIO"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process
        process.kill()


def program(folder: Path, text: str) -> Path:
    path = folder / "label-studio"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    dying = program(tmp_path, "echo starting; echo 'no such table: users' >&2; exit 3")
    with pytest.raises(AnnotatorError, match=r"ended while starting: no such table: users \(log: .*server\.log\)"):
        server.up(tmp_path / "home", executable=dying)
    assert server.status(tmp_path / "home") is None


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path: Path) -> None:
    deaf = program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(AnnotatorError, match="not up after 1 s"):
        server.up(tmp_path / "home", executable=deaf, timeout=0.6)
    assert identity(int((tmp_path / "pid").read_text())) is None


def test_a_server_on_another_port_than_asked_for_is_not_taken_for_ours(tmp_path: Path) -> None:
    moved = program(tmp_path, "echo 'Starting development server at http://127.0.0.1:1/'; exec sleep 60")
    with pytest.raises(AnnotatorError, match="was taken while Label Studio started"):
        server.up(tmp_path / "home", executable=moved)


def test_a_busy_port_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(AnnotatorError, match=f"port {port} is in use"):
            server.up(tmp_path / "home", port=port, executable=program(tmp_path, f"touch {tmp_path}/started"))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("text", [None, "text"])
def test_something_that_is_no_program_is_stated(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "label-studio"
    if text:
        path.write_text(text)
        path.chmod(0o755)
    with pytest.raises(AnnotatorError, match=r"not an executable file|cannot be started"):
        server.up(tmp_path / "home", executable=path)


def test_secrets_are_private_and_reach_the_server_by_environment_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    shows = program(tmp_path, f'echo "$@" > {tmp_path}/arguments; env > {tmp_path}/environment; exit 1')
    with pytest.raises(AnnotatorError):
        server.up(home, executable=shows)
    credentials = json.loads((home / "credentials.json").read_text())
    assert len(credentials["token"]) <= 40, "more than Label Studio takes"
    environment = dict(
        line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line
    )
    assert environment["LABEL_STUDIO_USER_TOKEN"] == credentials["token"]
    assert environment["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
    arguments = (tmp_path / "arguments").read_text()
    assert "--internal-host 127.0.0.1" in arguments
    assert not any(secret in arguments for secret in (credentials["token"], credentials["password"]))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home, home / "data", *home.glob("*.*"))}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_folder_of_others_is_no_home_and_keeps_its_rights(mode: int, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs").chmod(mode)
    with pytest.raises(AnnotatorError, match=rf"docs was not made by alpipe and is open .* \(mode {mode:o}\)"):
        server.up(tmp_path / "docs", executable=program(tmp_path, f"touch {tmp_path}/started"))
    assert stat.S_IMODE((tmp_path / "docs").stat().st_mode) == mode
    assert [path.name for path in tmp_path.rglob("*") if path.name != "label-studio"] == ["docs"]


def test_a_home_of_ours_is_closed_again_and_a_private_folder_will_do(tmp_path: Path) -> None:
    dying = program(tmp_path, "echo tried; exit 1")
    ours, private = tmp_path / "ours", tmp_path / "private"
    private.mkdir(mode=0o700)
    for home in (ours, private, ours):
        with pytest.raises(AnnotatorError, match="tried"):
            server.up(home, executable=dying)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        ours.chmod(0o755)


def test_the_caller_s_environment_does_not_change_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ("DATABASE_NAME", "DEBUG", "HOST", "HEARTEX_HOST", "STORAGE_TYPE", "CORS_ALLOW_ALL_ORIGINS")
    for name in (*foreign, "AWS_PROFILE", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "theirs")
    with pytest.raises(AnnotatorError):
        server.up(tmp_path / "home", executable=program(tmp_path, f"env > {tmp_path}/environment; exit 1"))
    seen = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert seen.isdisjoint(foreign)
    assert {"PATH", "HOME", "AWS_PROFILE", "HTTPS_PROXY"} <= seen


def test_a_stated_home_lies_beside_the_project_wherever_the_command_runs(tmp_path: Path) -> None:
    assert server.home_in(tmp_path / "p" / ".alpipe", Path("../shared")) == tmp_path / "p" / "../shared"
    assert server.home_in(tmp_path / ".alpipe", tmp_path / "there") == tmp_path / "there"
    assert server.home_in(tmp_path / ".alpipe", None) == tmp_path / ".alpipe" / "labelstudio"


@pytest.mark.parametrize("url", ["http://me:secret@127.0.0.1:1", "http://127.0.0.1:1/?token=secret", "127.0.0.1:1"])
def test_an_address_with_more_than_an_address_is_refused_unseen(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
    with pytest.raises(AnnotatorError, match="LABEL_STUDIO_URL") as refusal:
        server.connect(tmp_path)
    assert "secret" not in str(refusal.value)


def test_credentials_stay_the_same_over_restarts(tmp_path: Path) -> None:
    dying = program(tmp_path, "exit 1")
    seen = []
    for _ in range(2):
        with pytest.raises(AnnotatorError):
            server.up(tmp_path / "home", executable=dying)
        seen.append((tmp_path / "home" / "credentials.json").read_text())
    assert seen[0] == seen[1]


@pytest.mark.parametrize("identified", [None, "another boot/12345"])
def test_a_process_that_is_not_ours_is_never_stopped(
    tmp_path: Path, bystander: subprocess.Popen[bytes], identified: str | None
) -> None:
    stale = {"pid": bystander.pid, "port": 8080, "identity": identified}
    (tmp_path / "server.json").write_text(json.dumps(stale))
    assert server.status(tmp_path) is None
    assert server.down(tmp_path) is False
    assert bystander.poll() is None


def test_down_stops_the_process_that_was_started(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    ours = {"pid": bystander.pid, "port": 8080, "identity": identity(bystander.pid)}
    (tmp_path / "server.json").write_text(json.dumps(ours))
    assert server.down(tmp_path) is True
    assert identity(bystander.pid) is None
    assert server.down(tmp_path) is False


def test_an_ended_process_has_no_identity() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identity(process.pid) is None, "ended, though not collected yet"
    assert identity(process.pid) is None
    assert identity(os.getpid()) == identity(os.getpid()) is not None


def test_without_a_server_the_failure_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnnotatorError, match=r"alpipe labelstudio up.*LABEL_STUDIO_URL"):
        server.connect(tmp_path)
    monkeypatch.setenv("LABEL_STUDIO_URL", "https://labels.example.org/")
    with pytest.raises(AnnotatorError, match="but not LABEL_STUDIO_API_KEY"):
        server.connect(tmp_path)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    found = server.connect(tmp_path)
    assert (found.url, found.token, found.files_root) == ("https://labels.example.org", "secret", None)
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "token", "fault"),
    [
        ("localhost:8080", "abc", "LABEL_STUDIO_URL=localhost:8080 is no address: write it as https://"),
        ("ftp://labels.example.org", "abc", "is no address"),
        ("http://", "abc", "is no address"),
        ("http://localhost:8080", "sec ret", "LABEL_STUDIO_API_KEY is no token"),
        ("http://localhost:8080", "sec\nret", "LABEL_STUDIO_API_KEY is no token"),
    ],
)
def test_an_address_or_a_token_that_cannot_be_one_is_stated_without_showing_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, token: str, fault: str
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    with pytest.raises(AnnotatorError, match=fault) as refusal:
        server.connect(tmp_path)
    assert token not in str(refusal.value)


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text("{")
    with pytest.raises(AnnotatorError, match=r"server\.json: cannot be read"):
        server.connect(tmp_path)


def test_the_program_is_found_by_the_variable_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPIPE_LABELSTUDIO", str(program(tmp_path, "")))
    assert install.find() == tmp_path / "label-studio"
    monkeypatch.setenv("ALPIPE_LABELSTUDIO", str(tmp_path / "missing"))
    with pytest.raises(AnnotatorError, match="ALPIPE_LABELSTUDIO"):
        install.find()


def test_an_installation_that_fails_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found'\nexit 1\n")
    python.chmod(0o755)
    said: list[Progress] = []
    with pytest.raises(AnnotatorError, match=r"installing label-studio==.* failed: ERROR: No matching distribution"):
        install.install(tmp_path, progress=said.append)
    assert said
