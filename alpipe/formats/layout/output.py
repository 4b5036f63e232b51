"""Writes a labelled set into a new folder, and checks what is to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from alpipe.errors import DataError
from alpipe.types import Boxes, Example, ImageClass, Item, Masks, is_empty


class OutputFolder:
    """A new or empty folder that takes copies of images under names without clash.

    Raises DataError where the folder holds something already, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DataError(f"{path}: is not empty, and nothing is overwritten; name a new folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{path}: the folder cannot be made: {error.strerror}") from error
        self.path = path
        self._stems: set[str] = set()

    def copy(self, item: Item, folder: str = "images") -> str:
        """Copies the item's file unchanged and returns its name in the folder.

        The name is the file's own; where another image has the same one but for its suffix, the key stands before it.
        """
        source = item.path
        name = source.name.lstrip(".") or source.name
        if Path(name).stem.casefold() in self._stems:
            name = f"{item.key}-{name}"
        if Path(name).stem.casefold() in self._stems:
            raise DataError(f"item {item.key} is given twice; give each item once")
        self._stems.add(Path(name).stem.casefold())
        target = self.path / folder
        try:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
        except OSError as error:
            raise DataError(f"item {item.key}: {source} cannot be copied: {error.strerror}") from error
        return name

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the set (UTF-8), its folders too."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def boxes_of(example: Example, classes: tuple[str, ...]) -> Boxes:
    """The example's boxes. Raises DataError for another kind of label or a name that is not among the classes."""
    if is_empty(example.labels):
        return Boxes.none()
    if not isinstance(example.labels, Boxes):
        raise _wrong_kind(example, "boxes")
    _check_names(example, set(example.labels.names), classes)
    return example.labels


def masks_of(example: Example, classes: tuple[str, ...]) -> Masks:
    """The example's masks, all of the image's size. Raises DataError as ``boxes_of``, and for another size."""
    if is_empty(example.labels):
        return Masks({})
    if not isinstance(example.labels, Masks):
        raise _wrong_kind(example, "masks")
    _check_names(example, set(example.labels.by_name), classes)
    item = example.item
    for mask in example.labels.by_name.values():
        if (mask.width, mask.height) != (item.width, item.height):
            raise DataError(
                f"item {item.key}: masks of {mask.width}×{mask.height} for an image of {item.width}×{item.height}"
            )
    return example.labels


def class_of(example: Example, classes: tuple[str, ...]) -> str | None:
    """The example's class; None for an image that was reviewed and has none. Raises DataError as ``boxes_of``."""
    if is_empty(example.labels):
        return None
    if not isinstance(example.labels, ImageClass):
        raise _wrong_kind(example, "a class")
    _check_names(example, {example.labels.name}, classes)
    return example.labels.name


def _wrong_kind(example: Example, expected: str) -> DataError:
    kind = type(example.labels).__name__
    return DataError(f"item {example.item.key}: its labels are {kind}, but this task exports {expected}")


def _check_names(example: Example, names: set[str], classes: tuple[str, ...]) -> None:
    if unknown := names - set(classes):
        raise DataError(
            f"item {example.item.key}: label {', '.join(sorted(unknown))} is not among {', '.join(classes)}"
        )
