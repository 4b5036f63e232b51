"""Finds the images of a labelled set, never leaving the set's folder on the word of a label file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from PIL import ExifTags, Image

from alpipe.errors import DataError
from alpipe.protocols import LabelledFile
from alpipe.types import Refusal

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
    | {".pgm", ".ppm", ".pbm", ".pnm", ".tga"}
)
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


def shown(path: Path, root: Path) -> str:
    """The path as refusals name it: relative to the set's root."""
    try:
        return path.relative_to(root).as_posix() or path.name
    except ValueError:
        return path.as_posix()


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder in the order of their names; links are followed, each real folder is seen once.

    Names that begin with a dot and ``__MACOSX`` (the shadows that macOS puts into archives) are no part of a set.
    """
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__MACOSX")
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def is_image(path: Path) -> bool:
    """Whether the name says that the file is an image; the file is not opened."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def walk_images(root: Path) -> Iterator[Path]:
    """All images below a folder."""
    return (path for path in walk(root) if is_image(path))


def once(results: Iterable[LabelledFile | Refusal]) -> Iterator[LabelledFile | Refusal]:
    """The results as they come, but what is said of an image for the second time is refused."""
    seen: dict[Path, str] = {}
    for result in results:
        if not isinstance(result, LabelledFile):
            yield result
        elif result.image in seen:
            reason = f"the image {result.image.name} was taken before, from {seen[result.image]}"
            yield Refusal(result.source, reason)
        else:
            seen[result.image] = result.source
            yield result


def displayed_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as displayed, from the file's header alone. Raises DataError."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"the size of image {path.name} cannot be read: {error}") from error
    return (height, width) if turned else (width, height)


class ImageFinder:
    """Finds images by the names that label files give them, within one root folder.

    A name is tried as a path relative to the given folders and to the root; failing that, by its last part: label
    files often hold the path on the machine where they were made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str, folders: Sequence[Path] = ()) -> Path:
        """The image of that name. Raises DataError where there is none, or where several have it."""
        path = PurePosixPath(name.replace("\\", "/"))
        outside = ".." in path.parts or path.is_absolute() or re.match(r"[A-Za-z]:", str(path)) is not None
        if not path.name or path.name == "..":
            raise DataError(f"{name!r} is no name of an image")
        if not outside:
            for folder in (*folders, self.root):
                if _is_file(folder / path):
                    return folder / path
        elif ".." not in path.parts and Path(path).is_relative_to(self.root) and _is_file(Path(path)):
            return Path(path)
        for folder in (*folders, self.root):
            if _is_file(folder / path.name):
                return folder / path.name
        found = self._index().get(path.name.casefold(), [])
        note = " (paths that leave the set's folder are not followed)" if outside else ""
        return self._only(found, f"image {name!r} is not in the set{note}", name)

    def find_stem(self, stem: str, folders: Iterable[Path]) -> Path | None:
        """The image in one of the folders whose name without its suffix is ``stem``; None where there is none.
        Raises DataError where several have it.
        """
        found = [path for path in self._index().get(_STEM + stem.casefold(), []) if path.parent in folders]
        return self._only(found, "", stem) if found else None

    def _only(self, found: list[Path], none: str, name: str) -> Path:
        if not found:
            raise DataError(none)
        if len(exact := [path for path in found if name in (path.name, path.stem)]) == 1:
            return exact[0]
        if len(found) > 1:
            listed = ", ".join(shown(path, self.root) for path in found[:3])
            raise DataError(f"{name!r} may be any of {len(found)} images ({listed}{', …' if len(found) > 3 else ''})")
        return found[0]

    def _index(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for path in walk_images(self.root):
                self._by_name.setdefault(path.name.casefold(), []).append(path)
                self._by_name.setdefault(_STEM + path.stem.casefold(), []).append(path)
        return self._by_name


_STEM = "stem/"
"""Marks the stems in the index: no file name holds a slash."""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or one that holds a NUL
        return False
