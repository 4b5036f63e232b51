"""What every format must do: what it writes it reads again, and it refuses to overwrite or to pretend."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from alpipe import boxes, plugins, rle
from alpipe.errors import DataError
from alpipe.plugins import Kind
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.steps import importing
from alpipe.types import Boxes, Example, ImageClass, Item, Labels, Masks, Refusal, Task

CLASSES = ("cat", "großer Hund", "7")
FORMATS = sorted(plugins.available(Kind.FORMAT))
CASES = [(name, task) for name in FORMATS for task in sorted(plugins.load(Kind.FORMAT, name).TASKS)]
BOX_TOLERANCE = {"coco": 0.0, "voc": 0.0, "yolo": 1e-6, "labelstudio": 1e-5}
"""Pixels, as each module states."""

parametrised = pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{n}-{t}" for n, t in CASES])


def make_item(folder: Path, number: int, width: int, height: int, name: str | None = None) -> Item:
    """A real image whose first pixel tells it from all others."""
    folder = folder / f"source{number}"
    folder.mkdir(parents=True)
    pixels = np.full((height, width, 3), 90, np.uint8)
    pixels[0, 0] = (number, 1, 2)
    path = folder / (name or "same name.png")
    Image.fromarray(pixels).save(path)
    return Item(f"key{number:017d}", str(path), width, height)


def boxes_strategy(width: int, height: int) -> st.SearchStrategy[Boxes]:
    def side(length: int) -> st.SearchStrategy[tuple[float, float]]:
        number = st.one_of(st.integers(0, length).map(float), st.floats(0, length, width=32))
        return st.tuples(number, number).map(sorted).filter(lambda ends: ends[1] - ends[0] > 1e-3)

    box = st.tuples(side(width), side(height), st.sampled_from(CLASSES))
    return st.lists(box, max_size=5).map(
        lambda rows: Boxes(
            np.array([[x[0], y[0], x[1], y[1]] for x, y, _ in rows], np.float32).reshape(-1, 4),
            tuple(name for _, _, name in rows),
        )
    )


@st.composite
def labelled_sizes(draw: st.DrawFn, task: Task) -> list[tuple[int, int, Labels]]:
    result: list[tuple[int, int, Labels]] = []
    for _ in range(draw(st.integers(1, 3))):
        width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
        labels: Labels
        if task is Task.CLASSIFY:
            labels = ImageClass(draw(st.sampled_from(CLASSES)))
        elif task is Task.DETECT:
            labels = draw(boxes_strategy(width, height))
        else:
            values = hnp.arrays(np.uint8, (height, width), elements=st.integers(0, len(CLASSES)))
            labels = rle.from_class_map(draw(values), CLASSES)
        result.append((width, height, labels))
    return result


def read_back(name: str, path: Path, task: Task, **request: Any) -> tuple[dict[int, LabelledFile], list[Refusal]]:
    plugin = plugins.load(Kind.FORMAT, name)
    results = list(plugin.read(path, ReadRequest(task, CLASSES, **request)))
    files = {}
    for result in results:
        if isinstance(result, LabelledFile):
            with Image.open(result.image) as image:
                files[int(np.asarray(image)[0, 0, 0])] = result
    return files, [result for result in results if isinstance(result, Refusal)]


def assert_same(name: str, found: Labels | None, expected: Labels) -> None:
    match expected:
        case Boxes():
            assert isinstance(found, Boxes)
            assert found.names == expected.names
            np.testing.assert_allclose(found.xyxy, expected.xyxy, rtol=0, atol=BOX_TOLERANCE[name])
        case Masks():
            assert isinstance(found, Masks)
            assert dict(found.by_name) == dict(expected.by_name)
        case _:
            assert found == expected


@parametrised
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_written_is_read_again(name: str, task: Task, data: st.DataObject) -> None:
    drawn = data.draw(labelled_sizes(task))
    with tempfile.TemporaryDirectory() as folder:
        examples = [
            Example(make_item(Path(folder), number, width, height), labels)
            for number, (width, height, labels) in enumerate(drawn)
        ]
        target = Path(folder) / "out"
        assert plugins.load(Kind.FORMAT, name).write(iter(examples), target, task, CLASSES) == len(examples)
        files, refused = read_back(name, target, task)
    assert refused == []
    assert sorted(files) == list(range(len(examples)))
    for number, example in enumerate(examples):
        assert_same(name, files[number].labels, example.labels)
        size = (example.item.width, example.item.height)
        assert files[number].size in (None, size)


def some(task: Task, item: Item) -> Labels:
    if task is Task.CLASSIFY:
        return ImageClass(CLASSES[1])
    if task is Task.DETECT:
        return Boxes(np.array([[1, 2, 5, 6]], np.float32), (CLASSES[1],))
    values = np.zeros((item.height, item.width), np.uint8)
    values[1:3, 2:5] = 2
    return rle.from_class_map(values, CLASSES)


KEEP_ROTATION = [name for name in FORMATS if getattr(plugins.load(Kind.FORMAT, name), "KEEPS_ROTATION", False)]
DETECTORS = [name for name, task in CASES if task is Task.DETECT]


def turned_boxes() -> Boxes:
    """An upright box, one that was turned, and one that was turned and reaches over the edge of 40×30 pixels."""
    corners = np.stack(
        [boxes.turn(2, 3, 10, 5, 0), boxes.turn(20, 4, 12, 6, 35), boxes.turn(33, 20, 12, 6, 300)]
    ).astype(np.float32)
    around = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return Boxes(np.clip(around, 0, (40, 30, 40, 30)), (CLASSES[0], CLASSES[1], CLASSES[0]), corners)


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_that_people_turned_keep_their_corners_or_the_box_around_them(name: str, tmp_path: Path) -> None:
    labels = turned_boxes()
    item = make_item(tmp_path, 0, 40, 30)
    empty = make_item(tmp_path, 1, 40, 30)
    examples = [Example(item, labels), Example(empty, Boxes.none())]
    plugins.load(Kind.FORMAT, name).write(examples, tmp_path / "out", Task.DETECT, CLASSES)
    files, refused = read_back(name, tmp_path / "out", Task.DETECT)
    assert refused == []
    assert files[1].labels == Boxes.none()
    found, _, _ = importing.fit(files[0], item, Task.DETECT, CLASSES, ignore_unknown=False)
    assert isinstance(found, Boxes)
    np.testing.assert_allclose(found.xyxy, labels.xyxy, atol=1e-3)
    assert found.names == labels.names
    inside = labels.rotated & (name != "yolo" or np.array([True, True, False]))  # YOLO has no place out of the image
    assert found.rotated.tolist() == (inside.tolist() if name in KEEP_ROTATION else [False] * 3)
    if name in KEEP_ROTATION:
        assert found.corners is not None
        assert labels.corners is not None
        np.testing.assert_allclose(found.corners[inside], labels.corners[inside], atol=1e-3)


def test_the_formats_that_can_say_that_a_box_is_turned() -> None:
    assert set(KEEP_ROTATION) == {"coco", "labelstudio", "yolo"}


@pytest.mark.parametrize(("name", "task"), [case for case in CASES if case[1] is not Task.CLASSIFY])
def test_a_reviewed_image_without_object_survives(name: str, task: Task, tmp_path: Path) -> None:
    empty: Labels = Boxes.none() if task is Task.DETECT else Masks({})
    examples = [Example(make_item(tmp_path, 0, 8, 7), empty)]
    plugins.load(Kind.FORMAT, name).write(examples, tmp_path / "out", task, CLASSES)
    files, refused = read_back(name, tmp_path / "out", task)
    assert refused == []
    assert files[0].labels == empty


@parametrised
def test_images_are_copied_byte_by_byte_under_names_without_clash(name: str, task: Task, tmp_path: Path) -> None:
    names = ("a.png", "a.png", "A.png", "a.bmp", "b.png")
    items = [make_item(tmp_path, i, 8, 7, file) for i, file in enumerate(names)]
    plugin = plugins.load(Kind.FORMAT, name)
    plugin.write([Example(item, some(task, item)) for item in items], tmp_path / "out", task, CLASSES)
    files, _ = read_back(name, tmp_path / "out", task)
    assert len({file.image for file in files.values()}) == len(items)
    assert files[0].image.name == "a.png"
    assert files[1].image.name == f"{items[1].key}-a.png"
    for i, item in enumerate(items):
        assert files[i].image.read_bytes() == item.path.read_bytes()


@parametrised
def test_nothing_is_written_into_a_folder_that_holds_something(name: str, task: Task, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    item = make_item(tmp_path, 0, 8, 7)
    with pytest.raises(DataError, match="not empty"):
        plugins.load(Kind.FORMAT, name).write([Example(item, some(task, item))], target, task, CLASSES)
    assert [entry.name for entry in target.iterdir()] == ["precious.txt"]


@parametrised
def test_an_unknown_label_and_another_kind_of_label_are_stated(name: str, task: Task, tmp_path: Path) -> None:
    plugin = plugins.load(Kind.FORMAT, name)
    item = make_item(tmp_path, 0, 8, 7)
    with pytest.raises(DataError, match=item.key):
        plugin.write([Example(item, some(task, item))], tmp_path / "out", task, ("cat",))
    other = Task.DETECT if task is not Task.DETECT else Task.CLASSIFY
    with pytest.raises(DataError, match=item.key):
        plugin.write([Example(item, some(other, item))], tmp_path / "out2", task, CLASSES)


@parametrised
def test_a_missing_image_file_is_stated(name: str, task: Task, tmp_path: Path) -> None:
    item = make_item(tmp_path, 0, 8, 7)
    example = Example(item, some(task, item))
    item.path.unlink()
    with pytest.raises(DataError, match=item.key):
        plugins.load(Kind.FORMAT, name).write([example], tmp_path / "out", task, CLASSES)


@parametrised
@pytest.mark.parametrize("content", ["missing", "empty folder", "a text file", "a folder of other things"])
def test_what_is_no_set_of_the_format_ends_in_one_line(name: str, task: Task, content: str, tmp_path: Path) -> None:
    path = tmp_path / "set"
    if content == "a text file":
        path.write_text("hello")
    elif content != "missing":
        path.mkdir()
        if content == "a folder of other things":
            (path / "notes.docx").write_bytes(b"\0\1\2")
            (path / "sub").mkdir()
    with pytest.raises(DataError, match="set") as error:
        list(plugins.load(Kind.FORMAT, name).read(path, ReadRequest(task, CLASSES)))
    assert "\n" not in str(error.value)


@parametrised
def test_an_unknown_subset_is_stated_before_anything_is_read(name: str, task: Task, tmp_path: Path) -> None:
    item = make_item(tmp_path, 0, 8, 7)
    plugin = plugins.load(Kind.FORMAT, name)
    plugin.write([Example(item, some(task, item))], tmp_path / "out", task, CLASSES)
    for subset in ("nowhere", "../out", ""):
        with pytest.raises(DataError):
            plugin.read(tmp_path / "out", ReadRequest(task, CLASSES, subset))


def others() -> Iterator[tuple[str, Task, str, Task]]:
    for written, task in CASES:
        for name, other in CASES:
            if name != written:
                yield written, task, name, other


@pytest.mark.parametrize(("written", "task", "name", "other"), list(others()))
def test_a_set_of_another_format_is_named(written: str, task: Task, name: str, other: Task, tmp_path: Path) -> None:
    items = [make_item(tmp_path, i, 8, 7, f"{i}.png") for i in range(2)]
    examples = [Example(item, some(task, item)) for item in items]
    if task is Task.CLASSIFY:
        examples[1] = Example(items[1], ImageClass(CLASSES[0]))
    plugins.load(Kind.FORMAT, written).write(examples, tmp_path / "out", task, CLASSES)
    with pytest.raises(DataError) as error:
        list(plugins.load(Kind.FORMAT, name).read(tmp_path / "out", ReadRequest(other, CLASSES)))
    assert f"alpipe import {written}" in str(error.value)


@pytest.mark.parametrize("name", FORMATS)
def test_the_tasks_are_stated_and_others_refused(name: str, tmp_path: Path) -> None:
    plugin = plugins.load(Kind.FORMAT, name)
    assert all(task in Task for task in plugin.TASKS)
    for task in set(Task) - plugin.TASKS:
        with pytest.raises(DataError, match=name):
            plugin.read(tmp_path, ReadRequest(task, CLASSES))
