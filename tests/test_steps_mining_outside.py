"""Mining on a labelled set outside the pool: what is looked at, what is left out, and that nothing is kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alpipe import images
from alpipe.datasets import digits
from alpipe.errors import DataError
from alpipe.formats import folders, voc
from alpipe.pool.ingest import content_key
from alpipe.project import Project
from alpipe.steps.mining_outside import Outside, describe, mine_outside
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    Item,
    NegativeState,
    Prediction,
    Split,
    Task,
    is_empty,
)
from tests.conftest import MakeProject, Ran

NAMES = "r001-older", "r002-newer"


class Dreamer:
    """A model that is sure of an object in the upper left corner of every image."""

    def __init__(self, score: float = 0.9) -> None:
        self.score = score
        self.seen: list[str] = []

    def predict(self, items: Iterable[Item]) -> Iterator[Prediction]:
        for item in items:
            self.seen.append(item.key)
            box = np.array([[0, 0, 12, 12]], np.float32)
            score = np.array([self.score], np.float32)
            yield BoxPrediction(item.key, box, score, np.array([[self.score, 0, 0]], np.float32), np.zeros(1, np.int64))


class Same:
    """A model that takes every image for one class."""

    def predict(self, items: Iterable[Item]) -> Iterator[Prediction]:
        for item in items:
            yield ClassPrediction(item.key, np.array([0.8, 0.1, 0.1], np.float32))


@pytest.fixture
def made(make_project: MakeProject) -> Callable[..., Project]:
    """Makes a project with two models of which only the names are there."""

    def make(task: Task = Task.DETECT, **mining: Any) -> Project:
        project = make_project(task, mining=mining or {"exhaustive": True})
        for round_, name in enumerate(NAMES, 1):
            facts = {"folder": "", "learner": "detector", "sha256": "", "data_hash": "", "description": {}}
            project.store.models.put(name=name, round=round_, **facts)
        return project

    return make


@pytest.fixture
def dream(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Puts a model in the place of those that are not there."""

    def put(model: Any) -> Any:
        monkeypatch.setattr(Project, "model", lambda self, name: model)
        return model

    return put


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A VOC set of ten images, of which the fifth and tenth are in the hold-out of the projects that tests make."""
    root = tmp_path / "set"
    examples = pictures(tmp_path / "others")
    voc.write(examples, root, Task.DETECT, digits.CLASSES[Task.DETECT])
    (root / "ImageSets" / "Main" / "two.txt").write_text("".join(f"{stem(e)}\n" for e in examples[:2]))
    return root


def pictures(folder: Path, task: Task = Task.DETECT) -> list[Example]:
    examples = []
    for one in digits.make(folder, task=task, count=10, size=64):
        facts = images.inspect(one.path)
        item = Item(content_key(one.path), str(one.path), facts.width, facts.height)
        examples.append(Example(item, digits.labels_for(one, task)))
    return examples


def stem(example: Example) -> str:
    return example.item.path.stem


def state_of(project: Project) -> Mapping[str, Any]:
    return {
        "items": [item.key for item in project.store.items.list()],
        "bank": project.store.negatives.entries(),
        "answers": len(project.store.annotations.latest()),
    }


def test_every_labelled_image_of_the_set_is_looked_at_but_those_of_the_hold_out(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any]
) -> None:
    project, model = made(), dream(Dreamer())
    found = mine_outside(project, "voc", outside)
    held_out = {item.key for item in project.store.items.list(split=Split.HOLDOUT)}
    in_set = {content_key(path) for path in (outside / "JPEGImages").iterdir()}
    assert found.holdout == len(in_set & held_out) == 2
    assert set(model.seen) == set(found.items) == in_set - held_out
    assert {entry.negative.item_key for entry in found.entries} <= set(found.items)
    assert found.entries
    assert "2 images of the hold-out" in describe(found, outside)


def test_neither_the_pool_nor_its_bank_is_changed(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any]
) -> None:
    project = made()
    dream(Dreamer())
    before = state_of(project)
    found = mine_outside(project, "voc", outside)
    assert state_of(project) == before
    assert "nothing was put into the bank" in describe(found, outside)


def test_what_true_boxes_of_the_set_explain_is_no_hard_negative(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any], tmp_path: Path
) -> None:
    """The same images once with their labels, and once with the box that the model sees added to them."""
    project, examples = made(), pictures(tmp_path / "again")
    dream(Dreamer())
    corner = [np.array([[0, 0, 12, 12]], np.float32)] * len(examples)
    labelled = [
        Example(e.item, Boxes(np.concatenate([e.labels.xyxy, box]), (*e.labels.names, "7")))
        for e, box in zip(examples, corner, strict=True)
        if isinstance(e.labels, Boxes)
    ]
    voc.write(labelled, tmp_path / "complete", Task.DETECT, project.classes)
    assert mine_outside(project, "voc", outside).entries
    assert not mine_outside(project, "voc", tmp_path / "complete").entries


def test_the_newest_model_mines_unless_another_is_named(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any]
) -> None:
    project = made()
    dream(Dreamer())
    newest, named = (mine_outside(project, "voc", outside, subset="two", model=name) for name in (None, NAMES[0]))
    assert newest.model == NAMES[1]
    assert {(entry.model, entry.round) for entry in newest.entries} == {(NAMES[1], 2)}
    assert {(entry.model, entry.round) for entry in named.entries} == {(NAMES[0], 1)}
    assert len(newest.items) == 2


def test_the_projects_options_of_mining_hold(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any]
) -> None:
    dream(Dreamer())
    assert len(mine_outside(made(exhaustive=True, per_class=3), "voc", outside).entries) == 3


def test_a_faint_find_is_none(made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any]) -> None:
    dream(Dreamer(score=0.2))
    assert not mine_outside(made(), "voc", outside).entries


def test_the_guard_marks_what_may_be_an_object(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reviewed-empty image raises no question, all others do: seen again in the smaller view, and of a fit size."""
    monkeypatch.setattr("alpipe.mining.guard._true_areas", lambda truths: {"0": (0.0, 1e9)})
    project = made(guard_view="shrink", guard_score=0.5, questions=1)
    dream(Dreamer())
    found = mine_outside(project, "voc", outside)
    asked = [entry for entry in found.entries if entry.state is NegativeState.QUESTION]
    assert len(asked) > 1, "all of them: nobody is asked here"
    assert all(entry.reason for entry in asked)
    assert f"{len(asked)} more may be objects" in describe(found, outside)
    empty = {example.item.key for example in pictures(outside.parent / "others") if is_empty(example.labels)}
    hard = {entry.negative.item_key for entry in found.entries if entry.state is NegativeState.HARD}
    assert hard == empty & set(found.items)


