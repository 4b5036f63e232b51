"""Label Studio exports: shapes, which answer is taken, where images are, and every fault by itself."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter.brush import mask2rle
from PIL import Image

from alpipe import rle
from alpipe.errors import DataError
from alpipe.formats import labelstudio
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.shapes import drawn
from alpipe.types import Boxes, ImageClass, Labels, Masks, Refusal, Task

FRAME = {"from_name": "x", "to_name": "image", "original_width": 20, "original_height": 10, "image_rotation": 0}
SIDES = {"x": 10, "y": 20, "width": 50, "height": 30, "rotation": 0}
RECTANGLE = FRAME | {"type": "rectanglelabels", "value": SIDES | {"rectanglelabels": ["cat"]}}
BOX = Boxes(np.array([[2, 2, 12, 5]], np.float32), ("cat",))
MASK = np.zeros((10, 20), np.uint8)
MASK[2:5, 2:12] = 1
BRUSH = FRAME | {"type": "brushlabels", "value": {"format": "rle", "rle": mask2rle(MASK * 255), "brushlabels": ["cat"]}}
POINTS = [[10, 20], [60, 20], [60, 50], [10, 50]]
POLYGON = FRAME | {"type": "polygonlabels", "value": {"points": POINTS, "closed": True, "polygonlabels": ["cat"]}}
CHOICE = {"type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["dog"]}}


def annotation(*results: Any, **other: Any) -> dict[str, Any]:
    return {"id": 3, "result": list(results), "was_cancelled": False} | other


def task_of(*annotations: Any, image: Any = "a.png") -> dict[str, Any]:
    return {"id": 5, "data": {"image": image}, "annotations": list(annotations)}


def read(folder: Path, tasks: Any, task: Task = Task.DETECT) -> tuple[list[LabelledFile], list[Refusal]]:
    (folder / "export.json").write_text(json.dumps(tasks))
    results = list(labelstudio.read(folder / "export.json", ReadRequest(task, ("cat", "dog"))))
    return [r for r in results if isinstance(r, LabelledFile)], [r for r in results if isinstance(r, Refusal)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "set"
    path.mkdir()
    Image.new("RGB", (20, 10)).save(path / "a.png")
    return path


@pytest.mark.parametrize(
    ("region", "task", "expected"),
    [
        (RECTANGLE, Task.DETECT, BOX),
        (RECTANGLE | {"type": "labels", "value": SIDES | {"labels": ["cat"]}}, Task.DETECT, BOX),
        (POLYGON, Task.DETECT, BOX),
        (BRUSH, Task.DETECT, BOX),
        (POLYGON, Task.SEGMENT, Masks({"cat": rle.encode(MASK)})),
        (BRUSH, Task.SEGMENT, Masks({"cat": rle.encode(MASK)})),
        (CHOICE, Task.CLASSIFY, ImageClass("dog")),
    ],
)
def test_what_a_region_becomes(region: Any, task: Task, expected: Labels, folder: Path) -> None:
    files, refused = read(folder, [task_of(annotation(region))], task)
    assert refused == []
    assert files[0].labels == expected
    assert files[0].size == (None if task is Task.CLASSIFY else (20, 10))
    assert files[0].source == "export.json: task 5"


@given(x=st.floats(0, 90), y=st.floats(0, 90), w=st.floats(1, 100), h=st.floats(1, 100), degrees=st.floats(-360, 360))
def test_a_rotated_rectangle_has_the_box_around_it(x: float, y: float, w: float, h: float, degrees: float) -> None:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": degrees}
    x, y, w, h = x * 0.2, y * 0.1, w * 0.2, h * 0.1
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    corners = [complex(x, y) + turn * c for c in (0, w, complex(0, h), complex(w, h))]
    expected = [
        min(c.real for c in corners), min(c.imag for c in corners),
        max(c.real for c in corners), max(c.imag for c in corners),
    ]  # fmt: skip
    turned = RECTANGLE | {"value": value | {"rectanglelabels": ["cat"]}}
    np.testing.assert_allclose(drawn.part(turned, Task.DETECT, 20, 10).shape, expected, atol=1e-4)


def test_an_empty_result_was_reviewed_and_a_task_without_annotation_was_not(folder: Path) -> None:
    for task, empty in ((Task.DETECT, Boxes.none()), (Task.SEGMENT, Masks({})), (Task.CLASSIFY, None)):
        files, refused = read(folder, [task_of(annotation())], task)
        assert (files[0].labels, refused) == (empty, [])
        files, refused = read(folder, [task_of()], task)
        assert (files[0].labels, refused) == (None, [])


def test_of_several_answers_the_ground_truth_or_else_the_latest_is_taken_and_the_others_are_listed(
    folder: Path,
) -> None:
    old = annotation(id=1, updated_at="2024-01-01T00:00:00Z")
    new = annotation(RECTANGLE, id=2, updated_at="2024-02-01T00:00:00Z")
    truth = annotation(id=4, updated_at="2023-01-01T00:00:00Z", ground_truth=True)
    skipped = annotation(RECTANGLE, id=6, updated_at="2025-01-01T00:00:00Z", was_cancelled=True)
    files, refused = read(folder, [task_of(new, old, skipped)])
    assert files[0].labels == BOX
    assert {(r.source.rsplit(" ", 1)[1], r.reason.split()[0]) for r in refused} == {("1", "another"), ("6", "its")}
    assert read(folder, [task_of(new, truth)])[0][0].labels == Boxes.none()
    files, refused = read(folder, [task_of(skipped)])
    assert files[0].labels is None
    assert len(refused) == 1


@pytest.mark.parametrize(
    "url",
    [
        "a.png",
        "/data/local-files/?d=set/a.png",
        "/data/local-files/?d=pool%2Fa.png",
        "http://localhost:8080/data/local-files/?d=pool/a.png",
        "/data/upload/7/0a1b2c3d-a.png",
        "/data/upload/7/a.png",
        "https://example.org/pictures/a.png?size=large",
        "s3://bucket/pictures/a.png",
        "../set/a.png",
    ],
)
def test_where_images_are_looked_for(url: str, folder: Path) -> None:
    files, refused = read(folder, [task_of(annotation(RECTANGLE), image=url)])
    assert refused == []
    assert files[0].image == folder / "a.png"


@pytest.mark.parametrize(
    "url", ["gone.png", "../secret.png", "/data/local-files/?d=../secret.png", "", "//[", 3, None, ["a.png"], "file://"]
)
def test_an_image_that_is_not_in_the_set_is_refused(url: Any, folder: Path) -> None:
    Image.new("RGB", (20, 10)).save(folder.parent / "secret.png")
    files, refused = read(folder, [task_of(annotation(RECTANGLE), image=url), task_of()])
    assert len(files) == 1
    assert [r.source for r in refused] == ["export.json: task 5"]


def change(region: dict[str, Any], **value: Any) -> dict[str, Any]:
    return region | {"value": region["value"] | value}


@pytest.mark.parametrize(
    ("region", "task", "reason"),
    [
        (change(RECTANGLE, width=0), Task.DETECT, "no area"),
        (change(RECTANGLE, width=-3), Task.DETECT, "inside out"),
        (change(RECTANGLE, x=None), Task.DETECT, "x is missing"),
        (change(RECTANGLE, height=float("nan")), Task.DETECT, "finite"),
        (change(RECTANGLE, rectanglelabels=[]), Task.DETECT, "no label"),
        (change(RECTANGLE, rectanglelabels=["cat", "dog"]), Task.DETECT, "expected one"),
        (RECTANGLE | {"image_rotation": 90}, Task.DETECT, "rotated"),
        (RECTANGLE | {"type": "keypointlabels"}, Task.DETECT, "keypointlabels"),
        ({"type": "relation", "from_id": "a", "to_id": "b"}, Task.DETECT, "relation"),
        ("text", Task.DETECT, "no value"),
        (CHOICE, Task.DETECT, "choices"),
        (RECTANGLE, Task.SEGMENT, "no outline"),
        (RECTANGLE, Task.CLASSIFY, "no class"),
        (change(CHOICE, choices=["cat", "dog"]), Task.CLASSIFY, "expected one"),
        (change(POLYGON, points=POINTS[:2]), Task.SEGMENT, "3 points"),
        (change(POLYGON, points=[[1, 2, 3]] * 3), Task.SEGMENT, "3 points"),
        (change(POLYGON, points=[[1, "x"]] * 3), Task.SEGMENT, "expected a number"),
        (change(POLYGON, points=[[1, 1]] * 3), Task.SEGMENT, "no pixel"),
        (change(BRUSH, rle=[1, 2, 3]), Task.SEGMENT, "do not fill"),
        (change(BRUSH, rle=BRUSH["value"]["rle"][:-5]), Task.SEGMENT, "too early"),
        (change(BRUSH, rle=mask2rle(MASK[:5] * 255)), Task.SEGMENT, "do not fill"),
        (change(BRUSH, rle=mask2rle(MASK * 0)), Task.SEGMENT, "no pixel"),
        (change(BRUSH, rle="text"), Task.SEGMENT, "list of bytes"),
        (BRUSH | {"original_width": 10**6, "original_height": 10**6}, Task.SEGMENT, "the image has 20×10"),
    ],
)
def test_a_bad_region_is_refused(region: Any, task: Task, reason: str, folder: Path) -> None:
    files, refused = read(folder, [task_of(annotation(region))], task)
    assert [r.source for r in refused] == ["export.json: task 5, annotation 3, region 1"]
    assert reason in refused[0].reason
    assert files[0].labels is None


def test_an_export_of_another_kind_is_stated(folder: Path) -> None:
    with pytest.raises(DataError, match="not JSON-MIN"):
        read(folder, [{"image": "a.png", "label": []}])
    for other in ({"images": [], "annotations": []}, ["a"], "text"):
        with pytest.raises(DataError, match="labelstudio set"):
            read(folder, other)
