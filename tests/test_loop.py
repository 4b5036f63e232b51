"""The loop is a reconciler: it does what can be done, records it, and can be killed anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alpipe import config as configuration
from alpipe import loop
from alpipe.datasets import digits
from alpipe.errors import BusyError, ConfigError, DataError
from alpipe.loop import STEPS, advance, perform, single
from alpipe.pool import ingest
from alpipe.pool.lease import owner_id
from alpipe.project import Project
from alpipe.protocols import no_progress
from alpipe.steps.outcome import Waiting
from alpipe.steps.summary import round_rows, status
from alpipe.types import Annotation, AnswerState, ItemState, Split, Task
from tests.conftest import MakeProject


@pytest.mark.parametrize("task", list(Task))
def test_two_rounds_label_train_and_evaluate(make_project: MakeProject, task: Task) -> None:
    project = make_project(task)
    result = advance(project, rounds=2)
    rows = round_rows(project)
    assert result.waiting_for is None
    assert [row["labelled"] for row in rows] == [0, 4, 8]
    assert [row["pushed"] for row in rows] == [4, 4, 0]
    assert [row["answered"] for row in rows] == [4, 4, 0]
    assert rows[0]["value"] is None
    assert all(0 <= row["value"] <= 1 for row in rows[1:])


def test_nothing_of_the_holdout_is_trained_on_or_mined(make_project: MakeProject) -> None:
    project = make_project()
    advance(project, rounds=2)
    held_out = {item.key for item in project.store.items.list(split=Split.HOLDOUT)}
    for round_ in project.store.rounds.list():
        assert not held_out & {key for key, _ in project.store.rounds.items(round_.number, "train")}
        assert not held_out & set(project.store.rounds.selected(round_.number))
    assert not held_out & {negative.item_key for negative in project.store.negatives.all()}


def test_a_run_with_nothing_new_does_nothing_and_says_what_it_waits_for(make_project: MakeProject) -> None:
    project = make_project()
    for item in project.store.items.list(split=Split.POOL):  # nobody knows the answers: all tasks stay open
        with project.store.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM truth WHERE item_key = ?", (item.key,))
    first = advance(project)
    assert first.waiting_for is not None
    assert "4 of 4 tasks" in first.waiting_for
    ledger = project.store.rounds.list()
    again = advance(project)
    assert again.done == ()
    assert again.waiting_for == first.waiting_for
    assert [round_.counts for round_ in project.store.rounds.list()] == [round_.counts for round_ in ledger]


def test_the_same_seed_selects_the_same_images(make_project: MakeProject) -> None:
    chosen = []
    for folder in ("one", "two"):
        project = make_project(Task.CLASSIFY, folder=folder)
        advance(project, rounds=2)
        chosen.append([project.store.rounds.selected(number) for number in (0, 1)])
    assert chosen[0] == chosen[1]


def test_another_seed_selects_other_images(make_project: MakeProject) -> None:
    chosen = []
    for seed in (0, 1):
        project = make_project(Task.CLASSIFY, folder=str(seed), seed=seed)
        advance(project)
        chosen.append(set(project.store.rounds.selected(0)))
    assert chosen[0] != chosen[1]


def test_an_exhausted_pool_is_trained_on_whole_and_then_waits_for_images(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, images=12, batch=100)
    result = advance(project, rounds=5)
    pool = project.store.items.counts(Split.POOL)
    assert pool.get("unlabelled", 0) == 0
    assert round_rows(project)[-1]["labelled"] == sum(pool.values())
    assert "add more" in str(result.waiting_for)
    assert advance(project, rounds=5).done == ()


def test_an_empty_pool_is_a_stated_failure(tmp_path: Path, make_project: MakeProject) -> None:
    config = make_project().config
    with Project.create(tmp_path / "empty", config) as empty, pytest.raises(DataError, match="alpipe add"):
        advance(empty)


def test_a_late_answer_is_learnt_from_in_the_next_round(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    advance(project, rounds=1)
    key = next(iter(project.store.rounds.selected(0)))
    correct = project.store.truth.get(key)
    skipped = Annotation(key, AnswerState.SKIPPED, None, "oracle", f"oracle:{key}:again")
    project.store.annotations.upsert([skipped])
    assert key not in {example.item.key for example in project.store.annotations.examples(Split.POOL)}
    project.store.annotations.upsert([Annotation(key, AnswerState.LABELLED, correct, "oracle", skipped.external_id)])
    advance(project, rounds=1)
    assert key in dict(project.store.rounds.items(2, "train"))


def test_a_step_that_another_run_holds_is_refused(make_project: MakeProject) -> None:
    project = make_project()
    current = loop.current_round(project)
    idle = "from alpipe.pool.lease import owner_id; print(owner_id(), flush=True); input()"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", idle], **pipes) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        assert project.store.rounds.claim(current.number, str(current.step), theirs, 60)
        with pytest.raises(BusyError, match="another run"):
            perform(project, current)
        other.communicate("\n")
    assert not isinstance(perform(project, current), Waiting)


@pytest.mark.parametrize("step", [name for name in STEPS if name != "collect"])
def test_a_run_killed_after_any_step_ends_as_one_that_was_not(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The step's work is done but not recorded as finished, as by a kill just before the last update."""
    whole = make_project(Task.CLASSIFY, folder="whole")
    advance(whole, rounds=2)
    cut = make_project(Task.CLASSIFY, folder="cut")
    original, killed = STEPS[step], []

    def die_once(*arguments: object) -> object:
        outcome = original(*arguments)  # type: ignore[arg-type]
        if arguments[1].number == 1 and not killed:  # type: ignore[attr-defined]
            killed.append(step)
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setitem(STEPS, step, die_once)
    with pytest.raises(KeyboardInterrupt):
        advance(cut, rounds=2)
    advance(cut, rounds=1)
    assert killed
    assert cut.store.rounds.selected(0) == whole.store.rounds.selected(0)
    assert cut.store.rounds.selected(1) == whole.store.rounds.selected(1)
    assert cut.store.models.list()[0].sha256 == whole.store.models.list()[0].sha256
    assert round_rows(cut)[1]["value"] == round_rows(whole)[1]["value"]


