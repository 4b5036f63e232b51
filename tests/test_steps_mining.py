"""The step that mines, by itself and in the loop: what it looks at, what it leaves, and that it can be repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from PIL import Image

from alpipe.errors import BusyError, DataError
from alpipe.loop import advance, single
from alpipe.project import Project
from alpipe.protocols import no_progress
from alpipe.steps.bank import negative_galleries
from alpipe.steps.mining import describe, mine_again, mine_with
from alpipe.steps.reporting import write_report
from alpipe.types import BoxPrediction, Item, Negative, NegativeState, Prediction, RegionAnswer, Split
from tests.conftest import MakeProject, Ran


class Dreamer:
    """A model that is sure of an object in the upper left corner of every image."""

    classes = ("0", "4", "7")

    def __init__(self, score: float = 0.9) -> None:
        self.score = score
        self.seen: list[str] = []

    def predict(self, items: Iterable[Item]) -> Iterator[Prediction]:
        for item in items:
            self.seen.append(item.key)
            box = np.array([[0, 0, 12, 12]], np.float32)
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


class Cut:
    """A kind of statement that tells when one is made."""

    def __init__(self, made: Callable[..., Any], tell: Callable[[], None]) -> None:
        self.made, self.tell = made, tell

    def __call__(self, *given: Any) -> Any:
        self.tell()
        return self.made(*given)


@pytest.fixture
def doubting(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> Project:
    """After two rounds, with a model whose every mistake may be an object; two questions a round."""
    made = make_project(mining={"guard_view": "shrink", "guard_score": 0.5, "questions": 2})
    advance(made, rounds=2)
    dream(made, monkeypatch)
    monkeypatch.setattr("alpipe.mining.guard._true_areas", lambda truths: {"0": (0.0, 1e9)})
    return made


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


def test_doubtful_ones_wait_for_a_person_and_are_trained_on_once_settled(doubting: Project) -> None:
    counts = mine_with(doubting, 2, "any", no_progress)
    asked = doubting.store.negatives.questions()
    assert counts["questions"] == len(asked) == 2
    assert counts["unasked"] > 0
    assert "wait for a person" in describe(counts)
    assert not {question.item.key for question in asked} & {one.item_key for one in doubting.store.negatives.all()}
    assert all(Path(question.item.uri).is_file() for question in asked)
    doubting.store.negatives.settle([RegionAnswer(asked[0].key, False, "labelstudio:1")])
    assert asked[0].item.key in {one.item_key for one in doubting.store.negatives.all()}
    assert asked[1].item.key not in {one.item_key for one in doubting.store.negatives.all()}


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
    counts = mine_with(project, 1, "any", no_progress)
    assert counts["mined"] > 0
    ledger = project.store.rounds.list()[1].counts
    assert counts.items() <= ledger.items()
    assert {*ledger} - {*counts}, "what other steps counted stays"
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


def test_a_mining_that_fails_while_the_bank_is_written_leaves_it_as_it_was(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut between any two statements of the transaction, and run again."""
    dream(project, monkeypatch)
    mine_with(project, 1, "any", no_progress)
    before = bank(project)
    dream(project, monkeypatch, score=0.1)
    statements = 0
    with monkeypatch.context() as patch:
        cut_at = 1
        while True:
            statements = 0

            def cut(*_: object) -> None:
                nonlocal statements
                statements += 1
                if statements == cut_at:  # noqa: B023
                    raise KeyboardInterrupt

            for name in ("delete", "update", "insert"):
                patch.setattr(f"alpipe.pool.bank.{name}", Cut(getattr(sqlalchemy, name), cut))
            try:
                mine_with(project, 2, "better", no_progress)
            except KeyboardInterrupt:
                assert bank(project) == before
                cut_at += 1
            else:
                break
    assert cut_at > 4
    after = bank(project)
    assert {entry.state for entry in after} == {NegativeState.EASY}
    mine_with(project, 2, "better", no_progress)
    assert bank(project) == after


def test_a_round_before_the_last_one_mined_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later bank was made of what there was before; the model may be any."""
    dream(project, monkeypatch)
    mine_with(project, 1, "any", no_progress)
    mine_with(project, 2, "any", no_progress)
    before = bank(project)
    with pytest.raises(DataError, match=r"round 1 cannot be mined again: round 2 was mined since.*--round 2"):
        mine_with(project, 1, "any", no_progress)
    assert bank(project) == before
    first = project.store.models.list()[0]
    assert first.round == 1
    assert "in the bank" in mine_again(project, None, first.name)


def test_one_mining_runs_at_a_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    dream(project, monkeypatch)

    def another(_: object) -> None:
        mine_with(project, 2, "other", no_progress)

    with pytest.raises(BusyError, match=f"another mining of this project runs \\(process {os.getpid()}\\)"):
        mine_with(project, 2, "any", another)
    assert bank(project) == []


def test_what_a_person_is_being_asked_stays_when_another_model_mines(
    doubting: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine_with(doubting, 2, "any", no_progress)
    (asked, other) = doubting.store.negatives.questions()
    doubting.store.questions.asked([(asked.key, "7")], 2)
    dream(doubting, monkeypatch, score=0.1)
    mine_with(doubting, 2, "another", no_progress)
    assert {one.key for one in doubting.store.negatives.questions()} == {asked.key}
    settled = doubting.store.negatives.settle(
        [RegionAnswer(key, False, "labelstudio:1") for key in (asked.key, other.key)]
    )
    assert (settled.taken, settled.unknown) == (1, (other.key,))


def test_a_mining_whose_bank_no_training_will_use_says_so(project: Project) -> None:
    assert "trainings leave the bank out" not in mine_again(project, None, project.store.models.list()[-1].name)
    project.config = project.config.model_copy(update={"mining": False})
    assert "trainings leave the bank out" in mine_again(project, None, project.store.models.list()[-1].name)


@pytest.mark.parametrize(("asked", "shown"), [(0, [6, 5, 4, 1]), (30, [6, 5, 1])])
def test_the_report_shows_the_newest_rounds_and_the_first_beside_what_is_asked(
    make_project: MakeProject, asked: int, shown: list[int]
) -> None:
    project = make_project()
    [item, *_] = project.store.items.list(split=Split.POOL)
    for round_ in range(1, 7):
        found = [Negative(item.key, (at, round_ * 9.0, at + 8.0, round_ * 9.0 + 8), "0", 0.9, 0.0) for at in range(40)]
        questions = dict.fromkeys(found[:asked], "why") if round_ == 6 else {}
        project.store.negatives.replace(round_, "m", found[30:], questions=questions)
    galleries = negative_galleries(project)
    titles = [gallery.title for gallery in galleries]
    assert titles[bool(asked) :] == [f"Round {number}" for number in shown]
    assert {len(gallery.pictures) for gallery in galleries} == {6}
    assert [gallery.total for gallery in galleries[:1]] == [asked or 10]
