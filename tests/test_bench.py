"""The bench drives the real loop: paired, frozen, resumable, and the same table each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alpipe.bench import bench, plan, sets, trial, workers
from alpipe.bench.plan import Arm
from alpipe.bench.workers import TimeLeft
from alpipe.comparison import table
from alpipe.config import Config
from alpipe.errors import BusyError, ConfigError, DataError
from alpipe.pool import ingest
from alpipe.pool.store import NewItem
from alpipe.project import Project
from alpipe.steps.folders import alone
from alpipe.types import ImageClass, Split, Task
from tests.conftest import TINY, MakeProject, Ran

TINY_PLAN = {"seeds": 2, "start": 4, "batch": 3, "rounds": 2, "arms": {"entropy": {"strategy": "entropy"}}}


def prepared(project: Project, **more: Any) -> tuple[plan.Plan, list[Arm]]:
    wanted = plan.parse(TINY_PLAN | more, "test")
    return wanted, plan.arms_of(wanted, project.config)


def without_clock(path: Path) -> pd.DataFrame:
    return table.read(path).drop(columns=[*table.CLOCK])


# ── end to end ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def only_plain_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "RANDOM", ("random",))


@pytest.mark.usefixtures("only_plain_random")
def test_a_bench_killed_halfway_ends_with_the_same_table_as_one_that_was_not(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.CLASSIFY, images=30)
    wanted, arms = prepared(project)
    said: list[str] = []
    grown: list[int] = []

    def tell(line: str) -> None:
        said.append(line)
        if (results := tmp_path / "whole" / "results.csv").exists():
            grown.append(len(table.read(results)))

    found = bench.run(project, tmp_path / "whole", wanted, arms, jobs=1, tell=tell)
    assert grown == sorted(grown)
    assert len(set(grown)) > 2, "the table grows while the bench runs"

    evaluated, original = [], trial.perform

    def dies(*arguments: Any) -> Any:
        outcome = original(*arguments)
        evaluated.append(arguments[1].step == "evaluate")
        if sum(evaluated) == 4:  # in the middle of the first arm
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setattr(trial, "perform", dies)
    with pytest.raises(KeyboardInterrupt):
        bench.run(project, tmp_path / "cut", wanted, arms, jobs=1)
    assert set(table.read(tmp_path / "cut" / "results.csv")["arm"]) == {"entropy"}  # what there is so far
    monkeypatch.setattr(trial, "perform", original)
    bench.run(project, tmp_path / "cut", wanted, arms, jobs=1)
    whole, cut = (without_clock(tmp_path / name / "results.csv") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(whole, cut, check_exact=True)

    check_the_table(whole)
    assert {path.name for path in (tmp_path / "whole").glob("*.*")} >= {
        *("results.csv", "summary.json", "summary.html"),
        *(f"curves-{axis}.png" for axis in table.AXES),
    }
    assert json.loads((tmp_path / "whole" / "summary.json").read_text()) == found
    assert bench.write_summary(tmp_path / "whole") == found
    assert "[8/8]" in said[-1]
    facts = sets.facts_of(tmp_path / "whole" / "set")
    assert all(trial.is_done(job) for job in bench.plan_jobs(tmp_path / "whole", wanted, arms, facts))


def check_the_table(frame: pd.DataFrame) -> None:
    main = frame[frame["metric"] == "accuracy"]
    assert table.headline(frame) == "accuracy"
    assert set(main["arm"]) == {"entropy", "random", plan.FULL}
    for _, curve in main[main["role"] != "ceiling"].groupby(["arm", "seed"]):
        assert list(curve["images"]) == [4, 7, 10]
        assert (np.diff(curve["seconds"]) > 0).all()
    starts = main[main["round"] == 0].set_index(["arm", "seed"])
    for seed in (0, 1):  # the same first model for all arms of a seed
        assert starts.loc[("entropy", seed), "value"] == starts.loc[("random", seed), "value"]
    assert set(main.loc[main["role"] == "ceiling", "images"]) == {24}
    assert starts.loc[("entropy", 0), "seconds"] == 4 * (1.5 + 7.0)  # nothing was proposed for the start
    assert frame["test"].nunique() == 1


@pytest.mark.slow
def test_parallel_trials_give_the_same_table_as_one_after_the_other(
    alpipe: Callable[..., Ran], make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "threads_each", lambda _: 1)  # rounding depends on it
    project = make_project(Task.CLASSIFY, images=20)
    arguments = ("-C", project.root, "bench", "--strategies", "margin", "--seeds", "1", "--start", "4", "--batch", "3")
    for jobs in (1, 2):
        ran = alpipe(*arguments, "--rounds", 1, "--no-full", "--jobs", jobs, "--out", tmp_path / str(jobs), "--json")
        assert ran.status == 0, ran.err
        assert json.loads(ran.out)["rounds"] == 1
    one, two = (without_clock(tmp_path / name / "results.csv") for name in ("1", "2"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


@pytest.mark.usefixtures("only_plain_random")
@pytest.mark.parametrize(
    ("fault", "said"),
    [(DataError("the disk is full"), "the disk is full"), (RuntimeError("odd\nshapes"), "RuntimeError: odd")],
)
def test_a_trial_that_fails_is_said_and_does_not_stop_the_others(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, said: str
) -> None:
    project = make_project(Task.CLASSIFY, images=20)
    wanted, arms = prepared(project, seeds=1, rounds=1, full=False)
    original = trial.run

    def fails(job: trial.Job, *arguments: Any) -> None:
        if job.arm.name == "entropy" and job.kind == "arm":
            raise fault
        original(job, *arguments)

    monkeypatch.setattr(trial, "run", fails)
    with pytest.raises(Exception, match=rf"1 of 3 trials failed.*entropy, seed 0: {said}"):
        bench.run(project, tmp_path / "out", wanted, arms, jobs=1)
    assert set(table.read(tmp_path / "out" / "results.csv")["arm"]) == {"random"}


# ── the plan ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def config(make_project: MakeProject) -> Config:
    return make_project(Task.CLASSIFY, images=10).config


def test_random_and_the_ceiling_are_added_for_each_way_of_training(config: Config) -> None:
    longer = TINY[Task.CLASSIFY] | {"steps": 9}
    arms = plan.arms_of(
        plan.parse(
            {"arms": {"entropy": {"strategy": "entropy"}, "longer": {"strategy": "entropy", "learner": longer}}}, ""
        ),
        config,
    )
    assert {arm.learner for arm in arms} == {"cnn (steps=4)", "cnn (steps=9)"}
    for learner in ("cnn (steps=4)", "cnn (steps=9)"):
        roles = [arm.role for arm in arms if arm.learner == learner]
        assert roles.count("strategy") == roles.count("ceiling") == 1
        assert roles.count("random") >= 1
    assert len({plan.start_folder(arm) for arm in arms}) == 2


def test_a_random_arm_that_is_named_is_not_added_again(config: Config) -> None:
    arms = plan.arms_of(plan.parse({"arms": {"chance": {"strategy": "random"}}, "full": False}, ""), config)
    assert [arm.name for arm in arms if arm.values["strategy"]["name"] == "random"] == ["chance"]
    assert arms[0].role == "random"


def test_no_arm_has_a_control_slice_a_blind_lot_or_spreads_unless_it_says_so(config: Config) -> None:
    base = config.model_copy(update={"budget": 5, "blind": 0.5, "batch_with": {"spread": {"share": 3}, "noise": {}}})
    spread = {"strategy": "entropy", "batch_with": {"spread": {"share": 4}}}
    arms = plan.arms_of(plan.parse({"arms": {"plain": {"strategy": "margin"}, "spread": spread}}, ""), base)
    configs = {arm.name: arm.config(0) for arm in arms}
    assert all((one.control, one.blind, one.budget) == (0, 0, None) for one in configs.values())
    assert configs["plain"].batch_with == {"spread": False, "noise": {}}
    assert configs["spread"].batch_with == {"spread": {"share": 4}}
    for name in ("random", "balanced_random", plan.FULL):  # pure chance, whatever the others do
        assert configs[name].batch_with == {"spread": False}


def test_random_arms_stand_beside_an_arm_with_a_partner(config: Config) -> None:
    herded = {"strategy": "margin", "batch_with": {"partner": "herding"}}
    arms = plan.arms_of(plan.parse({"arms": {"herded": herded}}, ""), config)
    assert [arm.name for arm in arms] == ["herded", "random", "balanced_random", plan.FULL]


def test_an_arm_that_names_a_strategy_does_not_inherit_the_partner_of_the_projects_strategy(config: Config) -> None:
    base = config.model_copy(update={"batch_with": {"partner": "herding", "near_duplicates": 4}})
    asked = {"arms": {"own": {}, "other": {"strategy": "badge"}}, "random": False, "full": False}
    configs = {arm.name: arm.config(0) for arm in plan.arms_of(plan.parse(asked, ""), base)}
    assert configs["own"].batch_with == {"partner": "herding", "near_duplicates": 4, "spread": False}
    assert configs["other"].batch_with == {"near_duplicates": 4, "spread": False}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"arms": {"a": {"strategy": "entropy", "control": 0.2}}}, "control is the same for every arm"),
        ({"arms": {"a": {"strategy": "entropi"}}}, "did you mean entropy"),
        ({"arms": {"a": {"strategy": "entropy", "seed": 3}}}, "seed is the same for every arm"),
        ({"arms": {"a": "entropy"}}, "arm"),
        ({"arms": {"a": {"strategy": "entropy"}, "b": {"strategy": "entropy"}}}, "are the same"),
        ({"arms": {"a": {"strategy": "disagreement"}}}, "compares the members"),
        ({"random": False}, "no arm"),
        ({"seed": 3}, "did you mean 'seeds'"),
        ({"rounds": 0}, "rounds"),
        ({"settings": {"batch": 3}}, "batch is the same"),
        ({"arms": {"random": {"strategy": "entropy"}}}, "choose another"),
    ],
)
def test_faults_of_a_plan_are_named_before_anything_starts(config: Config, values: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        plan.arms_of(plan.parse(values, "arms.yaml"), config)


def test_names_of_arms_cannot_leave_their_folder_or_meet_in_one() -> None:
    assert plan.slug("entropy") == "entropy"
    names = ["../../etc", "a/b", "a b", "a:b", "…"]
    slugs = [plan.slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all("/" not in slug and not slug.startswith(".") for slug in slugs)


# ── the set ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_group_and_no_near_duplicate_is_on_both_sides_of_the_test(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=30)
    items = project.store.items.list()
    with project.store.database.write() as connection:
        for at, item in enumerate(items):
            connection.exec_driver_sql("UPDATE items SET group_name = ? WHERE key = ?", (f"person {at // 3}", item.key))
    groups = {item.key: at // 3 for at, item in enumerate(items)}
    alike = [items[2].key, items[3].key]  # ties the first two people together
    _, arms = prepared(project)
    facts = sets.make(project, tmp_path / "set", arms[0].config(0), test_share=0.4, alike=lambda _: [alike])
    with Project.open(tmp_path / "set") as made:
        test, pool = (
            {groups[i.key] for i in made.store.items.list(split=side)} for side in (Split.HOLDOUT, Split.POOL)
        )
    assert test
    assert pool
    assert not test & pool
    assert (0 in test) == (1 in test)
    assert facts.test + facts.pool == 30


def test_near_copies_of_test_images_are_found_by_their_hashes(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=20)
    held_out, pool = (project.store.items.list(split=side) for side in (Split.HOLDOUT, Split.POOL))
    with Image.open(held_out[0].path) as picture:
        brighter = np.clip(np.asarray(picture.convert("RGB"), np.int64) + 1, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(tmp_path / "copy.png")
    copy = ingest.lookup(project.store, [tmp_path / "copy.png"])[tmp_path / "copy.png"]
    project.store.truth.put(copy.key, ImageClass(project.classes[0]))
    groups = [set(group) for group in sets.near_duplicates(project, 2)([*held_out, *pool, copy])]
    assert any({held_out[0].key, copy.key} <= group for group in groups)
    _, arms = prepared(project)
    near = sets.near_duplicates(project, 2)
    facts = sets.make(project, tmp_path / "set", arms[0].config(0), test_share=None, alike=near)
    assert facts.alike_searched
    assert facts.beside_test >= 1
    with Project.open(tmp_path / "set") as made:
        assert copy.key not in {item.key for item in made.store.items.list()}


def test_pool_images_of_a_group_in_the_holdout_are_left_out_and_counted(
    make_project: MakeProject, tmp_path: Path
) -> None:
    project = make_project(Task.CLASSIFY, images=20)
    mine = [project.store.items.list(split=side)[0].key for side in Split]
    with project.store.database.write() as connection:
        for key in mine:
            connection.exec_driver_sql("UPDATE items SET group_name = 'both' WHERE key = ?", (key,))
    entered = NewItem("f" * 20, "/nowhere.png", 8, 8)
    project.store.items.add([entered])
    _, arms = prepared(project)
    facts = sets.make(project, tmp_path / "set", arms[0].config(0), test_share=None, alike=None)
    assert (facts.test, facts.pool, facts.beside_test, facts.unlabelled) == (4, 15, 1, 1)
    assert sets.make(project, tmp_path / "set", arms[0].config(0), test_share=0.9, alike=None) == facts  # frozen


def test_images_that_share_a_group_with_a_sets_own_test_part_are_on_neither_side(
    alpipe: Callable[..., Ran], tmp_path: Path
) -> None:
    """Four test images of one person; the part to choose from has five of the same, and ten of two others."""
    rng = np.random.default_rng(0)
    for part, people, count in (("test", "a", 4), ("train", "abc", 5)):
        for person in people:
            for n in range(count):
                path = tmp_path / "data" / part / ("x" if n % 2 else "y") / f"{person}-{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
    grouped = ("--test-subset", "test", "--pool-subset", "train", "--group-regex", "([abc])-")
    given = ("--format", "folders", "--task", "classify", "--labels", "x,y", *grouped, "--near-duplicates", -1)
    place = ("--data", tmp_path / "data", "--out", tmp_path / "out")
    small = ("--start", 40, "--rounds", 1)
    ran = alpipe("bench", "--strategies", "margin", *given, *place, *small, "--json")
    assert ran.out == "", "with --json nothing but JSON"
    assert "the pool has 10" in ran.err, "more than there are: it ends before anything is trained"
    facts = sets.facts_of(tmp_path / "out" / "set")
    assert (facts.test, facts.pool, facts.beside_test) == (4, 10, 5)


def test_a_folder_keeps_to_the_set_that_it_was_begun_with(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=10)
    wanted, arms = prepared(project, rounds=1)
    too_many, out = prepared(project, rounds=9)[0], tmp_path / "out"
    origin: dict[str, Any] = {"--data": "/a", "--test-share": None}
    for _ in range(2):  # refused before anything is trained, yet the set is made
        with pytest.raises(DataError, match="at most 1 rounds fit"):
            bench.run(project, out, too_many, arms, jobs=1, origin=origin)
    with pytest.raises(ConfigError, match=r"begun with --data /a \(now /b\), --test-share None \(now 0.5\)"):
        bench.run(project, out, wanted, arms, jobs=1, origin={"--data": "/b", "--test-share": 0.5})


@pytest.mark.usefixtures("only_plain_random")
def test_what_was_measured_with_other_settings_is_never_shown_under_new_ones(
    make_project: MakeProject, tmp_path: Path
) -> None:
    project, small = make_project(Task.CLASSIFY, images=20), {"seeds": 1, "rounds": 1, "full": False}
    wanted, arms = prepared(project, **small)
    bench.run(project, tmp_path / "out", wanted, arms, jobs=1)
    before = (tmp_path / "out" / "results.csv").read_bytes()
    for changed in (
        {"arms": {"entropy": {"strategy": "margin"}}},
        {"settings": {"learner": {**TINY[Task.CLASSIFY], "steps": 3}}},
    ):
        with pytest.raises(ConfigError, match="begun with other settings of arm 'entropy'"):
            bench.run(project, tmp_path / "out", *prepared(project, **small, **changed), jobs=1)
    with pytest.raises(ConfigError, match="was begun with seconds"):
        bench.run(project, tmp_path / "out", *prepared(project, **small, seconds={"image": 9}), jobs=1)
    assert (tmp_path / "out" / "results.csv").read_bytes() == before
    more = {"arms": {"margin": {"strategy": "margin", "cold_start": "random"}, **TINY_PLAN["arms"]}}
    found = bench.run(project, tmp_path / "out", *prepared(project, **small, **more), jobs=1)
    assert [arm["arm"] for arm in found["groups"][0]["arms"]] == ["margin", "entropy", "random"]


def test_several_answers_an_image_are_not_asked_of_the_oracle(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, images=10, agreement={"minimum": 2})
    assert {arm.config(0).agreement.minimum for arm in prepared(project)[1]} == {1}


def test_the_name_of_the_model_of_all_labels_is_taken(make_project: MakeProject) -> None:
    with pytest.raises(ConfigError, match="'all labels': this name is that of the model of all labels"):
        prepared(make_project(Task.CLASSIFY, images=10), arms={"all labels": {"strategy": "entropy"}})


def test_one_bench_runs_in_a_folder(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=10)
    wanted, arms = prepared(project)
    (tmp_path / "out").mkdir()
    with (
        alone(tmp_path / "out" / "bench.lock", "bench"),
        pytest.raises(BusyError, match=r"another bench in .*out runs"),
    ):
        bench.run(project, tmp_path / "out", wanted, arms, jobs=1)
    assert not (tmp_path / "out" / "set").exists()


def test_a_set_is_not_read_into_a_folder_that_another_bench_has(alpipe: Callable[..., Ran], tmp_path: Path) -> None:
    for name in ("out", "data"):
        (tmp_path / name).mkdir()
    place = ("--data", tmp_path / "data", "--out", tmp_path / "out")
    more = ("--format", "folders", "--task", "classify", "--labels", "a,b")
    with alone(tmp_path / "out" / "bench.lock", "bench"):
        refused = alpipe("bench", *place, *more)
    assert refused.status == 1
    assert "another bench in" in refused.err
    assert not (tmp_path / "out" / "imported").exists()


def test_a_project_without_holdout_is_told_what_to_say(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=10)
    with project.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE items SET split = 'pool'")
    wanted, arms = prepared(project)
    with pytest.raises(DataError, match="--test-share"):
        bench.run(project, tmp_path / "out", wanted, arms, jobs=1)


def test_a_budget_beyond_the_pool_and_a_changed_start_are_refused(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(Task.CLASSIFY, images=10)
    wanted, arms = prepared(project, rounds=9)
    with pytest.raises(DataError, match="at most 1 rounds fit"):
        bench.run(project, tmp_path / "out", wanted, arms, jobs=1)
    facts = sets.facts_of(tmp_path / "out" / "set")
    bench._settle(tmp_path / "out", wanted, facts, 1)
    other, _ = prepared(project, start=5)
    with pytest.raises(ConfigError, match=r"start 4 \(now 5\)"):
        bench._settle(tmp_path / "out", other, facts, 1)
    assert bench._settle(tmp_path / "out", wanted, facts, 2) == 1  # the first run's threads


# ── time, and the command ───────────────────────────────────────────────────────────────────────────────────────────


def test_time_left_follows_a_line_through_what_was_measured() -> None:
    left = TimeLeft([10, 20, 30, 30], workers=1)
    assert left.estimate() is None
    left.add(10, 5.0)
    assert left.estimate() == pytest.approx(15.0)
    left.add(20, 10.0)
    assert left.estimate() == pytest.approx(30.0)
    assert TimeLeft([30, 30], 2, [10, 20], [5.0, 10.0]).estimate() == pytest.approx(15.0)


def test_threads_are_an_equal_share_of_the_cores_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [workers.threads_each(jobs) for jobs in (1, 2, 3, 20)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert workers.threads_each(2) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategies", "entropy", "--seconds", "1,2"), "three numbers"),
        (("--task", "detect"), "go with --data"),
        (("--test-share", "2"), "no share"),
        (("--metric", "recall"), "goes with --summary"),
        (("--data", "/nowhere"), "needs --format"),
        (("--data", "/nowhere", "--format", "voc", "--task", "detect", "--labels", "a"), "no such file or folder"),
        (("--summary", "/nowhere"), "there is no such table"),
        (("--arms", "/nowhere.yaml"), "cannot be read"),
    ],
)
def test_what_the_command_cannot_do_it_says_in_one_line(
    alpipe: Callable[..., Ran], make_project: MakeProject, arguments: tuple[str, ...], said: str
) -> None:
    ran = alpipe("-C", make_project(Task.CLASSIFY, images=10).root, "bench", *arguments)
    assert ran.status == 1
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