def test_a_run_killed_in_training_is_taken_over_at_once(make_project: MakeProject) -> None:
    project = make_project(learner={"name": "detector", "steps": 100_000, "image_size": 64, "width": 16})
    loop.current_round(project)
    keys = [item.key for item in project.store.items.list(split=Split.POOL)][:2]
    project.store.annotations.upsert(
        [
            Annotation(key, AnswerState.LABELLED, labels, "oracle", key)
            for key in keys
            if (labels := project.store.truth.get(key)) is not None and getattr(labels, "names", ())
        ]
    )
    command = [sys.executable, "-m", "alpipe.cli.main", "-C", str(project.root), "run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 60
        while project.store.rounds.owner(0) is None:
            assert run.poll() is None
            assert time.monotonic() < deadline
        run.kill()
    holder = project.store.rounds.owner(0)
    assert holder is not None
    assert holder != owner_id()
    assert project.store.rounds.claim(0, "train", owner_id(), 60)


def test_the_ledger_says_from_what_each_model_came(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    advance(project, rounds=1)
    round_ = project.store.rounds.list()[1]
    assert round_.data_hash
    assert round_.model_hash
    assert round_.holdout_hash
    assert round_.seed == 0
    assert round_.config["learner"]["name"] == "cnn"
    assert {"alpipe", "torch", "python"} <= set(round_.versions)
    assert set(round_.timings) == {"train", "evaluate", "mine"}
    assert len(project.store.rounds.items(1, "train")) == round_.labelled


def test_status_is_plain_json(make_project: MakeProject) -> None:
    project = make_project()
    advance(project, rounds=1)
    told = json.loads(json.dumps(status(project)))
    assert told["task"] == "detect"
    assert set(told["items"]) == {str(state) for state in ItemState} | {"total"}
    assert {"round", "labelled", "metric", "value"} <= set(told["rounds"][0])
    assert told["waiting_for"] is None


def test_train_by_itself_goes_on_without_the_open_answers(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, wait_for=1.0)
    advance(project, rounds=1)
    for step in ("score", "select", "push"):
        single(project, step)
    assert "labelled images" in single(project, "train")
    assert loop.current_round(project).number == 2


def test_a_step_out_of_turn_says_where_the_round_stands(make_project: MakeProject) -> None:
    with pytest.raises(BusyError, match="stands at step 'train'"):
        single(make_project(), "push", no_progress)


def test_answers_that_come_when_the_pool_is_used_up_are_still_learnt_from(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, images=12, batch=100, wait_for=0.5)
    pool = [item.key for item in project.store.items.list(split=Split.POOL)]
    truths = {key: project.store.truth.get(key) for key in pool}
    with project.store.database.write() as connection:
        for key in pool[:3]:
            connection.exec_driver_sql("DELETE FROM truth WHERE item_key = ?", (key,))
    assert "add more" in str(advance(project, rounds=3).waiting_for)
    project.store.truth.put_all({key: labels for key, labels in truths.items() if labels is not None})
    advance(project, rounds=3)
    assert round_rows(project)[-1]["labelled"] == len(pool)


def test_images_added_after_the_scan_are_scored_and_selected(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, images=12, batch=100)
    advance(project, rounds=3)
    late = digits.make(project.root / "late", task=Task.CLASSIFY, count=4, seed=9, size=64)
    items = ingest.lookup(project.store, [picture.path for picture in late])
    for picture in late:
        project.store.truth.put(items[picture.path].key, digits.labels_for(picture, Task.CLASSIFY))
    before = round_rows(project)[-1]["labelled"]
    advance(project, rounds=1)
    assert round_rows(project)[-1]["labelled"] == before + 4


def test_a_pool_of_which_people_skip_everything_ends_in_waiting(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, images=12, batch=100)
    skips = [
        Annotation(item.key, AnswerState.SKIPPED, None, "oracle", f"skip:{item.key}")
        for item in project.store.items.list(split=Split.POOL)
    ]
    project.store.annotations.upsert(skips)
    assert "add more" in str(advance(project, rounds=3).waiting_for)


def test_a_file_that_is_gone_is_set_aside_and_comes_back(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    item = project.store.items.list(split=Split.POOL)[0]
    content = item.path.read_bytes()
    item.path.unlink()
    told: list[str] = []
    advance(project, rounds=1, tell=told.append)
    assert told[0].startswith("1 images are gone")
    item.path.write_bytes(content)
    ingest.lookup(project.store, [item.path])
    assert project.store.items.counts().get("quarantined", 0) == 0


def test_a_disk_that_is_gone_is_not_taken_for_deleted_files(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    for item in project.store.items.list():
        item.path.unlink()
    with pytest.raises(DataError, match="is the disk there"):
        advance(project)
    assert project.store.items.counts().get("quarantined", 0) == 0


def test_a_model_is_not_used_with_labels_in_another_order(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    advance(project, rounds=1)
    text = configuration.text(project.config.model_copy(update={"labels": project.config.labels[::-1]}))
    (project.root / "alpipe.yaml").write_text(text)
    with Project.open(project.root) as turned, pytest.raises(ConfigError, match="put them back"):
        single(turned, "evaluate")
