"""What all tests share: small digit projects, and the command line as a function."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

from alpipe import config as configuration
from alpipe.cli.main import main
from alpipe.datasets import digits
from alpipe.pool import ingest
from alpipe.project import Project
from alpipe.steps.importing import annotation_of
from alpipe.types import Split, Task
from tests.studio_server import api, label_studio, studio_server  # noqa: F401  # fixtures, for every test

hypothesis.settings.register_profile("here", deadline=None)  # no test depends on how fast the machine is
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)  # the same examples on every run
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

TINY = {
    Task.CLASSIFY: {"name": "cnn", "steps": 4, "image_size": 48},
    Task.DETECT: {"name": "detector", "steps": 4, "image_size": 64, "width": 16},
    Task.SEGMENT: {"name": "unetpp", "steps": 4, "image_size": 64},
}
"""Learners that learn next to nothing, in a moment."""


class Ran(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def alpipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["alpipe", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return run


MakeProject = Callable[..., Project]


@pytest.fixture
def make_project(tmp_path: Path) -> Iterator[MakeProject]:
    """Makes small projects with digit images, a labelled hold-out and the truth kept aside."""
    made: list[Project] = []

    def make(task: Task = Task.DETECT, images: int = 24, folder: str = "project", **values: Any) -> Project:
        settings = {
            "name": f"test {task}",
            "task": str(task),
            "labels": list(digits.CLASSES[task]),
            "learner": TINY[task],
            "annotator": "oracle",
            "batch": 4,
            "holdout": {"labels": 0},
            **values,
        }
        project = Project.create(tmp_path / folder, configuration.parse(settings, "test"))
        pictures = digits.make(tmp_path / f"{folder}-images", task=task, count=images, size=64)
        for holdout in (False, True):
            some = [picture for picture in pictures if picture.holdout is holdout]
            items = ingest.lookup(project.store, [picture.path for picture in some], holdout=holdout)
            for picture in some:
                item = items[picture.path]
                labels = digits.labels_for(picture, task)
                if holdout:
                    project.store.annotations.upsert([annotation_of(item, labels, "import:test")])
                else:
                    project.store.truth.put(item.key, labels)
        assert project.store.items.counts(Split.HOLDOUT)
        made.append(project)
        return project

    yield make
    for project in made:
        project.close()
