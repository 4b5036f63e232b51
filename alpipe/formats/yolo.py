"""YOLO: one text file an image, with a line an object; coordinates are shares of the image's width and height.

Layouts: a dataset YAML (``names``, ``train``, ``val``, ``test``), or a folder with ``images/`` and ``labels/``
(``images/train`` + ``labels/train``, or ``train/images`` + ``train/labels``), or with label files beside the images.
Names come from the YAML, ``classes.txt`` or ``obj.names``, else from the project. A subset is ``train``, ``val`` or
``test``.

A line is ``class x y width height`` (the centre) or ``class x1 y1 x2 y2 x3 y3 …`` (a polygon). For detection a polygon
of four points that is a turned rectangle is a rotated box (Ultralytics calls it OBB), any other one becomes the box
around it; for segmentation a box is refused, and the polygons of one class become one mask. The shares are of the image
as displayed, so that its header is read.

An empty label file is a reviewed image without object. A missing one gives labels None: Ultralytics takes such an image
for background, but in active learning it is most likely one that nobody has looked at yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from alpipe import rle
from alpipe.boxes import as_rectangle
from alpipe.errors import DataError
from alpipe.formats.layout import guess, ultralytics
from alpipe.formats.layout.images import displayed_size, shown
from alpipe.formats.layout.output import OutputFolder, boxes_of, masks_of
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.shapes.outlines import around, fill, trace
from alpipe.shapes.parts import Part, box, number, take, to_labels
from alpipe.types import Example, Item, Refusal, Task, corners_of

TASKS = frozenset({Task.DETECT, Task.SEGMENT})
KEEPS_ROTATION = True

_SLACK = 0.01
"""How far a share may leave [0, 1] by rounding, as in Ultralytics; beyond it the numbers are most likely pixels."""


def read(path: Path, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    """The set's images with their labels; see the module.

    Raises DataError where there are no images with label files, and where the subset does not exist.
    """
    guess.check_task("yolo", request.task, TASKS)
    return _read(ultralytics.find(path, request.subset), request)


def _read(layout: ultralytics.Layout, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    yield from layout.refused
    names = layout.names or dict(enumerate(request.classes))
    used: set[Path] = set()
    for image in layout.images:
        file = layout.labels_of(image)
        if file is None:
            yield LabelledFile(image, None, shown(image, layout.root))
        else:
            used.add(file)
            yield from _read_labels(image, file, shown(file, layout.root), names, request.task)
    for file in layout.orphans(used):
        yield Refusal(shown(file, layout.root), "there is no image for this label file")


def _read_labels(
    image: Path, file: Path, source: str, names: dict[int, str], task: Task
) -> Iterator[LabelledFile | Refusal]:
    size = None
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        yield Refusal(source, f"the label file cannot be read: {error}")
        yield LabelledFile(image, None, source)
        return
    numbered = enumerate(text.splitlines(), start=1)
    lines = [(f"{source}: line {i}", line.split()) for i, line in numbered if line.strip()]
    if lines:
        try:
            size = displayed_size(image)
        except DataError as error:
            yield Refusal(source, str(error))
            return
    parse = partial(_line, names=names, task=task, size=size or (0, 0))
    parts, refused = take(lines, parse)
    yield from refused
    yield LabelledFile(image, to_labels(task, parts, complete=not refused), source, size)


def _line(columns: list[str], names: dict[int, str], task: Task, size: tuple[int, int]) -> Part:
    index = number(columns[0], "the class index")
    if index != int(index) or int(index) not in names:
        known = f"0 to {max(names)}" if names else "no class has a name"
        raise DataError(f"the class index {columns[0]} is unknown ({known})")
    name, values = names[int(index)], [number(value, "a coordinate") for value in columns[1:]]
    if any(not -_SLACK <= value <= 1 + _SLACK for value in values):
        raise DataError(f"a coordinate of {name} is not within 0 and 1, as shares of the image's size are")
    if len(values) == 4 and task is Task.DETECT:
        x, y, w, h = (value * side for value, side in zip(values, size * 2, strict=True))
        return Part(name, box(x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    if len(values) < 6 or len(values) % 2:
        if len(values) == 4:
            raise DataError(f"a box of {name} is no outline, which segmentation needs")
        raise DataError(f"the line has {len(columns)} columns, expected 5 (a box) or 7, 9, … (a polygon)")
    points = np.array(values).reshape(-1, 2) * size
    if task is Task.DETECT:
        return Part(name, around(points), as_rectangle(points))
    return Part(name, fill([points.ravel().tolist()], *size))


def write(examples: Iterable[Example], path: Path, task: Task, classes: tuple[str, ...]) -> int:
    """Writes ``images/``, ``labels/``, ``data.yaml`` and ``classes.txt``.

    Boxes come back to a millionth of a pixel. If people turned any box of the set, all are written by their four
    corners, since a set is read as the one kind or the other; one that reaches out of the image, which readers of YOLO
    refuse, by those of the upright box around it. A mask is written as one polygon for each connected
    region, along the pixel edges (holes by bridges), and comes back exactly.
    """
    guess.check_task("yolo", task, TASKS)
    output, count = OutputFolder(path), 0
    output.write_text("classes.txt", "".join(f"{name}\n" for name in classes))
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(classes))
    split = "# Not split: training and validation are the same images. Split them before you train.\n"
    output.write_text("data.yaml", f"{split}train: images\nval: images\nnames:\n{names}")
    if task is Task.DETECT:
        examples = list(examples)
    turned = task is Task.DETECT and any(boxes_of(example, classes).rotated.any() for example in examples)
    for example in examples:
        if task is Task.SEGMENT:
            rows = _polygon_rows(example, classes)
        else:
            rows = _corner_rows(example, classes) if turned else _box_rows(example, classes)
        lines = [f"{index} {' '.join(repr(float(value)) for value in row)}\n" for index, row in rows]
        name = output.copy(example.item)
        output.write_text(f"labels/{Path(name).stem}.txt", "".join(lines))
        count += 1
    return count


def _box_rows(example: Example, classes: tuple[str, ...]) -> Iterator[tuple[int, list[float]]]:
    boxes, (width, height) = boxes_of(example, classes), _sides(example.item)
    for name, (x1, y1, x2, y2) in zip(boxes.names, boxes.xyxy.tolist(), strict=True):
        shares = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        yield classes.index(name), shares


def _corner_rows(example: Example, classes: tuple[str, ...]) -> Iterator[tuple[int, list[float]]]:
    boxes = boxes_of(example, classes)
    corners = corners_of(boxes.xyxy) if boxes.corners is None else boxes.corners
    for name, points, upright in zip(boxes.names, corners, corners_of(boxes.xyxy), strict=True):
        shares = points.astype(np.float64) / _sides(example.item)
        if (shares < -_SLACK).any() or (shares > 1 + _SLACK).any():
            shares = upright.astype(np.float64) / _sides(example.item)
        yield classes.index(name), shares.ravel().tolist()


def _polygon_rows(example: Example, classes: tuple[str, ...]) -> Iterator[tuple[int, list[float]]]:
    for name, mask in masks_of(example, classes).by_name.items():
        for points in trace(rle.decode(mask)):
            yield classes.index(name), (points / _sides(example.item)).ravel().tolist()


def _sides(item: Item) -> tuple[int, int]:
    return item.width, item.height
