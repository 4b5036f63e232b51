"""The command line as people and scripts meet it: the words of the contract, one line an error, status 0, 1 or 2."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alpipe.cli.main import _project_first
from alpipe.cli.servers import home_of
from alpipe.datasets import digits
from alpipe.types import Task
from tests.conftest import Ran

Alpipe = Callable[..., Ran]

COMMANDS = [
    "demo", "init", "add", "import", "export", "run", "train", "score", "select", "push", "pull", "mine", "evaluate",
    "status", "pool", "report", "plugins", "serve", "labelstudio", "doctor",
]  # fmt: skip


@pytest.fixture
def project(alpipe: Alpipe, tmp_path: Path) -> Path:
    folder = tmp_path / "cells"
    assert alpipe("init", folder, "--task", "detect", "--labels", "a,b", "--annotator", "oracle").status == 0
    return folder


def picture(path: Path, colour: int = 100, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), colour, np.uint8)).save(path)
    return path


def one_line(ran: Ran, *words: str) -> None:
    """A stated failure: status 1, one line on standard error that holds the words, no stack trace."""
    assert ran.status == 1, ran
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("alpipe: ")
    assert all(word in ran.err for word in words), ran.err


def voc(root: Path, name: str, objects: str, size: tuple[int, int] = (40, 30), colour: int = 100) -> None:
    picture(root / "JPEGImages" / f"{name}.png", colour, size)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.png</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{objects}</annotation>"
    )


def box(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"


def test_help_lists_every_command_of_the_contract(alpipe: Alpipe) -> None:
    text = alpipe("--help").out
    assert all(f" {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(alpipe: Alpipe, command: str) -> None:
    ran = alpipe(command, "--help")
    assert ran.status == 0
    assert "alpipe" in ran.out


def test_help_loads_no_heavy_library() -> None:
    heavy = ("torch", "pandas", "sklearn", "prefect", "label_studio_sdk", "sqlalchemy", "matplotlib", "numpy")
    code = (
        "import sys\nfrom alpipe.cli.main import main\nsys.argv = ['alpipe', '--help']\n"
        f"try:\n    main()\nfinally:\n    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"


def test_wrong_usage_has_status_two(alpipe: Alpipe) -> None:
    assert alpipe("frobnicate").status == 2
    assert alpipe("init").status == 2
    assert alpipe("status", "--no-such-option").status == 2


def test_the_project_may_be_named_after_the_command() -> None:
    assert _project_first(["pool", "ls", "-C", "cells"]) == ["-C", "cells", "pool", "ls"]
    assert _project_first(["run", "-C"]) == ["run", "-C"]


@pytest.mark.parametrize("command", [("status",), ("run",), ("pool", "ls"), ("add", "."), ("report",)])
def test_without_a_project_every_command_says_how_to_make_one(
    alpipe: Alpipe, tmp_path: Path, command: tuple[str, ...]
) -> None:
    one_line(alpipe("-C", tmp_path, *command), "alpipe init")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "detekt", "--labels", "a"), ("task", "'detect'")),
        (("--task", "detect", "--labels", "a,a"), ("labels",)),
        (("--task", "detect", "--labels", ""), ("labels",)),
        (("--task", "detect", "--labels", "a", "--learner", "detecter"), ("did you mean", "detector")),
        (("--task", "detect", "--labels", "a", "--learner", "cnn"), ("'cnn' is for classify", "detector")),
        (("--task", "detect", "--labels", "a", "--strategy", "entropi"), ("entropy",)),
        (("--task", "detect", "--labels", "a", "--annotator", "humans"), ("unknown annotator",)),
    ],
)
def test_init_refuses_what_it_cannot_make_and_leaves_nothing(
    alpipe: Alpipe, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    one_line(alpipe("init", tmp_path / "p", *options), *words)
    assert not (tmp_path / "p" / "alpipe.yaml").exists()


def test_init_twice_is_refused(alpipe: Alpipe, project: Path) -> None:
    one_line(alpipe("init", project, "--task", "detect", "--labels", "a"), "already holds a project")


def test_a_typo_in_the_configuration_is_named_with_the_file(alpipe: Alpipe, project: Path) -> None:
    (project / "alpipe.yaml").write_text((project / "alpipe.yaml").read_text() + "bach: 3\n")
    one_line(alpipe("-C", project, "status"), "alpipe.yaml", "'bach'", "'batch'")


def test_a_typo_in_an_option_of_a_plug_in_is_named(alpipe: Alpipe, project: Path) -> None:
    text = (project / "alpipe.yaml").read_text()
    (project / "alpipe.yaml").write_text(text.replace("learner: detector", "learner: {name: detector, image_sise: 9}"))
    picture(project / "x.png")
    alpipe("-C", project, "add", project / "x.png")
    one_line(alpipe("-C", project, "run"), "detector", "image_sise", "image_size")


def test_adding_a_folder_twice_adds_nothing(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    for at in range(5):
        picture(tmp_path / "images" / f"{at}.png", at)
    assert alpipe("-C", project, "add", tmp_path / "images").out.startswith("5 images added")
    assert alpipe("-C", project, "add", tmp_path / "images").out.startswith("0 images added")
    assert json.loads(alpipe("-C", project, "status", "--json").out)["items"]["total"] == 5


def test_a_missing_folder_is_named(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    one_line(alpipe("-C", project, "add", tmp_path / "nowhere"), "nowhere")
    one_line(alpipe("-C", project, "import", "voc", tmp_path / "nowhere"), "nowhere")


def test_an_unreadable_image_is_kept_aside_with_the_reason(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    whole = picture(tmp_path / "images" / "whole.png", size=(200, 200)).read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    ran = alpipe("-C", project, "add", tmp_path / "images")
    assert ran.status == 0
    assert "1 images added" in ran.out
    assert "1 unreadable" in ran.out
    with (project / ".alpipe" / "add-refused.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1
    assert rows[0]["source"].endswith("cut.png")


def test_an_empty_pool_cannot_be_run(alpipe: Alpipe, project: Path) -> None:
    one_line(alpipe("-C", project, "run"), "pool", "empty", "alpipe add")


def test_an_import_with_bad_parts_takes_the_rest_and_lists_them(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    voc(root, "good", box("a", 1, 1, 9, 9), colour=1)
    voc(root, "outside", box("a", 100, 100, 120, 120) + box("b", 5, 5, 50, 20), colour=2)
    voc(root, "no_area", box("a", 5, 5, 5, 9) + box("b", 1, 1, 4, 4), colour=3)
    voc(root, "unknown", box("zebra", 1, 1, 9, 9), colour=4)
    voc(root, "empty", "", colour=5)
    voc(root, "broken", "", colour=6)
    (root / "Annotations" / "broken.xml").write_text("<annotation><object>")
    ran = alpipe("-C", project, "import", "voc", root)
    assert ran.status == 0
    assert "6 images, 6 of them new to the pool: 3 labelled, 1 reviewed and empty, 2 without labels" in ran.out
    assert "1 boxes cut" in ran.out
    assert "4 parts refused" in ran.out
    with (project / ".alpipe" / "import-voc-refused.csv").open() as stream:
        reasons = {
            Path(row["source"].split(":")[0].split(",")[0]).stem: row["reason"] for row in csv.DictReader(stream)
        }
    assert "outside the image" in reasons["outside"]
    assert "no area" in reasons["no_area"]
    assert "zebra" in reasons["unknown"]
    assert "broken" in reasons


def test_importing_twice_changes_nothing(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    voc(tmp_path / "voc", "good", box("a", 1, 1, 9, 9))
    alpipe("-C", project, "import", "voc", tmp_path / "voc")
    before = json.loads(alpipe("-C", project, "pool", "stats", "--json").out)
    alpipe("-C", project, "import", "voc", tmp_path / "voc")
    assert json.loads(alpipe("-C", project, "pool", "stats", "--json").out) == before


def test_an_import_of_which_nothing_can_be_taken_fails_and_says_where_the_reasons_are(
    alpipe: Alpipe, project: Path, tmp_path: Path
) -> None:
    voc(tmp_path / "voc", "unknown", box("zebra", 1, 1, 9, 9))
    ran = alpipe("-C", project, "import", "voc", tmp_path / "voc")
    one_line(ran, "zebra", "import-voc-refused.csv")


def test_masks_of_another_size_are_refused(alpipe: Alpipe, tmp_path: Path) -> None:
    alpipe("init", tmp_path / "p", "--task", "segment", "--labels", "a", "--annotator", "oracle")
    picture(tmp_path / "set" / "images" / "x.png", 1)
    picture(tmp_path / "set" / "images" / "y.png", 2)
    for name, size in (("x", (40, 30)), ("y", (20, 30))):
        path = tmp_path / "set" / "masks" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ones((size[1], size[0]), np.uint8)).save(path)
    ran = alpipe("-C", tmp_path / "p", "import", "masks", tmp_path / "set")
    assert "1 labelled" in ran.out
    assert "1 parts refused" in ran.out
    assert "20×30" in ran.out


def test_unknown_formats_and_states_are_answered_with_known_ones(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    one_line(alpipe("-C", project, "import", "cocoo", tmp_path), "coco")
    one_line(alpipe("-C", project, "pool", "ls", "--state", "done"), "labelled")
    one_line(alpipe("-C", project, "pool", "show", "zzz"), "pool ls")


def test_the_groups_of_a_table_stay_on_one_side(alpipe: Alpipe, tmp_path: Path) -> None:
    alpipe("init", tmp_path / "p", "--task", "detect", "--labels", "a", "--holdout-share", "0.5")
    rows = ["path,group"]
    for at in range(40):
        picture(tmp_path / "images" / f"{at}.png", at)
        rows.append(f"images/{at}.png,patient {at // 4}")
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    assert alpipe("-C", tmp_path / "p", "add", tmp_path / "images", "--groups", tmp_path / "groups.csv").status == 0
    sides: dict[str, set[str]] = {}
    for row in json.loads(alpipe("-C", tmp_path / "p", "pool", "ls", "--limit", "0", "--json").out):
        sides.setdefault(row["group"], set()).add(row["split"])
    assert len(sides) == 10
    assert all(len(side) == 1 for side in sides.values())
    assert {"pool", "holdout"} == set.union(*sides.values())


def test_a_bad_grouping_is_a_stated_failure(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    one_line(alpipe("-C", project, "add", tmp_path / "x.png", "--group-regex", "("), "regular expression")
    (tmp_path / "g.csv").write_text("file,who\n1,2\n")
    one_line(alpipe("-C", project, "add", tmp_path / "x.png", "--groups", tmp_path / "g.csv"), "path and group")


def test_the_whole_loop_from_the_command_line(alpipe: Alpipe, tmp_path: Path) -> None:
    """Init, import as truth, run, status, pool, report, export, and the export imports again."""
    folder, images = tmp_path / "p", tmp_path / "set"
    made = digits.make(tmp_path / "made", task=Task.CLASSIFY, count=24, size=64)
    for image in made:
        name = "" if image.image_class is None else image.image_class.name
        target = images / name / image.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.path.read_bytes())
    labels = ",".join(digits.CLASSES[Task.CLASSIFY])
    assert alpipe("init", folder, "--task", "classify", "--labels", labels, "--annotator", "oracle", "--batch", "4",
                  "--holdout-share", "0.3").status == 0  # fmt: skip
    config = (folder / "alpipe.yaml").read_text()
    (folder / "alpipe.yaml").write_text(
        config.replace("learner: cnn", "learner: {name: cnn, steps: 4, image_size: 48}")
    )
    assert alpipe("-C", folder, "import", "folders", images, "--as-truth").status == 0
    ran = alpipe("-C", folder, "run", "--rounds", "2")
    assert ran.status == 0, ran.err
    assert "accuracy" in ran.out
    status: dict[str, Any] = json.loads(alpipe("-C", folder, "status", "--json").out)
    assert [row["labelled"] for row in status["rounds"]][:2] == [0, 4]
    assert status["waiting_for"] is None
    top = json.loads(alpipe("-C", folder, "pool", "top", "-n", "3", "--json").out)
    assert [row["score"] for row in top] == sorted((row["score"] for row in top), reverse=True)
    shown = json.loads(alpipe("-C", folder, "pool", "show", top[0]["key"], "--json").out)
    assert shown["score"] == pytest.approx(top[0]["score"], abs=1e-4)
    assert alpipe("-C", folder, "report").status == 0
    assert "<html" in (folder / "report.html").read_text()
    assert alpipe("-C", folder, "export", "folders", tmp_path / "out").status == 0
    one_line(alpipe("-C", folder, "export", "folders", tmp_path / "out"), "out")
    assert alpipe("init", tmp_path / "again", "--task", "classify", "--labels", labels).status == 0
    ran = alpipe("-C", tmp_path / "again", "import", "folders", tmp_path / "out")
    assert ran.status == 0
    count = status["items"]["labelled"]
    assert f"{count} images, {count} of them new" in ran.out


def test_the_demo_needs_no_server_with_the_oracle(alpipe: Alpipe, tmp_path: Path) -> None:
    ran = alpipe("demo", tmp_path / "demo", "--task", "classify", "--annotator", "oracle", "--rounds", "1",
                 "--images", "40", "--batch", "4")  # fmt: skip
    assert ran.status == 0, ran.err
    assert "report.html" in ran.out
    assert "Label Studio" not in ran.out.partition("done in")[2]


def test_the_demo_does_not_touch_a_folder_that_is_not_its_own(alpipe: Alpipe, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    one_line(alpipe("demo", tmp_path / "mine", "--annotator", "oracle"), "choose a new or empty folder")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years"


def test_doctor_says_what_is_there(alpipe: Alpipe, tmp_path: Path) -> None:
    ran = alpipe("-C", tmp_path, "doctor", "--json")
    assert ran.status == 0, ran.out
    assert {"torch", "prefect", "sqlalchemy"} <= {row["what"] for row in json.loads(ran.out)}


def test_plugins_are_listed_with_their_tasks(alpipe: Alpipe) -> None:
    rows = json.loads(alpipe("plugins", "--json").out)
    assert {"cnn", "detector", "unetpp", "entropy", "labelstudio", "robot", "oracle", "coco"} <= {
        r["name"] for r in rows
    }
    assert all(row["tasks"] != "–" for row in rows)


def test_a_holdout_image_that_is_in_the_pool_already_is_refused(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    voc(tmp_path / "voc", "good", box("a", 1, 1, 9, 9))
    alpipe("-C", project, "import", "voc", tmp_path / "voc", "--as-truth")
    ran = alpipe("-C", project, "import", "voc", tmp_path / "voc", "--holdout")
    one_line(ran, "in the pool already")
    assert json.loads(alpipe("-C", project, "status", "--json").out)["items"]["labelled"] == 0


def test_one_image_labelled_in_two_ways_is_refused_the_second_time(alpipe: Alpipe, tmp_path: Path) -> None:
    alpipe("init", tmp_path / "p", "--task", "classify", "--labels", "a,b", "--annotator", "oracle")
    for name in "ab":
        picture(tmp_path / "set" / name / "x.png", 7)
    ran = alpipe("-C", tmp_path / "p", "import", "folders", tmp_path / "set")
    assert "1 labelled" in ran.out
    assert "labelled otherwise" in ran.out


def test_images_without_a_group_are_counted(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "x.png")
    assert "no group to 1 of 1" in alpipe("-C", project, "add", tmp_path / "images", "--group-regex", "zzz").out


@pytest.mark.parametrize("text", ["path,group\nx.png\n", "group,path\np1\n"])
def test_a_short_line_in_a_group_table_is_named(alpipe: Alpipe, project: Path, tmp_path: Path, text: str) -> None:
    picture(tmp_path / "x.png")
    (tmp_path / "g.csv").write_text(text)
    one_line(alpipe("-C", project, "add", tmp_path / "x.png", "--groups", tmp_path / "g.csv"), "line 2")


def test_a_folder_of_which_nothing_can_be_read_is_a_failure(alpipe: Alpipe, project: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"")
    one_line(alpipe("-C", project, "add", tmp_path / "images"), "can be read")


def test_a_password_in_the_store_url_is_not_shown(alpipe: Alpipe, project: Path) -> None:
    with (project / "alpipe.yaml").open("a") as stream:
        stream.write("store: postgres://user:s3cr3t@host/pool\n")
    ran = alpipe("-C", project, "status")
    one_line(ran, "no URL of a store")
    assert "s3cr3t" not in ran.err


def test_ctrl_c_says_that_nothing_is_lost(alpipe: Alpipe, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alpipe.steps import summary

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(summary, "status", interrupted)
    ran = alpipe("-C", project, "status")
    assert ran.status == 130
    assert "nothing is lost" in ran.err


def test_an_unreachable_server_is_broken_for_the_doctor(
    alpipe: Alpipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpipe("init", tmp_path / "p", "--task", "detect", "--labels", "a")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "s3cr3t")
    ran = alpipe("-C", tmp_path / "p", "doctor", "--json")
    assert ran.status == 1
    assert {row["what"]: row["state"] for row in json.loads(ran.out)}["label studio"] == "broken"
    assert "s3cr3t" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("annotator", "home"),
    [
        ("labelstudio", ".alpipe/labelstudio"),
        ("{name: labelstudio, home: ../shared}", "../shared"),
        ("{name: robot, home: ../shared}", "../shared"),
        ("oracle", ".alpipe/labelstudio"),
    ],
)
def test_the_server_s_commands_use_the_home_that_the_annotator_uses(project: Path, annotator: str, home: str) -> None:
    file = project / "alpipe.yaml"
    text = file.read_text()
    assert "annotator: oracle" in text
    file.write_text(text.replace("annotator: oracle", f"annotator: {annotator}"))
    assert home_of(project) == project / home


def test_deletions_can_be_accepted_in_label_studio_only(
    alpipe: Alpipe, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    picture(tmp_path / "images" / "1.png")
    assert alpipe("-C", project, "add", tmp_path / "images").status == 0
    assert alpipe("-C", project, "pull").status == 0
    one_line(alpipe("-C", project, "pull", "--accept-deletions"), "oracle", "unknown option 'accept_deletions'")
    (project / "alpipe.yaml").write_text((project / "alpipe.yaml").read_text().replace("oracle", "labelstudio"))
    one_line(alpipe("-C", project, "pull", "--accept-deletions"), "no Label Studio runs in")
