"""COCO: one JSON file with images, categories and annotations.

Layouts: the JSON file itself, or a folder with ``annotations/*.json``, ``*.json`` or ``SPLIT/_annotations.coco.json``.
A subset is the JSON of that name (``instances_NAME.json``, ``NAME.json``, ``NAME/_annotations.coco.json``). Images are
looked for by ``file_name`` beside the JSON, in the root, in ``images/`` and in folders named as the split.

An image without annotation is a reviewed one without object. ``bbox`` is x, y, width, height in pixels; a box that
people turned has its four corners as segmentation, and is read by them. For detection crowd regions are refused, since
they bound no single object; for segmentation they are kept. Segmentations are polygons or run lengths, compressed or
not; those of one category become one mask. Where masks overlap, the category that appears later in the file lies on
top. A classification takes the one category of an image's annotations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpipe import rle
from alpipe.boxes import as_rectangle, sides
from alpipe.errors import DataError
from alpipe.formats.layout import guess
from alpipe.formats.layout.images import ImageFinder, displayed_size, once, shown
from alpipe.formats.layout.output import OutputFolder, boxes_of, class_of, masks_of
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.shapes.outlines import bounding_box, fill, from_counts
from alpipe.shapes.parts import Part, box, number, take, to_labels
from alpipe.types import Example, FloatArray, Refusal, Rle, Task

TASKS = frozenset({Task.DETECT, Task.SEGMENT, Task.CLASSIFY})
KEEPS_ROTATION = True

_OTHER = ("captions_", "image_info_", "panoptic_", "stuff_")
"""Beginnings of the names of COCO's files for other tasks."""


class _Set(NamedTuple):
    file: Path
    root: Path
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


def read(path: Path, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    """The set's images with their labels; see the module.

    Raises DataError where no file can be read as COCO, or none has the subset's name.
    """
    root = guess.require(path)
    files = _files(root, request.subset)
    if not root.is_dir():
        root = root.parent.parent if root.parent.name == "annotations" else root.parent
    refused: list[Refusal] = []
    while files:
        file = files.pop(0)
        try:
            return once(_read_files(refused, _load(file, root), files, request))
        except DataError as error:
            refused.append(Refusal(shown(file, root), str(error)))
    faults = f" ({'; '.join(f'{source}: {reason}' for source, reason in refused[:3])})" if refused else ""
    raise DataError(f"{guess.not_this(path, 'coco', 'a JSON with images, annotations and categories')}{faults}")


def _files(path: Path, subset: str | None) -> list[Path]:
    if path.is_file():
        if subset is not None and subset not in _subset_names(path):
            raise DataError(f"{path}: is one JSON file; name its folder to choose subset {subset!r}")
        return [path]
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json", "*/annotations.json")
    found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    found = [file for file in found if not file.name.startswith((".", *_OTHER))]
    # COCO's own folders hold the same images once more under person_keypoints_*.
    found = [file for file in found if file.name.startswith("instances_")] or found
    if subset is None or not found:
        return found
    chosen = [file for file in found if subset in _subset_names(file)]
    if not chosen:
        known = sorted({min(_subset_names(file), key=len) for file in found})
        raise DataError(f"{path}: there is no subset {subset!r}; known: {', '.join(known)}")
    return chosen


def _subset_names(file: Path) -> set[str]:
    if file.name == "_annotations.coco.json" or (file.name == "annotations.json" and file.parent.name != "annotations"):
        return {file.parent.name}
    return {file.stem, file.stem.removeprefix("instances_")}


def _load(file: Path, root: Path) -> _Set:
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the JSON cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise DataError("the JSON has no list of images")
    lists = []
    for key in ("annotations", "categories"):
        if not isinstance(value := document.get(key), list):
            raise DataError(f"the JSON has no list of {key}")
        lists.append(value)
    return _Set(file, root, document["images"], *lists)


def _read_files(
    refused: list[Refusal], first: _Set, rest: list[Path], request: ReadRequest
) -> Iterator[LabelledFile | Refusal]:
    yield from refused
    finder = ImageFinder(first.root)
    yield from _read_set(first, finder, request.task)
    for file in rest:
        try:
            loaded = _load(file, first.root)
        except DataError as error:
            yield Refusal(shown(file, first.root), str(error))
        else:
            yield from _read_set(loaded, finder, request.task)


def _read_set(coco: _Set, finder: ImageFinder, task: Task) -> Iterator[LabelledFile | Refusal]:
    file = shown(coco.file, coco.root)
    names, refused = _names(coco.categories, file)
    images: dict[Any, dict[str, Any]] = {}
    for position, entry in enumerate(coco.images, start=1):
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, int | str) or not isinstance(entry.get("file_name"), str):
            refused.append(Refusal(f"{file}: image entry {position}", "the image has no id or no file_name"))
        elif key in images:
            refused.append(Refusal(f"{file}: image {key}", "the id is given twice; the first is taken"))
        else:
            images[key] = entry
    by_image: dict[Any, list[tuple[str, dict[str, Any]]]] = {key: [] for key in images}
    for position, entry in enumerate(coco.annotations, start=1):
        if not isinstance(entry, dict):
            refused.append(Refusal(f"{file}: annotation entry {position}", "the annotation is no object"))
            continue
        source, key = f"{file}: annotation {entry.get('id', f'entry {position}')}", entry.get("image_id")
        if not isinstance(key, int | str) or key not in by_image:
            refused.append(Refusal(source, f"there is no image with the id {key!r}"))
        else:
            by_image[key].append((source, entry))
    yield from refused
    folders = _image_folders(coco)
    for key, entry in images.items():
        yield from _read_image(f"{file}: image {key}", entry, by_image.pop(key), names, folders, finder, task)


