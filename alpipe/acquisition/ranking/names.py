"""The order of files by name, as people read it, and the numbers of frames."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(\d+)")
_FRAME = re.compile(r"^(.*?)(\d+)\D*$", re.DOTALL)


def natural(name: str) -> tuple[tuple[str, int], ...]:
    """A key to sort by in which numbers are numbers: frame 9 comes before frame 10."""
    parts = _NUMBER.split(name)
    return tuple((text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "-1"], strict=True))


def frame(uri: str) -> tuple[str, int] | None:
    """What stands before the last number in a file's name, its folder included, and that number; None without one."""
    folder, slash, name = uri.rpartition("/")
    found = _FRAME.match(name.rpartition(".")[0] or name)
    return (folder + slash + found[1], int(found[2])) if found else None
