"""The step that mines, by itself and in the loop: what it looks at, what it leaves, and that it can be repeated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alpipe.loop import advance, single
from alpipe.project import Project
from alpipe.protocols import no_progress
from alpipe.steps.mining import describe, mine_again, mine_with
from alpipe.steps.reporting import write_report
from alpipe.types import BoxPrediction, Item, NegativeState, Prediction, RegionAnswer, Split
from tests.conftest import MakeProject, Ran


class Dreamer:
    """A model that is sure of an object in the lower right corner of every image."""

    classes = ("0", "4", "7")

    def __init__(self, score: float = 0.9) -> None:
        self.score = score
        self.seen: list[str] = []

    def predict(self, items: Iterable[Item]) -> Iterator[Prediction]:
        for item in items:
            self.seen.append(item.key)
            box = np.array([[item.width - 12, item.height - 12, item.width, item.height]], np.float32)
            score = np.array([self.score], np.float32)
            yield BoxPrediction(item.key, box, score, np.array([[self.score, 0, 0]], np.float32), np.zeros(1, np.int64))


@pytest.fixture
def project(make_project: MakeProject) -> Project:
    """After two rounds, with a model in each of rounds 1 and 2."""
    made = make_project(mining={"exhaustive": True, "patience": 1})
    advance(made, rounds=2)
    return made


def dream(project: Project, monkeypatch: pytest.MonkeyPatch, score: float = 0.9) -> Dreamer:
    dreamer = Dreamer(score)
    monkeypatch.setattr(Project, "model", lambda self, name: dreamer)
    return dreamer


def bank(project: Project) -> list[Any]:
    return project.store.negatives.entries()


def test_only_labelled_images_of_the_pool_are_looked_at(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    dreamer = dream(project, monkeypatch)
    mine_with(project, 2, "any", no_progress)
    assert set(dreamer.seen) == {one.item.key for one in project.store.annotations.examples(Split.POOL)}
    assert {entry.negative.item_key for entry in bank(project)} <= set(dreamer.seen)
    assert bank(project)


def test_mining_again_leaves_the_same_bank_and_a_better_model_empties_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    dream(project, monkeypatch)
    counts = mine_with(project, 1, "any", no_progress)
    once = bank(project)
    assert mine_with(project, 1, "any", no_progress) == counts
    assert bank(project) == once
    later = mine_with(project, 2, "better", no_progress)
    assert (later["mined"], later["evicted"]) == (0, 0)
    assert "nothing new" in describe(later)
    dream(project, monkeypatch, score=0.1)
    last = mine_with(project, 2, "best", no_progress)
    assert (last["evicted"], last["bank"]) == (len(once), 0)
    assert {entry.state for entry in bank(project)} == {NegativeState.EASY}


def test_a_mining_that_is_killed_leaves_the_bank_as_it_was(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    dream(project, monkeypatch)
    mine_with(project, 1, "any", no_progress)
    before = bank(project)

    def cut(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine_with(project, 2, "any", cut)
    assert bank(project) == before


def test_doubtful_ones_wait_for_a_person_and_are_trained_on_once_settled(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(mining={"guard_view": "shrink", "guard_score": 0.5, "questions": 2})
    advance(project, rounds=2)
    dream(project, monkeypatch)
    monkeypatch.setattr("alpipe.mining.guard._true_areas", lambda truths: {"0": (0.0, 1e9)})
    counts = mine_with(project, 2, "any", no_progress)
    asked = project.store.negatives.questions()
    assert counts["questions"] == len(asked) == 2
    assert counts["unasked"] > 0
    assert "wait for a person" in describe(counts)
    assert not {question.item.key for question in asked} & {one.item_key for one in project.store.negatives.all()}
    assert all(Path(question.item.uri).is_file() for question in asked)
    project.store.negatives.settle([RegionAnswer(asked[0].key, False, "labelstudio:1")])
    assert asked[0].item.key in {one.item_key for one in project.store.negatives.all()}
    assert asked[1].item.key not in {one.item_key for one in project.store.negatives.all()}


def test_a_training_after_a_mining_learns_from_the_bank(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial's loop by hand: mine, train anew, repeat; without new mistakes nothing is trained again."""
    with monkeypatch.context() as patch:
        dream(project, patch)
        mine_with(project, 2, "any", no_progress)
    advance(project, rounds=1)
    models = project.store.models.list()
    assert models[-1].description["negatives"] > 0
    assert models[-1].description["bank"]


