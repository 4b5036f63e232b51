"""Label Studio's JSON export (not JSON-MIN): a list of tasks with their annotations.

``data.image`` (else the first value that names an image) is looked for below the folder of the JSON: as a relative
path, a local-files URL (``/data/local-files/?d=…``), an upload (``/data/upload/1/0a1b2c3d-name.jpg``) or by the last
part of any other URL. Nothing is downloaded.

Of several annotations of a task one is taken: a ground truth first, then the one changed last; the others and skipped
ones are listed as refused. An empty result is a reviewed image without object, a task without annotation has labels
None. Coordinates are percent of ``original_width`` and ``original_height``.

For detection a rotated rectangle keeps its corners, and an ellipse, a polygon or a brush stroke becomes the box around
it; for segmentation a rectangle is refused, and ellipses, polygons and brush strokes of one label become one mask. Key
points and relations are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from alpipe import rle
from alpipe.errors import DataError
from alpipe.formats.layout import guess
from alpipe.formats.layout.images import ImageFinder, displayed_size, is_image, once
from alpipe.formats.layout.output import OutputFolder, boxes_of, class_of, masks_of
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.shapes import brush, drawn
from alpipe.shapes.parts import Part, take, to_labels
from alpipe.types import Example, Refusal, Rle, Task

TASKS = frozenset({Task.DETECT, Task.SEGMENT, Task.CLASSIFY})
KEEPS_ROTATION = True


def read(path: Path, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    """The tasks' images with their labels; see the module. A subset is the name of one of the folder's JSON files.

    Raises DataError where no file is an export, and for a folder with several of them when no subset is named.
    """
    file = _file(guess.require(path), request.subset)
    try:
        tasks = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: the JSON cannot be read: {error}") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise guess.not_this(file, "labelstudio", "a JSON list of tasks")
    if tasks and not any("annotations" in task for task in tasks):
        raise DataError(f"{file}: no task has annotations; export as JSON, not JSON-MIN")
    return once(_read(file, tasks, request.task))


def _file(path: Path, subset: str | None) -> Path:
    if path.is_file():
        if subset not in (None, path.stem):
            raise DataError(f"{path}: is one JSON file; name its folder to choose subset {subset!r}")
        return path
    files = sorted(file for file in path.glob("*.json") if subset in (None, file.stem))
    if not files and subset is not None:
        raise DataError(f"{path}: there is no file {subset}.json")
    if not files:
        raise guess.not_this(path, "labelstudio", "a JSON export")
    if len(files) > 1:
        names = ", ".join(file.stem for file in files)
        raise DataError(f"{path}: holds several JSON files; name one by --subset: {names}")
    return files[0]


def _read(file: Path, tasks: list[dict[str, Any]], task: Task) -> Iterator[LabelledFile | Refusal]:
    finder = ImageFinder(file.parent)
    for position, entry in enumerate(tasks, start=1):
        source = f"{file.name}: task {entry.get('id', f'entry {position}')}"
        try:
            image = _image(entry.get("data"), finder)
        except DataError as error:
            yield Refusal(source, str(error))
            continue
        chosen, refused = _choose(entry.get("annotations"), source)
        yield from refused
        if chosen is None:
            yield LabelledFile(image, None, source)
        else:
            yield from _read_annotation(image, chosen, source, task)


def _image(data: Any, finder: ImageFinder) -> Path:
    if not isinstance(data, dict):
        raise DataError("the task has no data")
    texts = [value for value in (data.get("image"), *data.values()) if isinstance(value, str)]
    url = next((text for text in texts if text == data.get("image") or is_image(Path(_name(text)))), None)
    if url is None:
        raise DataError("the task's data name no image")
    name = _name(url)
    try:
        return finder.find(name)
    except DataError:
        uploaded = re.sub(r"^[0-9a-f]{8}-", "", Path(name).name)  # the server sets this before the name of an upload
        if uploaded == Path(name).name:
            raise
        return finder.find(uploaded)


def _name(url: str) -> str:
    """The file that the URL of a task means, as a path."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DataError(f"the image's URL {url!r} is broken: {error}") from error
    if parts.path.endswith("/data/local-files/") and (given := parse_qs(parts.query).get("d")):
        return given[0]
    if parts.scheme or parts.netloc or parts.path.startswith("/data/"):
        return Path(unquote(parts.path)).name
    return url


