"""Which files may be images, under the paths that somebody gave."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from alpipe.errors import DataError
from alpipe.types import Refusal

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("avif", "bmp", "dds", "dib", "gif", "heic", "heif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "jpx"),
        *("pbm", "pcx", "pgm", "png", "pnm", "ppm", "psd", "qoi", "sgi", "tga", "tif", "tiff", "webp"),
    )
)
"""File names that end so are tried; some formats need a plug-in of Pillow's, and are refused by name without it."""


class Found(NamedTuple):
    """Files that may be images (absolute, in a stable order), how many files were left out for their suffix, and the
    folders that could not be listed.
    """

    files: tuple[Path, ...]
    ignored: int
    refused: tuple[Refusal, ...] = ()


def find_images(paths: Iterable[str | os.PathLike[str]]) -> Found:
    """The files under folders (searched deeply), files, and globs (``**`` too) that may be images by their suffix.

    Hidden files and folders are skipped. A file that is named itself may also have no suffix. Raises DataError for a
    path that does not exist, a glob that nothing matches, and a path under which nothing may be an image.
    """
    files: dict[Path, None] = {}
    refused: list[Refusal] = []
    ignored: set[Path] = set()
    for given in paths:
        before = len(files) + len(refused)
        known = False
        for path in _expanded(given):
            for file in [path] if not path.is_dir() else _walk(path, refused):
                if file.suffix.lower() in SUFFIXES or (file is path and not file.suffix):
                    known = known or file in files
                    files[file] = None
                else:
                    ignored.add(file)
        if len(files) + len(refused) == before and not known:
            raise DataError(f"{os.fspath(given)}: no file that may be an image (.jpg, .png, .tif, …)")
    return Found(tuple(files), len(ignored), tuple(refused))


def absolute(path: Path) -> Path:
    """The whole path, with links left as people named them."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links


def _expanded(given: str | os.PathLike[str]) -> list[Path]:
    path = absolute(Path(given).expanduser())
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  # absolute
        if matches:
            return [match for match in matches if not match.is_dir()] or matches
        raise DataError(f"{os.fspath(given)}: nothing matches")
    raise DataError(f"{os.fspath(given)}: there is no such file or folder")


def _walk(folder: Path, refused: list[Refusal]) -> list[Path]:
    """All files below the folder. Links to folders are followed, but no folder is entered twice."""
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()

    def stumbled(error: OSError) -> None:
        refused.append(Refusal(str(error.filename), f"the folder cannot be listed: {error.strerror}"))

    for here, folders, names in os.walk(folder, followlinks=True, onerror=stumbled):
        status = os.stat(here)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(here, name) for name in sorted(names) if not name.startswith(".")]
    return found