def _names(categories: list[Any], file: str) -> tuple[dict[Any, str], list[Refusal]]:
    names, refused = {}, []
    for position, entry in enumerate(categories, start=1):
        key, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if isinstance(key, int | str) and isinstance(name, str) and name.strip():
            names[key] = name.strip()
        else:
            refused.append(Refusal(f"{file}: category entry {position}", "the category has no id or no name"))
    return names, refused


def _image_folders(coco: _Set) -> list[Path]:
    """Where to look for the images, nearest first."""
    beside, root = coco.file.parent, coco.root
    names = sorted(_subset_names(coco.file))
    folders = [beside, beside / "images", root / "images"]
    folders += [base / name for name in names for base in (root, root / "images")]
    folders += [root / name / "images" for name in names]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _read_image(
    source: str,
    entry: dict[str, Any],
    annotations: list[tuple[str, dict[str, Any]]],
    names: dict[Any, str],
    folders: Sequence[Path],
    finder: ImageFinder,
    task: Task,
) -> Iterator[LabelledFile | Refusal]:
    labels = size = None
    try:
        image = finder.find(entry["file_name"], folders)
        size = _size(entry)
        if task is Task.SEGMENT and size is None and annotations:
            size = displayed_size(image)
    except DataError as error:
        yield Refusal(source, str(error))
        return
    parts, refused = take(annotations, partial(_part, names=names, task=task, size=size))
    try:
        labels = to_labels(task, parts, complete=not refused)
    except DataError as error:
        refused.append(Refusal(source, str(error)))
    yield from refused
    yield LabelledFile(image, labels, source, size)


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if type(width) is int and type(height) is int and width > 0 and height > 0:  # a bool is an int, but of no type int
        return width, height
    return None


