"""What labelling cost in a project, as ``pool stats`` and the report tell it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alpipe.config import Config
from alpipe.pool.store import NewItem, PoolStore
from alpipe.project import Project
from alpipe.steps.labelling import labelling
from alpipe.steps.reporting import gather, write_report
from alpipe.types import Annotation, AnswerState, Boxes, Edits, Labels
from tests.conftest import Ran

EMPTY = Boxes.none()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / ".alpipe").mkdir()
    config = Config(name="cells", task="detect", labels=("a", "b", "unused"))  # type: ignore[arg-type]
    (tmp_path / "alpipe.yaml").write_text("name: cells\ntask: detect\nlabels: [a, b, unused]\n")
    with Project(tmp_path, config) as made:
        made.store.items.add([NewItem(f"{n:020d}", f"/{n}.jpg", 64, 64) for n in range(30)])
        yield made


def give(
    project: Project, number: int, seconds: float | None, edits: dict[str, Edits] | None, who: str = "labelstudio:1", *,
    model: str | None = "m1", blind: bool = False, skipped: bool = False, round_: int | None = 1,
) -> None:  # fmt: skip
    state, labels = (AnswerState.SKIPPED, None) if skipped else (AnswerState.EMPTY, EMPTY)
    said: Labels | None = labels
    answer = Annotation(
        f"{number:020d}", state, said, who, f"{who}/{number}", seconds, round_, model, blind=blind, edits=edits
    )
    project.store.annotations.upsert([answer])


def fill(project: Project) -> None:
    for number in range(6):
        give(project, number, 10.0 + number % 2, {"a": Edits(2, 1, 1, overlap=0.6), "b": Edits(0, deleted=1)})
    for number in range(6, 12):
        give(project, number, 20.0 + number % 2, {"a": Edits(2, added=2)}, model=None, blind=True)
    give(project, 12, 3.0, None, skipped=True)
    give(project, 13, 40.0, {"b": Edits(1, added=1)}, model=None, round_=0)
    give(project, 14, None, None, "import:coco", model=None, round_=None)
    give(project, 0, 12.0, {"a": Edits(2, 2), "b": Edits(0, deleted=1)}, "labelstudio:2")


def test_rows_are_by_round_and_what_was_shown_with_their_classes(project: Project) -> None:
    fill(project)
    facts = labelling(project)
    rows = {(row["round"], row["shown"]): row for row in facts["rounds"]}
    assert list(rows) == [(0, "nothing"), (1, "suggestion"), (1, "blind")]
    with_one = rows[1, "suggestion"]
    assert (with_one["answers"], with_one["skipped"], with_one["seconds"]) == (7, 1, pytest.approx(10.7, abs=0.1))
    assert [with_one[name] for name in ("suggested", "accepted", "moved", "relabelled", "deleted", "added")] == [
        21, 8, 6, 0, 7, 0,
    ]  # fmt: skip
    assert with_one["overlap"] == 0.6
    assert [(row["class"], row["suggested"], row["objects"]) for row in with_one["classes"]] == [
        ("a", 14, 2.0), ("b", 7, 0.0),
    ]  # fmt: skip
    assert rows[1, "blind"]["objects"] == 2.0
    assert {(row["shown"], row["class"]) for row in facts["classes"]} == {
        ("suggestion", "a"), ("suggestion", "b"), ("blind", "a"), ("nothing", "b"),
    }  # fmt: skip
    assert (facts["answers"], facts["skipped"], facts["imported"], facts["timed"]) == (14, 1, 1, 15)
    assert facts["spent"] == 6 * 10.5 + 6 * 20.5 + 3 + 40 + 12


def test_seconds_saved_are_told_with_what_they_rest_on(project: Project) -> None:
    fill(project)
    facts = labelling(project)
    assert facts["saved"]["basis"] == "measured"
    assert facts["saved"]["each"] == pytest.approx(20.5 - 10.71, abs=0.05)
    assert facts["saved"]["low"] < facts["saved"]["each"] < facts["saved"]["high"]
    assert facts["notes"][0].startswith("Pre-annotations saved 9.8 s an image (95 % interval 9.0 to 10.6 s), 1 min 8 s")
    assert "measured on 6 blind and 7 pre-annotated answers" in facts["notes"][0]
    assert facts["notes"][1] == "Imported answers have no lead time and are not counted: 1."


def test_too_little_to_say_is_said(project: Project) -> None:
    [note] = labelling(project)["notes"]
    assert note.startswith("What pre-annotations saved cannot be told yet: there are 0 blind and 0 pre-annotated")
    give(project, 0, 9.0, {"a": Edits(2, 1, deleted=1, added=1)})
    give(project, 1, 9.0, None)
    facts = labelling(project)
    assert facts["saved"]["basis"] == "model"
    assert facts["saved"]["each"] == pytest.approx(7.0 - 2 * 1.6)
    assert "By a model of people's time pre-annotations saved 3.8 s an image" in facts["notes"][0]
    assert facts["notes"][1].startswith("It is not known what was done")


def test_the_command_and_the_report_show_it(project: Project, alpipe: Callable[..., Ran], tmp_path: Path) -> None:
    fill(project)
    told = json.loads(alpipe("-C", tmp_path, "pool", "stats", "--json").out)["labelling"]
    assert told == json.loads(json.dumps(labelling(project)))
    ran = alpipe("-C", tmp_path, "pool", "stats")
    assert ran.status == 0
    assert "8 (38%)" in ran.out
    assert told["notes"][0] in ran.out
    html = write_report(project, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What labelling cost" in html
    assert gather(project).answers == 15
    assert gather(project).answer_seconds == told["spent"]


def test_a_store_of_before_keeps_its_answers_of_which_the_edits_are_not_known(project: Project) -> None:
    fill(project)
    with project.store.database.write() as connection:
        for later in (
            "annotations DROP COLUMN edits",
            "round_items DROP COLUMN control",
            "round_items DROP COLUMN error",
        ):
            connection.exec_driver_sql(f"ALTER TABLE {later}")
        connection.exec_driver_sql("DROP TABLE questions")
        connection.exec_driver_sql("DROP TABLE embeddings")
        connection.exec_driver_sql("UPDATE alpipe_version SET version_num = '0004'")
    with PoolStore.open(f"sqlite:///{project.folder / 'pool.db'}") as store:
        work = store.annotations.work()
        assert len(work) == 15
        assert all(one.edits is None for one in work)
