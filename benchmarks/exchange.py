"""How quickly questions go to Label Studio and changes come back.

    python -m benchmarks.exchange
    python -m benchmarks.exchange --quick            200 tasks, to see that it works

Push: 2,000 tasks with five pre-annotated boxes each, against the same payload sent by one bare call of the SDK, in
turns, each into a project of its own. Ours includes looking for what is there, checking every region before anything
leaves, making the tab, the model version that is shown and the count afterwards; the images lie in the served folder
already, as they do after the first push (copying 2,000 files is another matter, and its time stands beside). Pull: all
answers are pulled, then ten of 2,000 tasks change. One round trip is the median of reading who we are. Prints a table,
and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from PIL import Image

from alpipe import config as configuration
from alpipe.annotators.labelstudio import LabelStudioAnnotator
from alpipe.annotators.studio import images, push, server
from alpipe.annotators.studio import project as projects
from alpipe.annotators.studio.client import Studio
from alpipe.annotators.studio.pull import OVERLAP, TIME
from alpipe.pool.store import NewItem
from alpipe.project import Project
from alpipe.protocols import no_progress
from alpipe.steps import exchange
from alpipe.types import Boxes, Item, LabelRequest, Suggestion

GOALS = {"push": 0.85, "pull": 0.2, "times": 10.0}
CHANGED = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="200 tasks, one turn")
    given = parser.parse_args()
    count, turns = (200, 1) if given.quick else (given.tasks, given.turns)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "labelstudio"
        running = server.up(home, timeout=400)
        try:
            measured = measure(running, Path(temporary), count, turns)
        finally:
            server.down(home)
    result = {
        "name": f"exchange {count} tasks of 5 boxes",
        "value": measured["push"],
        "goal": GOALS["push"],
        "metric": "rate of a push / of one bare SDK import, median of turns",
        "goals": {"pull_seconds_beyond_a_round_trip": GOALS["pull"], "times_quicker_than_a_full_pull": GOALS["times"]},
        **measured,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result))


def measure(running: server.Server, folder: Path, count: int, turns: int) -> dict[str, float]:
    """The figures, by name."""
    paths = make_images(folder / "images", count)
    os.environ.update(LABEL_STUDIO_URL=running.url, LABEL_STUDIO_API_KEY=running.token)
    ratios, ours, bare = [], [], []
    copying = 0.0
    for turn in range(turns):
        with make_project(folder / f"project{turn}", running, paths) as project:
            annotator = project.annotator()
            assert isinstance(annotator, LabelStudioAnnotator)
            requests = requests_of(project.store.items.list())
            if turn == 0:
                root = running.files_root / projects.slug(project.config.name)
                copying = seconds(lambda: [images.place(r.item, root) for r in requests])  # noqa: B023
            push_all = lambda: exchange.note(project, requests, annotator.push(requests))  # noqa: B023, E731
            if turn % 2:  # the server gets slower as it fills, so each goes first in turn
                ours.append(seconds(push_all))
            bare.append(bare_import(running, annotator, requests))
            if not turn % 2:
                ours.append(seconds(push_all))
            ratios.append(bare[-1] / ours[-1])
            print(
                f"push {ours[-1]:6.2f} s, one bare import {bare[-1]:6.2f} s: {ratios[-1]:.2f} of its rate", flush=True
            )
            if turn == turns - 1:
                return {
                    "push": round(median(ratios), 3),
                    "push_seconds": round(median(ours), 2),
                    "bare_seconds": round(median(bare), 2),
                    "copying_the_images_seconds": round(copying, 2),
                    **pulls(running, project, annotator, turns),
                }
    raise AssertionError("no turn")


def pulls(running: server.Server, project: Project, annotator: LabelStudioAnnotator, turns: int) -> dict[str, float]:
    """A full pull, and one after ten tasks changed."""
    headers = {"Authorization": f"Token {running.token}"}
    number = annotator.choice.known()["project"]
    with httpx.Client(base_url=running.url, headers=headers, trust_env=False, timeout=300) as api:
        body = {"selectedItems": {"all": True, "excluded": []}, "ordering": []}
        action = {"id": "predictions_to_annotations", "project": number}
        api.post("/api/dm/actions/", params=action, json=body).raise_for_status()
        full = []
        for _ in range(turns):
            project.store.meta.set("watermark:labelstudio", "")
            full.append(seconds(lambda: exchange.pull(project, annotator, no_progress)))
        mark = later(project.store.meta.get("watermark:labelstudio") or "")
        listed = api.get("/api/tasks/", params={"project": number, "page_size": CHANGED, "fields": "all"}).json()
        few, trips = [], []
        for turn in range(turns * 3):
            project.store.meta.set("watermark:labelstudio", mark)  # as if a minute had passed since the full pull
            if turn == 0:
                for task in listed["tasks"]:
                    url = f"/api/annotations/{task['annotations'][0]['id']}/"
                    api.patch(url, json={"result": task["annotations"][0]["result"][:3]}).raise_for_status()
            few.append(seconds(lambda: exchange.pull(project, annotator, no_progress)))
            trips.append(seconds(lambda: api.get("/api/current-user/whoami")))
    assert sum(len(a.labels.names) == 3 for a in project.store.annotations.latest().values() if a.labels) == CHANGED  # type: ignore[union-attr]
    trip = median(trips)
    print(f"pull of all {median(full):.2f} s, of {CHANGED} changed {median(few):.3f} s; a round trip {trip:.3f} s")
    return {
        "full_pull_seconds": round(median(full), 2),
        "changed_pull_seconds": round(median(few), 3),
        "round_trip_seconds": round(trip, 3),
        "pull_seconds_beyond_a_round_trip": round(median(few) - trip, 3),
        "times_quicker_than_a_full_pull": round(median(full) / median(few), 1),
    }


def later(mark: str) -> str:
    """The watermark moved on by the overlap and a bit, so that only what changes from now on is looked at again."""
    number, _, moment = mark.partition("@")
    return f"{number}@{(datetime.fromisoformat(moment) + OVERLAP + timedelta(milliseconds=1)).strftime(TIME)}"


def bare_import(running: server.Server, annotator: LabelStudioAnnotator, requests: Sequence[LabelRequest]) -> float:
    """Seconds of one call of the SDK with the payload that we send, into a project of its own."""
    from label_studio_sdk import LabelStudio

    with closing(Studio(server.Connection(running.url, running.token, running.files_root))) as studio:
        project = projects.find_or_make(studio, annotator.choice, annotator.context)
        proposed = push.validated(requests, project)
        urls = annotator._image_urls(studio, project, [request.item for request in requests])
    payload = [
        {
            "data": push.task_data(request, proposed[request.item.key], project, url),
            "predictions": [proposed[request.item.key]],
        }
        for request, url in zip(requests, urls, strict=True)
    ]
    sdk = LabelStudio(base_url=running.url, api_key=running.token, timeout=600)
    theirs = sdk.projects.create(title="bare", label_config=project.label_config)
    options = {"max_retries": 0, "timeout_in_seconds": 600}
    return seconds(
        lambda: sdk.projects.import_tasks(id=theirs.id, request=payload, return_task_ids=True, request_options=options)
    )


def requests_of(items: Sequence[Item]) -> list[LabelRequest]:
    xyxy = np.asarray([[10 + 20 * at, 10, 25 + 20 * at, 40] for at in range(5)], np.float32)
    suggestion = Suggestion(Boxes(xyxy, ("a", "b", "a", "b", "a")), (0.9,) * 5, "m1")
    return [LabelRequest(item, 1, "entropy 0.5", at / len(items), suggestion) for at, item in enumerate(items)]


def make_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.png" for number in range(count)]
    for path in paths:
        Image.new("RGB", (128, 64)).save(path)
    return paths


def make_project(root: Path, running: server.Server, paths: Sequence[Path]) -> Project:
    annotator = {"name": "labelstudio", "files_root": str(running.files_root), "batch": 500}
    values = {"name": "exchange", "task": "detect", "labels": ["a", "b"], "annotator": annotator}
    project = Project.create(root, configuration.parse(values, "benchmark"))
    project.store.items.add([NewItem(f"k{at:05d}", str(path), 128, 64) for at, path in enumerate(paths)])
    return project


def seconds(call: Callable[[], object]) -> float:
    """How long the call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