def _part(entry: dict[str, Any], names: dict[Any, str], task: Task, size: tuple[int, int] | None) -> Part:
    key = entry.get("category_id")
    name = names.get(key) if isinstance(key, int | str) else None
    if name is None:
        raise DataError(f"there is no category with the id {key!r}")
    if task is Task.CLASSIFY:
        return Part(name, None)
    if task is Task.SEGMENT:
        return Part(name, _mask(entry.get("segmentation"), *(size or (0, 0))))
    if entry.get("iscrowd"):
        raise DataError(f"a crowd region of {name} bounds no single object")
    bounds = entry.get("bbox")
    if not isinstance(bounds, list) or len(bounds) != 4:
        raise DataError(f"the annotation ({name}) has no bbox of 4 numbers")
    x, y, width, height = (number(value, "a number of the bbox") for value in bounds)
    return Part(name, box(x, y, x + width, y + height), _turned(entry.get("segmentation")))


def _turned(segmentation: Any) -> FloatArray | None:
    """The corners of a box that was turned, which COCO can say by its outline alone; None for any other outline."""
    match segmentation:
        case [[*values]] if len(values) == 8 and all(isinstance(value, int | float) for value in values):
            return as_rectangle(np.array(values, np.float64).reshape(4, 2))
    return None


def _mask(segmentation: Any, width: int, height: int) -> Rle:
    match segmentation:
        case None | []:
            raise DataError("the annotation has no segmentation, at most a box")
        case list():
            return fill(segmentation, width, height)
        case {"counts": counts, "size": [int(rows), int(columns)]}:
            if (columns, rows) != (width, height):
                raise DataError(f"the mask is of {columns}×{rows} pixels, the image entry says {width}×{height}")
            return from_counts(counts, width, height)
    raise DataError("the segmentation is neither a list of polygons nor run lengths with a size")


def write(examples: Iterable[Example], path: Path, task: Task, classes: tuple[str, ...]) -> int:
    """Writes ``images/`` and ``annotations.json``. Boxes come back exactly, turned ones by their
    corners; a segmentation is one compressed run-length
    mask a class; a class is an annotation whose box is the whole image.
    """
    output = OutputFolder(path)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids = {name: index for index, name in enumerate(classes, start=1)}
    for example in examples:
        found = list(_annotations(example, task, classes))
        item = example.item
        name = output.copy(item)
        images.append({"id": len(images) + 1, "file_name": name, "width": item.width, "height": item.height})
        for label, rest in found:
            head = {"id": len(annotations) + 1, "image_id": len(images), "category_id": ids[label], "iscrowd": 0}
            annotations.append(head | rest)
    document = {
        "info": {"description": f"{task} labels exported by alpipe"},
        "categories": [{"id": index, "name": name} for name, index in ids.items()],
        "images": images,
        "annotations": annotations,
    }
    output.write_text("annotations.json", json.dumps(document, ensure_ascii=False))
    return len(images)


def _annotations(example: Example, task: Task, classes: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    if task is Task.CLASSIFY:
        if name := class_of(example, classes):
            width, height = example.item.width, example.item.height
            yield name, {"bbox": [0, 0, width, height], "area": width * height, "segmentation": []}
    elif task is Task.DETECT:
        boxes = boxes_of(example, classes)
        turned = boxes.rotated
        for i, (name, (x1, y1, x2, y2)) in enumerate(zip(boxes.names, boxes.xyxy.tolist(), strict=True)):
            bounds = [x1, y1, x2 - x1, y2 - y1]
            area, outline = bounds[2] * bounds[3], []
            if boxes.corners is not None and turned[i]:
                _, _, across, down, _ = sides(boxes.corners[i])
                area, outline = across * down, [boxes.corners[i].ravel().tolist()]
            yield name, {"bbox": bounds, "area": area, "segmentation": outline}
    else:
        for name, mask in masks_of(example, classes).by_name.items():
            x1, y1, x2, y2 = bounding_box(mask)
            segmentation = {"size": [mask.height, mask.width], "counts": mask.counts}
            bounds = [x1, y1, x2 - x1, y2 - y1]
            yield name, {"bbox": bounds, "area": rle.area(mask), "segmentation": segmentation}
