"""Where a YOLO set keeps its images, label files and names: the Ultralytics and Darknet layouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from alpipe.errors import DataError
from alpipe.formats.layout import guess
from alpipe.formats.layout.images import ImageFinder, is_image, shown, walk, walk_images
from alpipe.types import Refusal

_SPLITS = ("train", "val", "test")
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "names.txt")
_SAME = {"valid": "val", "validation": "val"}
_NO_LABELS = (
    "classes",
    "names",
    "train",
    "val",
    "valid",
    "test",
    "trainval",
    "readme",
    "license",
    "notes",
    "notes.json",
)
"""Stems of text files that hold no labels, in lower case."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A set: its root, the names by index (empty: the set has none), its images in order, what was refused on the way,
    and the subset they were chosen by.
    """

    root: Path
    names: dict[int, str]
    images: tuple[Path, ...]
    refused: tuple[Refusal, ...]
    subset: str | None

    def labels_of(self, image: Path) -> Path | None:
        """The image's label file: where ``images`` on its path is replaced by ``labels``, beside it, or in
        ``ROOT/labels``.
        """
        parts = image.relative_to(self.root).parts
        for i in reversed(range(len(parts) - 1)):
            if parts[i].lower() == "images":
                swapped = self.root.joinpath(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
                if swapped.is_file():
                    return swapped
                break
        for file in (image.with_suffix(".txt"), self.root / "labels" / f"{image.stem}.txt"):
            if file.is_file():
                return file
        return None

    def orphans(self, used: set[Path]) -> Iterator[Path]:
        """Label files that belong to no image: text files in ``labels`` folders or beside other label files."""
        homes = {file.parent for file in used}
        for file in walk(self.root):
            if file.suffix.lower() != ".txt" or file in used or file.stem.lower() in _NO_LABELS:
                continue
            parts = file.relative_to(self.root).parts[:-1]
            if self.subset is not None and not _in_subset(parts, self.subset):
                continue
            if file.parent in homes or "labels" in (part.lower() for part in parts):
                yield file


def find(path: Path, subset: str | None) -> Layout:
    """The set at a folder or dataset YAML. Raises DataError where it has no image, no label file or no such subset."""
    root = guess.require(path)
    if root.is_dir():
        description = next(
            (file for file in sorted(root.glob("*.y*ml")) if "names" in _load(file) or "train" in _load(file)), None
        )
    elif root.suffix.lower() in (".yaml", ".yml"):
        description, root = root, root.parent
    else:
        raise guess.not_this(path, "yolo", "a folder or a dataset YAML")
    document = _load(description) if description else {}
    names = _names_in(document, description) if document.get("names") else _names_beside(root)
    images, refused = _images(root, description, document, subset, path)
    layout = Layout(root, names, tuple(dict.fromkeys(images)), tuple(refused), subset)
    if not layout.images or not any(layout.labels_of(image) for image in layout.images):
        raise guess.not_this(path, "yolo", "images with label files (.txt) beside them or in labels/")
    return layout


def _load(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file}: the dataset YAML cannot be read: {error}") from error
    return document if isinstance(document, dict) else {}


def _names_in(document: dict[str, Any], file: Path | None) -> dict[int, str]:
    match document["names"]:
        case list(names):
            return {i: str(name).strip() for i, name in enumerate(names)}
        case dict(names) if all(str(index).isdigit() for index in names):
            return {int(index): str(name).strip() for index, name in names.items()}
    raise DataError(f"{file}: 'names' is neither a list nor a mapping from index to name")


def _names_beside(root: Path) -> dict[int, str]:
    for file in (root / name for name in _NAMES):
        if file.is_file():
            lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            return {i: line.strip() for i, line in enumerate(lines) if line.strip()}
    return {}


def _images(
    root: Path, description: Path | None, document: dict[str, Any], subset: str | None, path: Path
) -> tuple[list[Path], list[Refusal]]:
    """From the splits of the YAML, else from a list ``SUBSET.txt``, else from the folders."""
    splits = {_SAME.get(key, key): document[key] for key in (*_SPLITS, *_SAME) if document.get(key)}
    wanted = None if subset is None else _SAME.get(subset, subset)
    finder, refused = ImageFinder(root), []
    images: list[Path] = []
    for name in list(splits) if wanted is None else [wanted]:
        given = splits.get(name, [])
        for entry in given if isinstance(given, list) else [given]:
            source = f"{shown(description, root) if description else ''}: {name}"
            place = _place(root, str(document.get("path") or ""), str(entry))
            if place is None:
                refused.append(Refusal(source, f"{str(entry)!r} is not in the set's folder"))
                continue
            listed, faults = _listed(place, finder) if place.is_file() else (list(walk_images(place)), [])
            images += listed
            refused += faults
    if images:
        return images, refused
    for listing in (root / f"{subset}.txt", root / f"{wanted}.txt"):
        if subset is not None and listing.is_file() and listing.parent == root:
            return _listed(listing, finder)
    images = list(walk_images(root))
    if subset is not None and images:
        chosen = [image for image in images if _in_subset(image.relative_to(root).parts[:-1], subset)]
        if not chosen:
            found = {part for image in images for part in image.relative_to(root).parts[:-1] if part != "images"}
            known = ", ".join(sorted(found | set(splits))) or "none"
            raise DataError(f"{path}: there is no subset {subset!r}; known: {known}")
        return chosen, refused
    return images, refused


def _in_subset(folders: Iterable[str], subset: str) -> bool:
    wanted = _SAME.get(subset, subset)
    return any(_SAME.get(folder, folder) == wanted for folder in folders)


def _place(root: Path, base: str, entry: str) -> Path | None:
    """The folder or list that an entry of the YAML means, within the root: YAML files come from other machines, and
    some tools write ``../train/images`` for ``train/images``.
    """
    bases = [root / part for part in ([base, PurePosixPath(base).name] if base else [])] + [root]
    parts = [part for part in PurePosixPath(entry).parts if part not in ("..", "/")]
    for folder in bases:
        for place in (folder / entry, folder.joinpath(*parts)):
            inside = ".." not in place.relative_to(root).parts if place.is_relative_to(root) else False
            if inside and place.exists():
                return place
    return None


def _listed(listing: Path, finder: ImageFinder) -> tuple[list[Path], list[Refusal]]:
    """The images that a text file names, one a line."""
    images, refused = [], []
    lines = listing.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            image = finder.find(line.strip(), [listing.parent])
            if not is_image(image):
                raise DataError(f"{line.strip()!r} is not the name of an image")
            images.append(image)
        except DataError as error:
            refused.append(Refusal(f"{shown(listing, finder.root)}: line {number}", str(error)))
    return images, refused
