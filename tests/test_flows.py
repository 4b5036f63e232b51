"""The flows against a real Prefect server: the same steps, seen as flow and task runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import httpx
import pytest

from alpipe.protocols import no_progress
from alpipe.types import Task
from flows import server
from tests.conftest import MakeProject

pytestmark = pytest.mark.prefect

PATIENCE = 120.0


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Server]:
    home = tmp_path_factory.mktemp("prefect")
    running = server.up(home)
    before = dict(os.environ)
    os.environ.update(server.settings(home, int(running.url.rpartition(":")[2])))
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    try:
        yield running
    finally:
        os.environ.clear()
        os.environ.update(before)
        assert server.down(home)
        assert server.status(home) is None


def asked(prefect: server.Server, what: str, body: dict[str, Any] | None = None) -> Any:
    def answered() -> httpx.Response | None:
        answer = httpx.post(f"{prefect.api}/{what}", json=body or {}, timeout=30, trust_env=False)
        return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer  # its database is busy

    answer = until(answered)
    answer.raise_for_status()
    return answer.json()


def until(happened: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (result := happened()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return result


def test_a_round_is_a_flow_run_and_each_step_a_task_run(prefect: server.Server, make_project: MakeProject) -> None:
    from flows.round import observed_round

    project = make_project(Task.CLASSIFY)
    told: list[str] = []
    assert observed_round(project.root, progress=no_progress, tell=told.append) is None
    assert any("accuracy" in line for line in told)
    (run,) = until(lambda: [r for r in asked(prefect, "flow_runs/filter") if r["state_type"] == "COMPLETED"])
    assert run["parameters"] == {"project_dir": str(project.root), "rounds": 1}
    names = {"train of round 0", "push of round 0", "collect of round 0", "train of round 1", "mine of round 1"}
    until(lambda: names <= {task["name"] for task in asked(prefect, "task_runs/filter")})
    assert [a["key"] for a in asked(prefect, "artifacts/filter")] == ["alpipe-test-classify"]


def test_no_token_reaches_prefect(
    prefect: server.Server, make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.round import round_flow

    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "s3cr3t-t0k3n")
    round_flow(str(make_project(Task.CLASSIFY, folder="token").root))
    everything = "".join(
        str(asked(prefect, what))
        for what in ("flow_runs/filter", "task_runs/filter", "artifacts/filter", "logs/filter")
    )
    assert "classify" in everything
    assert "s3cr3t-t0k3n" not in everything


def test_a_stated_failure_fails_the_flow_run_with_its_one_line(
    prefect: server.Server, make_project: MakeProject, tmp_path: Path
) -> None:
    from alpipe.errors import ConfigError
    from flows.round import round_flow

    with pytest.raises(ConfigError, match="alpipe init"):
        round_flow(str(tmp_path / "nowhere"))
    failed = until(lambda: [r for r in asked(prefect, "flow_runs/filter") if r["state_type"] == "FAILED"])
    assert "alpipe init" in failed[0]["state"]["message"]


def test_a_schedule_runs_the_round_and_stops_cleanly(prefect: server.Server, make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, folder="scheduled", name="scheduled")
    command = [sys.executable, "-m", "alpipe.cli.main", "-C", str(project.root), "serve", "--cron", "0 0 1 1 *"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as serving:
        try:
            deployment = until(lambda: [d for d in asked(prefect, "deployments/filter") if d["name"] == "scheduled"])[0]
            assert deployment["schedules"][0]["schedule"]["cron"] == "0 0 1 1 *"
            assert deployment["parameters"]["project_dir"] == str(project.root)
            run = asked(prefect, f"deployments/{deployment['id']}/create_flow_run")
            until(
                lambda: [
                    r
                    for r in asked(prefect, "flow_runs/filter")
                    if r["id"] == run["id"] and r["state_type"] == "COMPLETED"
                ]
            )
            assert project.store.rounds.list()[1].labelled == 4
        finally:
            serving.send_signal(signal.SIGTERM)  # as a service manager does; background shells ignore SIGINT
            try:
                said = serving.communicate(timeout=PATIENCE)[0]
            finally:
                serving.kill()
    assert "Traceback" not in said, said


def test_a_bad_schedule_is_one_line(prefect: server.Server, make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    command = [sys.executable, "-m", "alpipe.cli.main", "-C", str(project.root), "serve", "--cron", "every day"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "every day" in ran.stderr


@pytest.mark.parametrize(("name", "limit"), [("fastapi", (0, 155)), ("sqlalchemy", (2, 1))])
def test_the_bounds_that_keep_prefect_alive_hold(name: str, limit: tuple[int, int]) -> None:
    """With versions at or over the limit Prefect 3.8 breaks. Once it moves on, this says that they can go."""
    assert tuple(map(int, version(name).split(".")[:2])) < limit
    assert any(line.startswith(name) and f"<{'.'.join(map(str, limit))}" in line for line in requires("alpipe") or [])
    assert version("prefect").startswith("3.8."), "try newer versions of fastapi and sqlalchemy, then lift the bounds"
