"""Labels are judged by models that were not trained on them, and what these contradict becomes questions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alpipe.errors import BusyError, DataError
from alpipe.loop import advance, single
from alpipe.project import Project
from alpipe.steps.folders import alone
from alpipe.steps.label_check import check_labels
from alpipe.types import (
    OUT_OF_SAMPLE,
    Annotation,
    AnswerState,
    ClassPrediction,
    Example,
    ImageClass,
    Item,
    Prediction,
    Progress,
    QuestionState,
    Split,
    Task,
)
from tests.conftest import MakeProject, Ran


class Knowing:
    """A learner whose models know the truth, and which images they were trained on."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.trained: list[set[str]] = []
        self.judged: list[tuple[set[str], set[str]]] = []
        self.killed_at: int | None = None

    def fit(self, train: Sequence[Example], *_: Any, **more: Any) -> Any:
        if self.killed_at == len(self.trained):
            raise KeyboardInterrupt
        more["progress"](Progress("train", 1, 1))
        keys = {example.item.key for example in train}
        self.trained.append(keys)
        return SimpleNamespace(save=lambda folder: (folder / "keys.json").write_text(json.dumps(sorted(keys))))

    def load(self, folder: Path, _: Any) -> Any:
        keys = set(json.loads((folder / "keys.json").read_text()))
        return SimpleNamespace(predict=lambda items: self._predict(keys, list(items)))

    def _predict(self, keys: set[str], items: Iterable[Item]) -> Iterator[Prediction]:
        items = list(items)
        self.judged.append((keys, {item.key for item in items}))
        for item in items:
            truth = self.project.store.truth.get(item.key)
            assert isinstance(truth, ImageClass)
            probs = np.array([0.9 if name == truth.name else 0.025 for name in self.project.classes], np.float32)
            yield ClassPrediction(item.key, probs)


@pytest.fixture
def project(make_project: MakeProject) -> Project:
    """All of its pool is labelled, one image wrongly: the first by its key."""
    made = make_project(Task.CLASSIFY, images=40)
    wrong = wrong_one(made)
    for item in made.store.items.list(split=Split.POOL):
        truth = made.store.truth.get(item.key)
        assert isinstance(truth, ImageClass)
        said = ImageClass(next(name for name in made.classes if name != truth.name)) if item.key == wrong else truth
        made.store.annotations.upsert([Annotation(item.key, AnswerState.LABELLED, said, "test:1", f"{item.key}/1")])
    return made


@pytest.fixture
def learner(project: Project, monkeypatch: pytest.MonkeyPatch) -> Knowing:
    knowing = Knowing(project)
    monkeypatch.setattr(Project, "learner", lambda *_, **more: knowing)
    monkeypatch.setattr(Project, "learner_plugin", lambda _: (knowing, None))
    return knowing


def wrong_one(project: Project) -> str:
    return min(item.key for item in project.store.items.list(split=Split.POOL))


def test_each_image_is_judged_once_by_a_model_that_has_not_seen_it(project: Project, learner: Knowing) -> None:
    check_labels(project, 4)
    assert len(learner.judged) == 4
    assert not any(trained & judged for trained, judged in learner.judged)
    pool = {item.key for item in project.store.items.list(split=Split.POOL)}
    assert set().union(*(judged for _, judged in learner.judged)) == pool
    assert all(trained | judged == pool for trained, judged in learner.judged)


def test_the_wrong_label_becomes_a_question_that_a_mining_leaves(project: Project, learner: Knowing) -> None:
    told = check_labels(project, 3)
    assert "1 questions about 1 of them (1 swapped)" in told
    [asked] = project.store.questions.list()
    assert (asked.question.item.key, asked.question.model) == (wrong_one(project), OUT_OF_SAMPLE)
    project.store.questions.replace([], spare=OUT_OF_SAMPLE)
    assert [one.state for one in project.store.questions.list()] == [QuestionState.OPEN]


def test_a_check_replaces_what_an_earlier_one_found(project: Project, learner: Knowing) -> None:
    check_labels(project, 3)
    key = wrong_one(project)
    truth = project.store.truth.get(key)
    project.store.annotations.upsert([Annotation(key, AnswerState.LABELLED, truth, "test:2", f"{key}/2")])
    assert "0 questions" in check_labels(project, 3)
    assert project.store.questions.list() == []


def test_a_check_that_was_killed_goes_on_and_the_same_labels_are_not_learnt_again(
    project: Project, learner: Knowing
) -> None:
    learner.killed_at = 2
    with pytest.raises(KeyboardInterrupt):
        check_labels(project, 3)
    assert project.store.questions.list() == [], "nothing is half filed"
    learner.killed_at = None
    told = check_labels(project, 3)
    assert len(learner.trained) == 3
    assert check_labels(project, 3) == told
    assert len(learner.trained) == 3
    check_labels(project, 2)
    assert len(list((project.folder / "folds").iterdir())) == 2, "models of other parts are not kept"


def test_a_label_of_a_class_that_no_other_image_has_is_not_judged_and_that_is_said(
    project: Project, learner: Knowing
) -> None:
    key = wrong_one(project)
    name = project.classes[-1]
    for item in project.store.items.list(split=Split.POOL):
        said = ImageClass(name if item.key == key else project.classes[0])
        project.store.annotations.upsert([Annotation(item.key, AnswerState.LABELLED, said, "test:2", f"{item.key}/2")])
    told = check_labels(project, 3)
    assert f"1 labels {name!r} not judged" in told
    assert key not in {one.question.item.key for one in project.store.questions.list()}


def test_one_check_runs_at_a_time(project: Project, learner: Knowing) -> None:
    with (
        alone(project.folder / "check-labels.lock", "check"),
        pytest.raises(BusyError, match=rf"process {os.getpid()}\): wait until it ends"),
    ):
        check_labels(project, 3)
    assert not learner.trained
    check_labels(project, 3)
    assert learner.trained


def test_progress_says_which_fold_it_is(project: Project, learner: Knowing) -> None:
    stages: list[str] = []
    check_labels(project, 2, lambda now: stages.append(now.stage))
    assert list(dict.fromkeys(stages)) == [
        "fold 1 of 2: train", "fold 1 of 2: predict", "fold 2 of 2: train", "fold 2 of 2: predict",
    ]  # fmt: skip


def test_the_command_checks_and_refuses(
    project: Project, learner: Knowing, make_project: MakeProject, alpipe: Callable[..., Ran]
) -> None:
    ran = alpipe("-C", project.root, "check-labels", "--folds", 2)
    assert ran.status == 0
    assert "checked out of sample" in ran.out
    many = alpipe("-C", project.root, "check-labels", "--folds", 500)
    assert many.status == 1
    assert "too few for 500 folds" in many.err
    with pytest.raises(DataError, match="nothing to check"):
        check_labels(make_project(Task.CLASSIFY, folder="empty"), 3)


@pytest.mark.parametrize("task", list(Task))
def test_real_learners_are_checked_and_the_loop_goes_on(make_project: MakeProject, task: Task) -> None:
    project = make_project(task)
    advance(project, rounds=2)
    told = check_labels(project, 2)
    assert "8 labelled images checked" in told
    single(project, "mine")
    advance(project, rounds=1)
