"""The loop on a real labelled set: a stand-in answers from the labels, the metric is taken round by round.

    python -m benchmarks.loop bccd --data PATH/TO/bccd                 through a real Label Studio
    python -m benchmarks.loop nuclei --data PATH/TO/nuclei --annotator oracle

Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.sign_digits import photos

GOALS = {"bccd": 0.83, "nuclei": 0.80, "sign_digits": 0.80}
"""What the last round should reach, with some 80 labelled images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(GOALS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the set")
    parser.add_argument("--annotator", choices=["robot", "oracle"], default="robot")
    parser.add_argument("--strategy", default="entropy")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="project folder to keep; default: a temporary one")
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / given.set
        started = time.monotonic()
        try:
            _prepare(given, folder)
            _alpipe(folder, "run", "--rounds", "1" if given.quick else str(given.rounds))
            status = json.loads(_alpipe(folder, "status", "--json", quiet=True))
        finally:
            if given.annotator == "robot":
                _alpipe(folder, "labelstudio", "down", quiet=True)
    rows = [row for row in status["rounds"] if row["value"] is not None]
    result = {
        "name": f"loop {given.set} {given.strategy} seed {given.seed}",
        "value": rows[-1]["value"],
        "goal": GOALS[given.set],
        "metric": rows[-1]["metric"],
        "by_labels": {str(row["labelled"]): round(row["value"], 4) for row in rows},
        "seconds_a_round": [row["seconds"] for row in rows],
        "seconds": round(time.monotonic() - started),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result))


def _prepare(given: argparse.Namespace, folder: Path) -> None:
    init = ["init", str(folder), "--annotator", given.annotator, "--batch", str(given.batch), "--seed", str(given.seed)]
    init += ["--strategy", given.strategy]
    match given.set:
        case "bccd":
            _alpipe(None, *init, "--task", "detect", "--labels", "RBC,WBC,Platelets")
            _alpipe(folder, "import", "voc", str(given.data), "--subset", "test", "--holdout")
            _alpipe(folder, "import", "voc", str(given.data), "--subset", "trainval", "--as-truth")
        case "nuclei":
            _alpipe(None, *init, "--task", "segment", "--labels", "nucleus", "--holdout-share", "0.2")
            _more_holdout(folder)
            _alpipe(folder, "import", "masks", str(given.data), "--as-truth")
        case _:
            _alpipe(None, *init, "--task", "classify", "--labels", ",".join("0123456789"), "--holdout-share", "0.2")
            _more_holdout(folder)
            people = folder / "people.csv"
            _write_people(given.data, people)
            _alpipe(folder, "import", "folders", str(given.data), "--as-truth", "--groups", str(people))
    if given.annotator == "robot":
        _alpipe(folder, "labelstudio", "up")


def _more_holdout(folder: Path) -> None:
    """Has 150 images of the hold-out labelled, for a steadier metric than the default gives."""
    config = folder / "alpipe.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"holdout:\n", "holdout:\n  labels: 150\n", text), encoding="utf-8")


def _write_people(data: Path, table: Path) -> None:
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "group"])
        writer.writerows((photo.path.resolve(), f"person {photo.person}") for photo in photos(data))


def _alpipe(folder: Path | None, *arguments: str, quiet: bool = False) -> str:
    where: list[Any] = [] if folder is None else ["-C", folder]
    command = [sys.executable, "-m", "alpipe.cli.main", *where, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    if not quiet:
        print(done.stdout, end="", flush=True)
    return done.stdout


if __name__ == "__main__":
    main()
