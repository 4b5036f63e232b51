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
    """Each person shows 0 to 9 in the order of the file numbers: a person ends where the digit does not rise."""
    found = sorted((p for p in data.glob("[0-9]/*") if p.is_file()), key=lambda p: int(re.sub(r"\D", "", p.stem)))
    if not found:
        raise SystemExit(f"{data}: no photo there; expected folders 0 to 9 with photos")
    made: list[Photo] = []
    person, last = 0, -1
    for path in found:
        digit = int(path.parent.name)
        person += digit <= last
        last = digit
        made.append(Photo(path, str(digit), person))
    return made


def split(data: Path, seed: int) -> tuple[list[Photo], list[Photo]]:
    """The photos of four fifths of the people, and those of the others: nobody is in both."""
    everyone = photos(data)
    people = np.random.default_rng(seed).permutation(sorted({photo.person for photo in everyone}))
    apart = set(people[: len(people) // 5].tolist())
    return [p for p in everyone if p.person not in apart], [p for p in everyone if p.person in apart]
