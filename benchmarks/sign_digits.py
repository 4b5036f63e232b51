"""The sign language digits, by person."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS = tuple("0123456789")


class Photo(NamedTuple):
    """A photo of a hand that shows ``digit``; ``person`` numbers the people."""

    path: Path
    digit: str
    person: int


def photos(data: Path) -> list[Photo]:
    """Each person shows 0 to 9 in the order of the file numbers: a person ends where the digit does not rise. A few
    showed them in another order or one of them twice: incomplete neighbours that together are one person's worth are
    taken for one.
    """
    found = sorted((p for p in data.glob("[0-9]/*") if p.is_file()), key=lambda p: int(re.sub(r"\D", "", p.stem)))
    if not found:
        raise SystemExit(f"{data}: no photo there; expected folders 0 to 9 with photos")
    runs: list[list[Path]] = []
    for path in found:
        if runs and path.parent.name > runs[-1][-1].parent.name:
            runs[-1].append(path)
        else:
            runs.append([path])
    people: list[list[Path]] = []
    for run in runs:
        if people and max(len(people[-1]), len(run)) < len(DIGITS) and len(people[-1]) + len(run) <= len(DIGITS) + 1:
            people[-1] += run
        else:
            people.append(run)
    return [Photo(path, path.parent.name, person) for person, paths in enumerate(people) for path in paths]


def split(data: Path, seed: int) -> tuple[list[Photo], list[Photo]]:
    """The photos of four fifths of the people, and those of the others: nobody is in both."""
    everyone = photos(data)
    people = np.random.default_rng(seed).permutation(sorted({photo.person for photo in everyone}))
    apart = set(people[: len(people) // 5].tolist())
    return [p for p in everyone if p.person not in apart], [p for p in everyone if p.person in apart]