def test_images_without_labels_and_faults_are_counted(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any]
) -> None:
    project, model = made(), dream(Dreamer())
    Image.fromarray(np.full((70, 70, 3), 9, np.uint8)).save(outside / "JPEGImages" / "nobody_saw_it.png")
    one = next(path for path in sorted((outside / "Annotations").iterdir()) if "<object>" in path.read_text())
    one.write_text(one.read_text().replace("<name>", "<name>odd "))
    found = mine_outside(project, "voc", outside)
    assert found.unlabelled == 2, "one without XML, and one of whose labels none is known"
    assert any("unknown label 'odd" in refusal.reason for refusal in found.refused)
    assert content_key(outside / "JPEGImages" / "nobody_saw_it.png") not in model.seen
    assert "2 images without labels" in describe(found, outside)
    assert not mine_outside(project, "voc", outside, ignore_unknown=True).refused


def test_classes_of_whole_images_are_mined_too(
    made: Callable[..., Project], tmp_path: Path, dream: Callable[[Any], Any]
) -> None:
    project, examples = made(Task.CLASSIFY), pictures(tmp_path / "others", Task.CLASSIFY)
    folders.write(examples, tmp_path / "sorted", Task.CLASSIFY, project.classes)
    dream(Same())
    found = mine_outside(project, "folders", tmp_path / "sorted")
    of_others = {e.item.key for e in examples if getattr(e.labels, "name", "") != project.classes[0]}
    assert {entry.negative.item_key for entry in found.entries} == of_others & set(found.items)


def test_a_set_of_which_nothing_is_left_is_stated(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any], make_project: MakeProject
) -> None:
    project = made()
    dream(Dreamer())
    held_out = {item.key for item in project.store.items.list(split=Split.HOLDOUT)}
    stems = [path.stem for path in (outside / "JPEGImages").iterdir() if content_key(path) in held_out]
    (outside / "ImageSets" / "Main" / "held.txt").write_text("\n".join(stems))
    with pytest.raises(DataError, match="no labelled image to mine on: 2 are in the hold-out"):
        mine_outside(project, "voc", outside, subset="held")
    with pytest.raises(DataError, match="no model in this project yet"):
        mine_outside(make_project(folder="new"), "voc", outside)


def test_the_command_lists_as_the_bank_is_listed(
    made: Callable[..., Project],
    outside: Path,
    dream: Callable[[Any], Any],
    alpipe: Callable[..., Ran],
    tmp_path: Path,
) -> None:
    project = made()
    dream(Dreamer())
    found: Outside = mine_outside(project, "voc", outside)
    command = "-C", project.root, "mine", "--data", outside, "--format", "voc"
    listed = json.loads(alpipe(*command, "--json").out)
    assert {name: listed[name] for name in found.counts()} == found.counts()
    rows = listed["negatives"]
    assert [row["key"] for row in rows] == [entry.key for entry in found.entries]
    assert all(Path(row["file"]).is_file() for row in rows)

    sheet, table = tmp_path / "sheet.png", tmp_path / "table.csv"
    shown = alpipe(*command, "--sheet", sheet, "--csv", table, "--limit", 1)
    assert shown.status == 0
    said = " ".join(shown.out.split())
    assert f"1 of {len(rows)}; --limit 0 shows all" in said
    assert "nothing was put into the bank" in said
    with Image.open(sheet) as image:
        assert image.width > 1000
    with table.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["key"], float(line["x1"]), line["class"]) for line in lines] == [
        (row["key"], row["box"][0], row["class"]) for row in rows
    ]


def test_the_command_states_what_does_not_fit_in_one_line(
    made: Callable[..., Project], outside: Path, dream: Callable[[Any], Any], alpipe: Callable[..., Ran], tmp_path: Path
) -> None:
    project = made()
    dream(Dreamer())
    data = ("--data", outside, "--format", "voc")
    for arguments, fault in (
        (("--data", outside), "--data needs --format"),
        (("--format", "voc", "--json"), "--format, --json: only with --data"),
        ((*data, "--round", 1), "--round and --data exclude each other"),
        ((*data, "--model", "none"), "no model 'none' in this project; there are: r001-older, r002-newer"),
        ((*data, "--subset", "odd"), "no subset 'odd'"),
        ((*data, "--sheet", tmp_path), "is a folder"),
        ((*data, "--csv", tmp_path / "no" / "table.csv"), "there is no folder"),
        (("--data", tmp_path / "gone", "--format", "voc"), "gone"),
        (("--data", outside, "--format", "masks"), "masks"),
    ):
        ran = alpipe("-C", project.root, "mine", *arguments)
        assert ran.status == 1
        assert fault in ran.err
        assert len(ran.err.strip().splitlines()) == 1
    assert not project.store.negatives.entries()