def test_the_ledger_and_the_report_tell_what_was_mined(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dream(project, monkeypatch)
    mine_with(project, 1, "any", no_progress)
    counts = project.store.rounds.list()[1].counts
    assert {"mined", "evicted", "questions", "bank"} <= set(counts)
    page = write_report(project, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Hardest negatives" in page
    assert "<h3>Round 1</h3>" in page


def test_mining_runs_alone_on_any_model_and_says_what_there_is(project: Project) -> None:
    name = project.store.models.list()[0].name
    assert "in the bank" in mine_again(project, None, name)
    assert mine_again(project, 1, None) == mine_again(project, 1, name)
    assert "in the bank" in single(project, "mine")


def test_the_command_lists_draws_and_refuses(
    project: Project, monkeypatch: pytest.MonkeyPatch, alpipe: Callable[..., Ran], tmp_path: Path
) -> None:
    dream(project, monkeypatch)
    mine_with(project, 1, "any", no_progress)
    root = project.root
    listed = alpipe("-C", root, "pool", "hard-negatives", "--json", "--round", 1)
    rows = json.loads(listed.out)
    assert len(rows) == len(bank(project))
    assert {"key", "round", "class", "score", "iou", "state", "box", "model"} <= set(rows[0])
    sheet = tmp_path / "sheet.png"
    drawn = alpipe("-C", root, "pool", "hard-negatives", "--sheet", sheet, "--class", "0")
    assert f"{len(rows)} of {len(rows)} regions drawn" in drawn.out
    with Image.open(sheet) as image:
        assert image.width > 1000
    table = tmp_path / "table.csv"
    alpipe("-C", root, "pool", "hard-negatives", "--csv", table, "--limit", 1)
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + len(rows)
    assert json.loads(alpipe("-C", root, "pool", "hard-negatives", "--json", "--class", "4").out) == []
    for arguments, fault in (
        (("pool", "hard-negatives", "--class", "cat"), "unknown class 'cat'"),
        (("pool", "hard-negatives", "--state", "odd"), "unknown state 'odd'"),
        (("pool", "hard-negatives", "--sheet", tmp_path), "cannot be written"),
        (("mine", "--model", "none"), "no model 'none'"),
        (("mine", "--round", "7"), "round 7 has no model"),
    ):
        ran = alpipe("-C", root, *arguments)
        assert ran.status == 1
        assert fault in ran.err
        assert "Traceback" not in ran.err


def test_an_image_that_is_gone_leaves_a_grey_square(
    project: Project, monkeypatch: pytest.MonkeyPatch, alpipe: Callable[..., Ran], tmp_path: Path
) -> None:
    dream(project, monkeypatch)
    mine_with(project, 1, "any", no_progress)
    for entry in bank(project):
        item = project.store.items.get(entry.negative.item_key)
        assert item is not None
        item.path.unlink(missing_ok=True)
    ran = alpipe("-C", project.root, "pool", "hard-negatives", "--sheet", tmp_path / "sheet.png")
    assert ran.status == 0


@pytest.mark.slow
def test_a_mining_killed_by_the_system_and_run_again_gives_the_same_bank(project: Project) -> None:
    """Killed at the first sign of life of the mining itself, in a process of its own."""
    name = project.store.models.list()[-1].name
    mine_again(project, 2, name)
    expected = bank(project)
    code = (
        "import os, signal, sys; from pathlib import Path; from alpipe.project import Project;"
        "from alpipe.steps.mining import mine_again\n"
        "def die(now):\n    if now.done: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"mine_again(Project.open(Path(sys.argv[1])), 2, {name!r}, die)"
    )
    ended = subprocess.run([sys.executable, "-c", code, project.root], check=False)
    assert ended.returncode == -9
    assert bank(project) == expected
    mine_again(project, 2, name)
    assert bank(project) == expected
