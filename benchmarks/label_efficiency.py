"""Labels saved on the real sets: `alpipe bench` with the arms in benchmarks/arms, one command a set.

    python -m benchmarks.label_efficiency bccd --data PATH/TO/bccd --folder RESULTS/bccd
    python -m benchmarks.label_efficiency nuclei --data PATH/TO/nuclei --folder RESULTS/nuclei --quick

Killed or stopped, the same command goes on. Test sets: BCCD its own; nuclei a fifth of each style of image (dark,
colour, light); sign digits a fifth of the people; aerial cars, in tiles, one of three
videos. Further options are those of `alpipe bench`.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from alpipe.formats import coco
from alpipe.types import Example, Task
from benchmarks import detection_sets
from benchmarks.sign_digits import photos, split

SETS = {
    "aerial_cars": ("detect", "car"),
    "bccd": ("detect", "RBC,WBC,Platelets"),
    "nuclei": ("segment", "nucleus"),
    "sign_digits": ("classify", ",".join("0123456789")),
}
QUICK = ("--seeds", "2", "--rounds", "2", "--no-full")
VIDEO = r"images/(\d+x\d+-\d+-\d+-)"
"""What is one video among tiles: a place in the frames of a sequence, known by their size."""

DARK, COLOURED = 100, 30
"""Mean brightness and saturation (0 to 255) that part the styles of nuclei images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the set")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the project and the results")
    parser.add_argument("--arms", type=Path, help="default: the set's file in benchmarks/arms")
    parser.add_argument("--quick", action="store_true", help="two seeds, two rounds, no ceiling: to see that it works")
    given, more = parser.parse_known_args()
    project, ready = given.folder / "project", given.folder / "ready"
    if not ready.exists():
        _prepare(given.set, given.data, project)
        ready.touch()
    arms = given.arms or Path(__file__).parent / "arms" / f"{given.set}.yaml"
    out = given.folder / ("quick" if given.quick else "bench")
    bench = _command("-C", project, "bench", "--arms", arms, "--out", out, *(QUICK if given.quick else ()), *more)
    os.execv(bench[0], bench)  # noqa: S606  # in place of this process, so that what stops it stops the bench


def _prepare(name: str, data: Path, project: Path) -> None:
    """The project with its hold-out. Made again where an earlier run was stopped: each command may be repeated."""
    task, labels = SETS[name]
    if not (project / "alpipe.yaml").exists():
        _alpipe("init", project, "--task", task, "--labels", labels, "--annotator", "oracle", "--holdout-share", "0")
    match name:
        case "bccd":
            _alpipe("-C", project, "import", "voc", data, "--subset", "test", "--holdout")
            _alpipe("-C", project, "import", "voc", data, "--subset", "trainval", "--as-truth")
        case "aerial_cars":
            learn, test = _tiles(data, project.parent / "tiles")
            _alpipe("-C", project, "import", "coco", test, "--holdout", "--group-regex", detection_sets.TESTED)
            _alpipe("-C", project, "import", "coco", learn, "--as-truth", "--group-regex", VIDEO)
        case "nuclei":
            _alpipe("-C", project, "add", "--holdout", *_fifth_of_each_style(data / "images"))
            _alpipe("-C", project, "import", "masks", data, "--as-truth")
        case _:
            people = project / "people.csv"
            _write_people(data, people)
            _, held_out = split(data, seed=0)
            _alpipe("-C", project, "add", "--holdout", "--groups", people, *(photo.path for photo in held_out))
            _alpipe("-C", project, "import", "folders", data, "--as-truth", "--groups", people)


def _tiles(data: Path, into: Path) -> tuple[Path, Path]:
    """COCO sets of tiles: all frames of two videos to learn from, every fourth frame of a third to test on."""
    sides = into / "learn", into / "test"
    found: tuple[list[Example], list[Example]] = [], []
    for sequence, frames in detection_sets.aerial_sequences(data).items():
        tested = sequence.startswith(detection_sets.TESTED)
        for frame in frames[:: detection_sets.EVERY if tested else 1]:
            found[tested].extend(detection_sets.tiles(frame, detection_sets.TILE, into / "cut"))
    for side, examples in zip(sides, found, strict=True):
        coco.write(examples, side, Task.DETECT, ("car",))
    return sides


def _fifth_of_each_style(images: Path) -> list[Path]:
    styles: dict[str, list[Path]] = {}
    for path in sorted(images.glob("*.png")):
        styles.setdefault(style_of(path), []).append(path)
    print(", ".join(f"{len(paths)} {style}" for style, paths in sorted(styles.items())))
    rng = np.random.default_rng(0)
    chosen = []
    for _, paths in sorted(styles.items()):
        chosen += [paths[at] for at in sorted(rng.permutation(len(paths))[: round(len(paths) / 5)])]
    return chosen


def style_of(path: Path) -> str:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SystemExit(f"{path}: cannot be read")
    _, saturation, value = cv2.split(cv2.cvtColor(picture, cv2.COLOR_BGR2HSV))
    if saturation.mean() > COLOURED:
        return "colour"
    return "dark" if value.mean() < DARK else "light"


def _write_people(data: Path, table: Path) -> None:
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "group"])
        writer.writerows((photo.path.resolve(), f"person {photo.person}") for photo in photos(data))


def _alpipe(*arguments: object) -> None:
    done = subprocess.run(_command(*arguments), check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "alpipe.cli.main", *map(str, arguments)]


if __name__ == "__main__":
    main()
