"""Push and pull through a proxy at its worst, in processes that are killed: what exchange_faults and the tests run."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from alpipe import config as configuration
from alpipe.annotators.labelstudio import LabelStudioAnnotator
from alpipe.annotators.studio import client, duplicates, server
from alpipe.annotators.studio import project as projects
from alpipe.annotators.studio.client import Row, Studio
from alpipe.annotators.studio.project import OpenProject
from alpipe.errors import AlpipeError
from alpipe.pool.store import NewItem
from alpipe.project import Project
from alpipe.protocols import no_progress
from alpipe.steps import exchange
from alpipe.types import AnswerState, Boxes, LabelRequest, Suggestion
from tests.faulty_proxy import Fault, FaultyProxy, Request, faulty_proxy

CLASSES = ("cell", "dot <&>")
SIDE = 32
DELETED = 5
"""Answers that people delete in each scenario."""

STATED = 3
"""Exit status of a process that ended with one clear line."""

PROCESSES = multiprocessing.get_context("forkserver")  # forks quickly, from a process without threads


@dataclass
class Tally:
    """What went wrong over all scenarios (all zero, it is hoped), and what happened."""

    points: int = 0
    twice: int = 0
    lost: int = 0
    differing: int = 0
    crashes: int = 0
    happened: Counter[str] = field(default_factory=Counter)

    def faults(self) -> int:
        return self.twice + self.lost + self.differing + self.crashes


def run(
    running: server.Server, folder: Path, *, points: int, items: int, seed: int, ends: float | None = None
) -> Tally:
    """Scenarios of ten points until there are enough, or the monotonic clock has passed ``ends``."""
    PROCESSES.set_forkserver_preload([__name__])
    rng, tally = random.Random(seed), Tally()  # noqa: S311
    images = make_images(folder / "images", items)
    host, port = httpx.URL(running.url).host, httpx.URL(running.url).port or 80
    with faulty_proxy(host, port) as proxy:
        number = 0
        while tally.points < points and (ends is None or time.monotonic() < ends):
            started = time.monotonic()
            before = tally.faults()
            Scenario(running, proxy, folder / f"scenario{number}", images, rng, tally).play(points - tally.points)
            number += 1
            seconds = time.monotonic() - started
            print(
                f"scenario {number:3}: {tally.points:4} points, {tally.faults() - before} faults, {seconds:.0f} s",
                flush=True,
            )
    return tally


# ── what the processes do ───────────────────────────────────────────────────────────────────────────────────────────


def work(step: str, root: str, url: str, token: str, patience: float | None) -> None:
    """One step in a process of its own; ``patience`` in seconds makes it give up waiting early."""
    os.environ.update(LABEL_STUDIO_URL=url, LABEL_STUDIO_API_KEY=token)
    client.PAUSES = (0.05, 0.1, 0.2)
    if patience is not None:
        client.TIMEOUT = patience
        client._patience = lambda _: patience
    try:
        with Project.open(Path(root)) as project:
            if step == "pull":
                exchange.pull(project, project.annotator(), no_progress)
            else:
                requests = requests_of(project, step)
                exchange.note(project, requests, project.annotator().push(requests))
    except AlpipeError:
        sys.exit(STATED)


def requests_of(project: Project, model: str) -> list[LabelRequest]:
    """The same questions each time, with five boxes each by the model."""
    shift = float(model.removeprefix("m"))
    xyxy = np.asarray([[1 + 5 * at + shift / 10, 2, 5 + 5 * at, 20] for at in range(5)], np.float32)
    suggestion = Suggestion(Boxes(xyxy, (*CLASSES, *CLASSES, CLASSES[0])), (0.9,) * 5, model)
    return [
        LabelRequest(item, int(shift), f"why <{item.key}>", at / 1000, suggestion)
        for at, item in enumerate(project.store.items.list())
        if at % 10  # every tenth shows nothing
    ] + [
        LabelRequest(item, int(shift), "blind", at / 1000, blind=True)
        for at, item in enumerate(project.store.items.list())
        if not at % 10
    ]


# ── a scenario ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Scenario:
    """A project of its own on the server, with a store of ours and one of somebody else's."""

    def __init__(
        self,
        running: server.Server,
        proxy: FaultyProxy,
        folder: Path,
        images: list[Path],
        rng: random.Random,
        tally: Tally,
    ) -> None:
        self.running, self.proxy, self.rng, self.tally = running, proxy, rng, tally
        self.images = images
        self.usual = 2.0
        self.root = make_project(folder / "ours", running, images, {})
        with Project.open(self.root) as project:
            self.number = self._open(project).id
        self.other = make_project(folder / "theirs", running, images, {"project_id": self.number})

    def play(self, points: int) -> None:
        """At most ten points, and what came of them."""
        plan = [("m1", 5), ("pull", 2), ("m2", 2), ("pull", 1)]
        for at, (step, count) in enumerate(plan):
            if at == 1:
                self._people_answer()
            if at == 3:
                self._people_change_their_minds()
            for _ in range(min(count, points)):
                self._fault(step)
                points -= 1
            self._cleanly(step)
        self._cleanly("pull")
        self._compare()

    def _fault(self, step: str) -> None:
        self.tally.points += 1
        kind = self.rng.choice(["kill", "kill", "kill", "two at once", *list(Fault)[1:]])
        self.tally.happened[f"{'pull' if step == 'pull' else 'push'}: {kind}"] += 1
        self.proxy.choose = lambda _: Fault.NONE
        if kind == "kill":
            process = self._start(step, self.root)
            process.join(self.rng.uniform(0, self.usual * 1.1))
            process.kill()
            self._end(process)
        elif kind == "two at once":
            pair = [self._start(step, self.root), self._start(step, self.root if step == "pull" else self.other)]
            if self.rng.random() < 0.5:
                pair[0].join(self.rng.uniform(0, self.usual))
                pair[0].kill()
            for process in pair:
                self._end(process)
        else:
            self.proxy.choose = once(Fault(kind), self.rng.randrange(8))
            self._end(self._start(step, self.root, patience=3.0 if kind is Fault.SILENT else None))

    def _start(self, step: str, root: Path, patience: float | None = None) -> Any:
        process = PROCESSES.Process(target=work, args=(step, str(root), self.proxy.url, self.running.token, patience))
        process.start()
        return process

    def _end(self, process: Any) -> None:
        process.join(240)
        if process.exitcode not in (0, STATED, -9):
            self.tally.crashes += 1
        self.tally.happened[f"ended with {process.exitcode}"] += 1

    def _cleanly(self, step: str) -> None:
        """Once more without a fault, after the server has come to rest."""
        self.proxy.choose = lambda _: Fault.NONE
        self.proxy.wait_until_idle(timeout=240)
        started = time.monotonic()
        process = self._start(step, self.root)
        process.join(240)
        self.usual = 0.5 * self.usual + 0.5 * (time.monotonic() - started)
        if process.exitcode != 0:
            self.tally.crashes += 1

    # ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────

    def _people_answer(self) -> None:
        """All but every tenth pre-annotated task is accepted as it is."""
        with self._api() as api:
            tasks = [rows[0]["id"] for rows in self._census().values() if versions(rows)]
            self._act(api, "predictions_to_annotations", [task for at, task in enumerate(tasks) if at % 10])

    def _people_change_their_minds(self) -> None:
        with self._api() as api, closing(self._studio()) as studio:
            rows = [row for row in studio.tasks(self.number, include=client.ANSWERS) if row["annotations"]]
            self.rng.shuffle(rows)
            for row in rows[:DELETED]:
                api.delete(f"/api/annotations/{row['annotations'][0]['id']}/").raise_for_status()
            for row in rows[5:10]:
                url = f"/api/annotations/{row['annotations'][0]['id']}/"
                api.patch(url, json={"result": row["annotations"][0]["result"][:2]}).raise_for_status()
            for row in rows[10:13]:
                api.patch(f"/api/annotations/{row['annotations'][0]['id']}/", json={"result": []}).raise_for_status()
            self._act(api, "delete_tasks", [row["id"] for row in rows[13:20]])

    def _act(self, api: httpx.Client, action: str, tasks: list[int]) -> None:
        body = {"selectedItems": {"all": False, "included": tasks}, "ordering": []}
        api.post("/api/dm/actions/", params={"id": action, "project": self.number}, json=body).raise_for_status()

    # ── what came of it ─────────────────────────────────────────────────────────────────────────────────────────────

    def _compare(self) -> None:
        """Counts what is there twice, lost or different."""
        there = self._census()
        with Project.open(self.root) as project, closing(self._studio()) as studio:
            items = {item.key: item for item in project.store.items.list()}
            asked = project.store.tasks.asked("labelstudio")
            said = studio.tasks(self.number, include=client.ANSWERS)
            self.tally.twice += sum(len(rows) - 1 for rows in there.values())
            self.tally.twice += sum(
                n - 1 for rows in there.values() for row in rows for n in Counter(versions([row])).values()
            )
            self.tally.lost += len(set(asked) ^ set(there))  # deleted ones are in neither
            shown = {request.item.key for request in requests_of(project, "m1") if request.suggestion}
            self.tally.lost += sum(not versions(rows) for key, rows in there.items() if key in shown)
            self.tally.differing += sum(bool(versions(rows)) for key, rows in there.items() if key not in shown)
            answers = {task["data"]["alpipe_key"]: task["annotations"] for task in said if task["annotations"]}
            older = [key for key in shown & set(there) - set(answers) if "m2" not in versions(there[key])]
            self.tally.lost += max(0, len(older) - DELETED)  # answered when m2 came, and opened again since
            latest = project.store.annotations.latest()
            self.tally.lost += len(set(answers) ^ set(latest))
            for key in set(answers) & set(latest):
                boxes = latest[key].labels
                count = len(boxes.names) if isinstance(boxes, Boxes) else -1
                empty = latest[key].state is AnswerState.EMPTY
                same = count == len(answers[key][0]["result"]) and empty == (count == 0)
                self.tally.differing += not same or latest[key].model != "m1"
            states = Counter(str(item.state) for item in items.values())
            self.tally.differing += states["pushed"] != len(set(there) - set(answers))
            self.tally.differing += states["unlabelled"] != len(set(items) - set(there))

    def _census(self) -> dict[str, list[Row]]:
        with closing(self._studio()) as studio:
            return duplicates.by_key(studio.tasks(self.number, include=client.CENSUS))

    def _studio(self) -> Studio:
        return Studio(server.Connection(self.running.url, self.running.token, None))

    def _api(self) -> httpx.Client:
        headers = {"Authorization": f"Token {self.running.token}"}
        return httpx.Client(base_url=self.running.url, headers=headers, trust_env=False, timeout=120)

    def _open(self, project: Project) -> OpenProject:
        annotator = project.annotator()
        assert isinstance(annotator, LabelStudioAnnotator)
        with closing(self._studio()) as studio:
            return projects.find_or_make(studio, annotator.choice, annotator.context)


def versions(rows: list[Row]) -> list[str]:
    return [version for row in rows for version in duplicates.versions(row)]


def once(fault: Fault, at: int) -> Callable[[Request], Fault]:
    """The fault for one request alone: the first import where there is one, or the request of this number."""
    seen: list[Request] = []

    def choose(request: Request) -> Fault:
        imports = [earlier for earlier in seen if "/import" in earlier.path]
        seen.append(request)
        if at < 4:
            return fault if "/import" in request.path and not imports else Fault.NONE
        return fault if len(seen) == at else Fault.NONE

    return choose


def make_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        paths.append(folder / f"{number:04d} <b>.png")
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(paths[-1])
    return paths


def make_project(root: Path, running: server.Server, images: list[Path], more: Row) -> Path:
    """A project with the images in its pool."""
    annotator = {
        "name": "labelstudio",
        "files_root": str(running.files_root),
        "batch": max(len(images) // 3, 1),
        **more,
    }
    values = {"name": "faults", "task": "detect", "labels": list(CLASSES), "annotator": annotator}
    with Project.create(root, configuration.parse(values, "benchmark")) as project:
        project.store.items.add([NewItem(f"k{at:05d}", str(path), SIDE, SIDE) for at, path in enumerate(images)])
    return root
