"""One folder a class: ``ROOT/CLASS/image``, or with splits ``ROOT/SUBSET/CLASS/image``.

Folders within a class's folder are taken with it. Images that lie beside the class folders have labels None; so have
those in a folder named ``_empty``, which is where ``write`` puts images that were reviewed and have no class (there is
no value for them in a classification but the absence of a label).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from alpipe.errors import DataError
from alpipe.formats.layout import guess
from alpipe.formats.layout.images import is_image, shown, walk, walk_images
from alpipe.formats.layout.output import OutputFolder, class_of
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Example, ImageClass, Refusal, Task

TASKS = frozenset({Task.CLASSIFY})

EMPTY = "_empty"
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def read(path: Path, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    """The images with the name of their folder as the class; files that are no image are refused.

    Raises DataError where no folder holds an image, where the subset does not exist, and for a set with splits when no
    subset is named.
    """
    guess.check_task("folders", request.task, TASKS)
    root = guess.require(path)
    if not root.is_dir():
        raise guess.not_this(path, "folders", "a folder with one folder a class")
    folders = _subfolders(root)
    if request.subset is not None:
        if request.subset not in {folder.name for folder in folders}:
            known = ", ".join(folder.name for folder in folders) or "none"
            raise DataError(f"{path}: there is no subset {request.subset!r}; folders: {known}")
        root = root / request.subset
        folders = _subfolders(root)
    elif (splits := [folder.name for folder in folders if _is_split(folder)]) and len(splits) == len(folders):
        raise DataError(f"{path}: this set has splits; name one by --subset: {', '.join(splits)}")
    if not any(next(walk_images(folder), None) for folder in folders):
        raise guess.not_this(root, "folders", "folders named as the classes, with images")
    if not set(request.classes) & {folder.name for folder in folders} and guess.looks_like(root) != "folders":
        raise guess.not_this(root, "folders", f"folders named as the classes ({', '.join(request.classes)})")
    return _read(root, folders)


def _subfolders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")))


def _is_split(folder: Path) -> bool:
    """Whether the folder is named as a split is, and holds folders but no image."""
    if folder.name.lower() not in _SPLITS:
        return False
    entries = list(folder.iterdir())
    return any(entry.is_dir() for entry in entries) and not any(is_image(entry) for entry in entries)


def _read(root: Path, folders: list[Path]) -> Iterator[LabelledFile | Refusal]:
    for image in sorted(entry for entry in root.iterdir() if is_image(entry)):
        yield LabelledFile(image, None, image.name)
    for folder in folders:
        labels = None if folder.name == EMPTY else ImageClass(folder.name)
        for file in walk(folder):
            if is_image(file):
                yield LabelledFile(file, labels, shown(file, root))
            else:
                yield Refusal(shown(file, root), "the file's name is not that of an image")


def write(examples: Iterable[Example], path: Path, task: Task, classes: tuple[str, ...]) -> int:
    """Writes ``CLASS/image``. Raises DataError for a class that cannot be the name of a folder."""
    guess.check_task("folders", task, TASKS)
    for name in classes:
        if not name or name.startswith((".", EMPTY, "__MACOSX")) or any(c in name for c in "/\\:\0"):
            raise DataError(f"label {name!r} cannot be the name of a folder; export as coco or labelstudio")
    output, count = OutputFolder(path), 0
    for example in examples:
        output.copy(example.item, class_of(example, classes) or EMPTY)
        count += 1
    return count