def _choose(annotations: Any, source: str) -> tuple[tuple[str, dict[str, Any]] | None, list[Refusal]]:
    """The annotation to take, with its source, and why the others are not."""
    refused: list[Refusal] = []
    usable: list[tuple[str, dict[str, Any]]] = []
    for position, entry in enumerate(annotations if isinstance(annotations, list) else [], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("result"), list):
            refused.append(Refusal(f"{source}, annotation entry {position}", "the annotation has no list of results"))
            continue
        where = f"{source}, annotation {entry.get('id', f'entry {position}')}"
        if entry.get("was_cancelled"):
            refused.append(Refusal(where, "its annotator skipped the task"))
        else:
            usable.append((where, entry))
    if not usable:
        return None, refused
    best = max(usable, key=lambda pair: (bool(pair[1].get("ground_truth")), str(pair[1].get("updated_at", ""))))
    others = [where for where, entry in usable if entry is not best[1]]
    refused += [Refusal(where, f"another answer to the same task was taken ({best[0]})") for where in others]
    return best, refused


def _read_annotation(
    image: Path, chosen: tuple[str, dict[str, Any]], source: str, task: Task
) -> Iterator[LabelledFile | Refusal]:
    where, annotation = chosen
    results = [(f"{where}, region {i}", entry) for i, entry in enumerate(annotation["result"], start=1)]
    parts, refused = take(results, partial(_part, task=task, image=image))
    labels, size = None, None
    try:
        labels = to_labels(task, parts, complete=not refused)
        size = next((found for _, entry in results if (found := drawn.stated_size(entry))), None)
    except DataError as error:
        refused.append(Refusal(where, str(error)))
    yield from refused
    yield LabelledFile(image, labels, source, size)


def _part(entry: Any, task: Task, image: Path) -> Part:
    width, height = drawn.stated_size(entry) or displayed_size(image)
    if task is Task.SEGMENT and (width, height) != (real := displayed_size(image)):
        raise DataError(f"the region is for {width}×{height} pixels, but the image has {real[0]}×{real[1]}")
    if isinstance(entry, dict) and isinstance(entry.get("value"), dict) and "rle" in entry["value"]:
        width, height = displayed_size(image)  # of the file, since whoever wrote the JSON could claim any size
    part = drawn.part(entry, task, width, height)
    if isinstance(part.shape, Rle) and not rle.area(part.shape):
        raise DataError("the brush stroke covers no pixel")
    return part


def write(examples: Iterable[Example], path: Path, task: Task, classes: tuple[str, ...]) -> int:
    """Writes ``images/`` and ``tasks.json`` with one annotation a task, images named relative to the folder.

    Boxes come back to a hundred-thousandth of a pixel (rotated ones to a thousandth), masks (brush strokes) exactly.
    """
    output, tasks = OutputFolder(path), []
    for position, example in enumerate(examples, start=1):
        results = list(_results(example, task, classes))
        name = output.copy(example.item)
        annotation = {"id": position, "result": results, "was_cancelled": False, "ground_truth": False}
        data = {"image": f"images/{name}", "alpipe_key": example.item.key}
        tasks.append({"id": position, "data": data, "annotations": [annotation]})
    output.write_text("tasks.json", json.dumps(tasks, ensure_ascii=False))
    return len(tasks)


def _results(example: Example, task: Task, classes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    width, height = example.item.width, example.item.height
    frame = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    if task is Task.CLASSIFY:
        if name := class_of(example, classes):
            value: dict[str, Any] = {"choices": [name]}
            yield {"id": "c0", "type": "choices", "from_name": "class", "to_name": "image", "value": value}
    elif task is Task.DETECT:
        for i, (name, sides) in enumerate(drawn.rectangles(boxes_of(example, classes), width, height)):
            value = sides | {"rectanglelabels": [name]}
            yield frame | {"id": f"r{i}", "type": "rectanglelabels", "from_name": "box", "value": value}
    else:
        for i, (name, mask) in enumerate(masks_of(example, classes).by_name.items()):
            value = {"format": "rle", "rle": brush.encode(rle.decode(mask)), "brushlabels": [name]}
            yield frame | {"id": f"m{i}", "type": "brushlabels", "from_name": "mask", "value": value}
