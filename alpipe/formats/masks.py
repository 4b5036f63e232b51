"""Mask images: a folder of images beside a folder of masks of the same names.

Layout: ``images/`` beside ``masks/`` (or ``mask/``, ``labels/``, ``annotations/``, ``SegmentationClass/``), anywhere
below the root and as often as wanted (``Tile_1/images`` + ``Tile_1/masks``, …). The mask of ``a.jpg`` is ``a.png`` or
``a_mask.png`` at the same place in the folder of masks. A subset is a folder's name on the way to the image.

What pixels mean:

- One channel of whole numbers (8 or 16 bit, or R = G = B): 0 is background, i is the i-th label: of the set's
  ``classes.txt`` if it has one, else of the project. With ONE label every value but 0 is that label, so that binary
  masks (0 and 255) and instance masks work. A value beyond the labels is refused, and with it the mask.
- Colours, where they are given: each pixel must have exactly one of them; a colour that is not listed is refused, and
  with it the mask. The names ``background``, ``unlabelled`` and ``unlabeled`` stand for no label.
- A palette without colours given: the indices are values, if all of them are at most the number of labels and all
  palettes of the set agree on their colours; else the mask is refused.
- JPEG changes values: with one label the mask is what is at least half bright, else it is refused.

An image without mask, or whose mask was refused, has labels None; a mask of background only is a reviewed image
without object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from alpipe import rle
from alpipe.errors import DataError
from alpipe.formats.layout import guess
from alpipe.formats.layout.images import is_image, shown, walk, walk_images
from alpipe.formats.layout.output import OutputFolder, masks_of
from alpipe.formats.layout.rasters import Coding, Colours, decode, doubt_palettes
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Example, Refusal, Task

TASKS = frozenset({Task.SEGMENT})

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
_MASK_FOLDERS = (*guess.MASK_FOLDERS, "segmentationclass")
_ENDINGS = ("_mask", "-mask")


def read(path: Path, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    """The set's images with their masks; see the module.

    Raises DataError where no folder of images has one of masks beside it, where nothing is of the subset, and for two
    labels of one colour.
    """
    guess.check_task("masks", request.task, TASKS)
    root = guess.require(path)
    _check_colours(request.colours)
    pairs = _folder_pairs(root) if root.is_dir() else []
    if not pairs:
        raise guess.not_this(path, "masks", "images/ with masks/ beside it")
    found = [(image, images, masks) for images, masks in pairs for image in walk_images(images)]
    if request.subset is not None:
        found = [pair for pair in found if request.subset in pair[0].relative_to(root).parts[:-1]]
        if not found:
            raise DataError(f"{path}: no image lies in a folder named {request.subset!r}")
    return _read(root, found, request)


def _check_colours(colours: Colours) -> None:
    by_colour: dict[tuple[int, int, int], str] = {}
    for name, colour in colours:
        if by_colour.setdefault(colour, name) != name:
            hexed = "#{:02X}{:02X}{:02X}".format(*colour)
            raise DataError(f"the colour {hexed} is given to both {by_colour[colour]!r} and {name!r}")


def _folder_pairs(root: Path) -> list[tuple[Path, Path]]:
    """Each folder of images with the folder of masks beside it."""
    folders = sorted({folder for file in walk_images(root) for folder in file.relative_to(root).parents})
    pairs: list[tuple[Path, Path]] = []
    for folder in (root / folder for folder in folders if folder.name.lower() in _IMAGE_FOLDERS):
        if any(folder.is_relative_to(images) for images, _ in pairs):
            continue
        beside = {entry.name.lower(): entry for entry in folder.parent.iterdir() if entry.is_dir()}
        for name in _MASK_FOLDERS:
            if name in beside and next(walk_images(beside[name]), None):
                pairs.append((folder, beside[name]))
                break
    return pairs


def _read(root: Path, found: list[tuple[Path, Path, Path]], request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    masks = {folder: _by_place(folder) for folder in {folder for _, _, folder in found}}
    files = [file for places in masks.values() for several in places.values() for file in several]
    names = _names(root) or request.classes
    coding = Coding(names, request.colours, "" if request.colours else doubt_palettes(files, names))
    used: set[Path] = set()
    for image, images, folder in found:
        places = masks[folder]
        place = image.relative_to(images).with_suffix("")
        several = places.get(place) or [
            file for ending in _ENDINGS for file in places.get(place.with_name(place.name + ending), [])
        ]
        used.update(several)
        yield from _read_mask(root, image, several, coding)
    subset = request.subset
    for file in sorted(set(files) - used):
        if subset is None or subset in file.relative_to(root).parts[:-1]:
            yield Refusal(shown(file, root), "there is no image for this mask")


def _read_mask(root: Path, image: Path, files: list[Path], coding: Coding) -> Iterator[LabelledFile | Refusal]:
    if not files:
        yield LabelledFile(image, None, shown(image, root))
        return
    source = shown(files[0], root)
    if len(files) > 1:
        listed = ", ".join(file.name for file in files)
        yield Refusal(source, f"image {image.name} has {len(files)} masks ({listed}), expected one")
        yield LabelledFile(image, None, source)
        return
    try:
        labels, size = decode(files[0], coding)
    except DataError as error:
        yield Refusal(source, str(error))
        yield LabelledFile(image, None, source)
    else:
        yield LabelledFile(image, labels, source, size)


def _by_place(folder: Path) -> dict[Path, list[Path]]:
    places: dict[Path, list[Path]] = {}
    for file in walk(folder):
        if is_image(file):
            places.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
    return places


def _names(root: Path) -> tuple[str, ...]:
    file = root / "classes.txt"
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the names of the labels cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def read_colours(path: Path) -> Colours:
    """Labels with their colours from a JSON file: ``{"water": "#E2A929", …}``, or ``{"classes": [{"title": "Water",
    "color": "#E2A929"}, …]}`` as some tools write it (``name`` and ``colour`` do as well).

    Raises DataError for anything else.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the colours cannot be read: {error}") from error
    pairs: list[tuple[Any, Any]]
    match document:
        case {"classes": list(entries)} if all(isinstance(entry, dict) for entry in entries):
            pairs = [(e.get("title", e.get("name")), e.get("color", e.get("colour"))) for e in entries]
        case dict():
            pairs = list(document.items())
        case _:
            pairs = []
    if not pairs:
        raise DataError(f'{path}: holds no colours; expected {{"label": "#RRGGBB", …}}')
    colours = []
    for name, text in pairs:
        if not isinstance(name, str) or not isinstance(text, str) or not re.fullmatch(r"#?[0-9A-Fa-f]{6}", text):
            raise DataError(f"{path}: {name!r} has the colour {text!r}, expected a text like '#E2A929'")
        value = int(text.removeprefix("#"), 16)
        colours.append((name, (value >> 16, value >> 8 & 255, value & 255)))
    _check_colours(tuple(colours))
    return tuple(colours)


def write(examples: Iterable[Example], path: Path, task: Task, classes: tuple[str, ...]) -> int:
    """Writes ``images/``, ``masks/`` (8-bit PNG, value i is the i-th label) and ``classes.txt``.

    Where masks overlap, the later one is kept. Raises DataError for more than 255 labels.
    """
    guess.check_task("masks", task, TASKS)
    if len(classes) > 255:
        raise DataError(f"an 8-bit mask holds 255 labels, not {len(classes)}; export as coco")
    output, count = OutputFolder(path), 0
    output.write_text("classes.txt", "".join(f"{name}\n" for name in classes))
    (path / "masks").mkdir()
    for example in examples:
        masks = masks_of(example, classes)
        name = output.copy(example.item)
        values = rle.class_map(masks, classes, example.item.height, example.item.width)
        Image.fromarray(values).save(path / "masks" / f"{Path(name).stem}.png")
        count += 1
    return count
