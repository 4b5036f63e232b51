"""Says what a folder looks like, for those who named another format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from alpipe.errors import DataError
from alpipe.formats.layout.images import is_image, walk
from alpipe.types import Task

_GLANCE = 2000
"""Files that are looked at before a guess is made."""

MASK_FOLDERS = ("masks", "mask", "labels", "annotations")


def check_task(name: str, task: Task, tasks: frozenset[Task]) -> None:
    """Raises DataError where the format cannot hold labels of the task."""
    if task not in tasks:
        raise DataError(f"format {name} is for {', '.join(sorted(tasks))}, not for {task}")


def require(path: Path) -> Path:
    """The path, made absolute, if it exists. Raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    return path.absolute()


def not_this(path: Path, name: str, expected: str) -> DataError:
    """The error for a path that is not of the format: what was expected, what was found, what to try instead."""
    other = looks_like(path)
    found = f"found {_inventory(path)}" if path.is_dir() else "found another kind of file"
    hint = f"; this looks like {other}: use alpipe import {other}" if other and other != name else ""
    return DataError(f"{path}: not a {name} set: expected {expected}, {found}{hint}")


def looks_like(path: Path) -> str | None:
    """The name of the built-in format that the path most likely has; None where nothing speaks for one."""
    if path.is_file():
        return _file_looks_like(path)
    files = [file.relative_to(path) for file in islice(walk(path), _GLANCE)]
    folders = {part.lower() for file in files for part in file.parts[:-1]}
    suffixes = {file.suffix.lower() for file in files}
    images = [file for file in files if is_image(file)]
    if ".xml" in suffixes and _any(_file_looks_like(path / f) == "voc" for f in files if f.suffix.lower() == ".xml"):
        return "voc"
    for file in (file for file in files if file.suffix.lower() == ".json"):
        if kind := _file_looks_like(path / file):
            return kind
    texts = {file.parent.name.lower() for file in files if file.suffix.lower() == ".txt"}
    named = {"classes.txt", "obj.names", "data.yaml"} & {file.name.lower() for file in files}
    if ("labels" in texts or named) and "masks" not in folders:
        return "yolo"
    if "images" in folders and any(image.parent.name.lower() in MASK_FOLDERS for image in images):
        return "masks"
    if len({image.parent for image in images if len(image.parts) > 1} - {Path("images")}) > 1:
        return "folders"
    return None


def _any(answers: Iterator[bool]) -> bool:
    return any(islice(answers, 3))


def _file_looks_like(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            start = stream.read(4096).decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    except OSError:
        return None
    match path.suffix.lower():
        case ".xml" if "<annotation" in start:
            return "voc"
        case ".json" if start.startswith("{") and re.search(r'"(images|annotations|categories|licenses)"\s*:', start):
            return "coco"
        case ".json" if start.startswith("[") and re.search(r'"(data|annotations|result)"\s*:', start):
            return "labelstudio"
        case ".yaml" | ".yml" if re.search(r"^names\s*:", start, re.MULTILINE):
            return "yolo"
    return None


def _inventory(path: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in islice(path.iterdir(), _GLANCE))
    if not names:
        return "an empty folder"
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
