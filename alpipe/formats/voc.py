"""Pascal VOC: one XML file an image, with boxes.

Layouts: ``JPEGImages/`` + ``Annotations/`` + ``ImageSets/Main/NAME.txt`` (a subset is one of these lists), and a
folder with XML files beside the images or in ``Annotations/``, as LabelImg leaves it.

Coordinates are taken as they stand: xmin, ymin, xmax, ymax are pixel edges, the box covers [xmin, xmax) × [ymin, ymax).
The original VOC counts pixels from 1 and includes the last one, but today's tools write both ways without saying
which, and half a pixel on average is what is lost; ``write`` is the exact inverse. An XML without ``<object>`` is a
reviewed image without object. Objects marked difficult, truncated or occluded are taken as any other. The image
belonging to an XML is the one of the same stem, else the one that its ``<filename>`` or ``<path>`` names.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alpipe.errors import DataError
from alpipe.formats.layout import guess
from alpipe.formats.layout.images import ImageFinder, is_image, once, shown, walk, walk_images
from alpipe.formats.layout.output import OutputFolder, boxes_of
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.shapes.parts import Part, box, number, take, to_labels
from alpipe.types import Example, Item, Refusal, Task

TASKS = frozenset({Task.DETECT})

_FLAGS = {"-1", "0", "1"}
"""What stands behind the image in the lists of one class (aeroplane_train.txt)."""


class _Layout(NamedTuple):
    root: Path
    annotations: Path
    images: tuple[Path, ...]
    lists: Path


def read(path: Path, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
    """The set's images with their boxes; see the module. An image without XML has labels None.

    Raises DataError where there is no annotation, or no list of the subset's name.
    """
    guess.check_task("voc", request.task, TASKS)
    layout = _layout(guess.require(path))
    finder = ImageFinder(layout.root)
    if request.subset is None:
        return once(_read_all(layout, finder))
    listing = layout.lists / f"{request.subset}.txt"
    if not listing.is_file() or listing.parent != layout.lists:
        known = sorted(file.stem for file in layout.lists.glob("*.txt"))
        raise DataError(f"{path}: no subset {request.subset!r} in ImageSets/Main; known: {', '.join(known) or 'none'}")
    return once(_read_listed(listing, layout, finder))


def _layout(path: Path) -> _Layout:
    root = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix.lower() != ".xml":
        raise guess.not_this(path, "voc", "a folder")
    annotations = next((root / name for name in ("Annotations", "annotations") if (root / name).is_dir()), root)
    if not any(file.suffix.lower() == ".xml" for file in walk(annotations)):
        raise guess.not_this(path, "voc", "XML files in Annotations/ or beside the images")
    if not next(walk_images(root), None):
        raise guess.not_this(path, "voc", "images in JPEGImages/ or beside the XML files")
    images = tuple(root / name for name in ("JPEGImages", "images") if (root / name).is_dir())
    return _Layout(root, annotations, (*images, annotations, root), root / "ImageSets" / "Main")


def _read_all(layout: _Layout, finder: ImageFinder) -> Iterator[LabelledFile | Refusal]:
    taken = set()
    for file in walk(layout.annotations):
        if file.suffix.lower() == ".xml":
            for result in _read_xml(file, layout, finder):
                if isinstance(result, LabelledFile):
                    taken.add(result.image)
                yield result
    for folder in layout.images:
        for image in sorted(entry for entry in folder.iterdir() if is_image(entry) and entry not in taken):
            taken.add(image)
            yield LabelledFile(image, None, shown(image, layout.root))


def _read_listed(listing: Path, layout: _Layout, finder: ImageFinder) -> Iterator[LabelledFile | Refusal]:
    seen = set()
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
    for number_, line in enumerate(lines, start=1):
        source = f"{shown(listing, layout.root)}: line {number_}"
        stem, _, flag = line.strip().rpartition(" ")
        stem = stem.strip() if flag in _FLAGS and stem else line.strip()
        if not stem:
            continue
        if stem in seen:
            yield Refusal(source, f"{stem!r} is listed twice")
            continue
        seen.add(stem)
        if ".." in Path(stem).parts or Path(stem).is_absolute():
            yield Refusal(source, f"{stem!r} leaves the set's folder")
            continue
        file = layout.annotations / f"{stem}.xml"
        if file.is_file():
            yield from _read_xml(file, layout, finder)
            continue
        try:
            image = finder.find_stem(Path(stem).name, layout.images)
        except DataError as error:
            yield Refusal(source, str(error))
            continue
        yield LabelledFile(image, None, source) if image else Refusal(source, f"{stem!r} has neither image nor XML")


def _read_xml(file: Path, layout: _Layout, finder: ImageFinder) -> Iterator[LabelledFile | Refusal]:
    source = shown(file, layout.root)
    root: ET.Element | None = None
    try:
        root = _parse(file)
    except DataError as error:
        yield Refusal(source, str(error))
    try:
        image = _image(file, root, layout, finder)
    except DataError as error:
        if root is not None:
            yield Refusal(source, str(error))
        return
    if root is None:
        yield LabelledFile(image, None, source)
        return
    objects = [(f"{source}: object {i}", element) for i, element in enumerate(root.findall("object"), start=1)]
    parts, refused = take(objects, _object)
    yield from refused
    yield LabelledFile(image, to_labels(Task.DETECT, parts, complete=not refused), source, _size(root))


def _parse(file: Path) -> ET.Element:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}") from error
    # The zeros are those of UTF-16. Entities, by which a small file grows without end or reads others, need a DOCTYPE.
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        raise DataError("the XML has a DOCTYPE, which no VOC file needs and which may be hostile")
    try:
        root = ET.fromstring(data)  # noqa: S314
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"the XML is broken: {error}") from error
    if root.tag != "annotation":
        raise DataError(f"the XML holds <{root.tag}>, expected <annotation>")
    return root


def _image(file: Path, root: ET.Element | None, layout: _Layout, finder: ImageFinder) -> Path:
    folders = (*layout.images, file.parent)
    if beside := finder.find_stem(file.stem, folders):
        return beside
    names = [root.findtext(tag, "").strip() for tag in ("filename", "path")] if root is not None else []
    problem = DataError(f"there is no image {file.stem}.*, and the XML names none")
    for name in filter(None, names):
        try:
            return finder.find(name, folders)
        except DataError as error:
            problem = error
    raise problem


def _object(element: ET.Element) -> Part:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError("the object has no name")
    bounds = element.find("bndbox")
    if bounds is None:
        raise DataError(f"the object ({name}) has no <bndbox>")
    values = [number((bounds.findtext(tag) or "").strip() or None, tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    return Part(name, box(*values))


def _size(root: ET.Element) -> tuple[int, int] | None:
    """The size that the XML states; None where it does not, or states 0×0 as some tools do."""
    try:
        width, height = (int(number(root.findtext(f"size/{tag}"), tag)) for tag in ("width", "height"))
    except DataError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def write(examples: Iterable[Example], path: Path, task: Task, classes: tuple[str, ...]) -> int:
    """Writes ``JPEGImages/``, ``Annotations/`` and ``ImageSets/Main/all.txt``; coordinates keep their fractions."""
    guess.check_task("voc", task, TASKS)
    output, stems = OutputFolder(path), []
    for example in examples:
        boxes = boxes_of(example, classes)
        name = output.copy(example.item, "JPEGImages")
        stems.append(Path(name).stem)
        root = _document(name, example.item)
        for label, corners in zip(boxes.names, boxes.xyxy.tolist(), strict=True):
            element = ET.SubElement(root, "object")
            for tag, text in (("name", label), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
                ET.SubElement(element, tag).text = text
            bounds = ET.SubElement(element, "bndbox")
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                ET.SubElement(bounds, tag).text = str(int(value)) if value == int(value) else repr(value)
        ET.indent(root)
        output.write_text(f"Annotations/{stems[-1]}.xml", ET.tostring(root, encoding="unicode") + "\n")
    output.write_text("ImageSets/Main/all.txt", "".join(f"{stem}\n" for stem in stems))
    return len(stems)


def _document(name: str, item: Item) -> ET.Element:
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = "JPEGImages"
    ET.SubElement(root, "filename").text = name
    size = ET.SubElement(root, "size")
    for tag, value in (("width", item.width), ("height", item.height), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    ET.SubElement(root, "segmented").text = "0"
    return root
