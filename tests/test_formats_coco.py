"""COCO: layouts, every fault by itself, and whatever else a JSON can hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from alpipe import rle
from alpipe.errors import DataError
from alpipe.formats import coco
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Boxes, Example, ImageClass, Item, Masks, Refusal, Task

BOX = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 4, 3], "iscrowd": 0}


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8)).save(path)
    return path


def document(*annotations: Any, **other: Any) -> dict[str, Any]:
    images = [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}]
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    return {"images": images, "categories": categories, "annotations": list(annotations)} | other


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(
    path: Path, task: Task = Task.DETECT, subset: str | None = None
) -> tuple[dict[str, LabelledFile], list[Refusal]]:
    results = list(coco.read(path, ReadRequest(task, ("cat", "dog"), subset)))
    files = {result.image.name: result for result in results if isinstance(result, LabelledFile)}
    return files, [result for result in results if isinstance(result, Refusal)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image(tmp_path / "images/a.png")
    return tmp_path


def test_boxes_are_x_y_width_height(folder: Path) -> None:
    write(folder / "annotations.json", document(BOX, BOX | {"id": 2, "category_id": 9, "bbox": [0.5, 0, 9.5, 8]}))
    files, refused = read(folder)
    assert refused == []
    assert files["a.png"].labels == Boxes(np.array([[1, 2, 5, 5], [0.5, 0, 10, 8]], np.float32), ("cat", "dog"))
    assert files["a.png"].size == (10, 8)


def test_an_image_without_annotation_was_reviewed(folder: Path) -> None:
    write(folder / "annotations.json", document())
    assert read(folder)[0]["a.png"].labels == Boxes.none()
    assert read(folder, Task.SEGMENT)[0]["a.png"].labels == Masks({})
    assert read(folder, Task.CLASSIFY)[0]["a.png"].labels is None


@pytest.mark.parametrize(
    ("annotation", "image"),
    [
        ("annotations/instances_train2017.json", "train2017/a.png"),
        ("annotations/instances_train2017.json", "images/train2017/a.png"),
        ("annotations/train2017.json", "images/a.png"),
        ("train2017.json", "a.png"),
        ("train2017/_annotations.coco.json", "train2017/a.png"),
        ("train2017/annotations.json", "train2017/images/a.png"),
    ],
)
def test_layouts_and_subsets(annotation: str, image: str, tmp_path: Path) -> None:
    globals()["image"](tmp_path / image)
    file = write(tmp_path / annotation, document(BOX))
    write(tmp_path / "annotations/captions_train2017.json", {"images": []})
    for path, subset in ((tmp_path, None), (tmp_path, "train2017"), (file, None)):
        files, refused = read(path, subset=subset)
        assert refused == []
        assert isinstance(files["a.png"].labels, Boxes)
    with pytest.raises(DataError, match=r"known: .*train2017"):
        read(tmp_path, subset="val2017")


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (BOX | {"bbox": [1, 2, 0, 3]}, "no area"),
        (BOX | {"bbox": [1, 2, -4, 3]}, "inside out"),
        (BOX | {"bbox": [1, 2, float("nan"), 3]}, "finite"),
        (BOX | {"bbox": [1, 2, 10**400, 3]}, "expected a number"),
        (BOX | {"bbox": [1, 2, 3]}, "bbox of 4 numbers"),
        (BOX | {"bbox": [1, 2, True, None]}, "expected a number"),
        (BOX | {"bbox": None}, "bbox of 4 numbers"),
        (BOX | {"iscrowd": 1}, "crowd"),
        (BOX | {"category_id": 8}, "no category with the id 8"),
        (BOX | {"category_id": [7]}, "no category"),
        (BOX | {"image_id": 5}, "no image with the id 5"),
        (BOX | {"image_id": {}}, "no image"),
        ("text", "no object"),
    ],
)
def test_a_bad_annotation_is_refused_and_the_others_are_taken(annotation: Any, reason: str, folder: Path) -> None:
    write(folder / "annotations.json", document(BOX, annotation, BOX))
    files, refused = read(folder)
    assert len(refused) == 1
    assert reason in refused[0].reason
    assert refused[0].source.startswith("annotations.json: annotation")
    labels = files["a.png"].labels
    assert isinstance(labels, Boxes)
    assert labels.names == ("cat", "cat")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"id": 2, "file_name": "gone.png"}, "not in the set"),
        ({"id": 2, "file_name": "../secret.png"}, "not followed"),
        ({"id": 2, "file_name": "/etc/passwd"}, "not followed"),
        ({"id": 2, "file_name": "c:\\secret.png"}, "not followed"),
        ({"id": 2}, "no file_name"),
        ({"file_name": "a.png"}, "no id"),
        ({"id": 1, "file_name": "a.png"}, "twice"),
        ({"id": 2, "file_name": "a.png"}, "taken before"),
        (None, "no id"),
    ],
)
def test_a_bad_image_entry_is_refused(entry: Any, reason: str, folder: Path) -> None:
    root = folder / "set"
    image(root / "images/a.png")
    image(folder / "secret.png")
    content = document(BOX)
    content["images"].append(entry)
    write(root / "annotations.json", content)
    files, refused = read(root)
    assert len(refused) == 1
    assert reason in refused[0].reason
    assert set(files) == {"a.png"}
    assert isinstance(files["a.png"].labels, Boxes)


@pytest.mark.parametrize("content", ["{", "[]", '{"images": 3}', '{"images": []}', "\x00", "[" * 100_000])
def test_a_file_that_is_not_coco_is_stated_and_among_others_refused(content: str, folder: Path) -> None:
    file = write(folder / "annotations/a.json", content)
    with pytest.raises(DataError, match="not a coco set") as error:
        read(file)
    assert "\n" not in str(error.value)
    write(folder / "annotations/b.json", document(BOX))
    files, refused = read(folder)
    assert [refusal.source for refusal in refused] == ["annotations/a.json"]
    assert isinstance(files["a.png"].labels, Boxes)


SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]
SQUARE_MASK = np.zeros((8, 10), np.uint8)
SQUARE_MASK[1:4, 2:6] = 1


def counts(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return np.diff([0, *edges, flat.size]).tolist()


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        [SQUARE, [3, 2, 5, 2, 5, 3, 3, 3]],
        {"size": [8, 10], "counts": counts(SQUARE_MASK)},
        {"size": [8, 10], "counts": pycoco.encode(np.asfortranarray(SQUARE_MASK))["counts"].decode()},
    ],
)
@pytest.mark.parametrize("crowd", [0, 1])
def test_polygons_and_run_lengths_give_the_same_mask(segmentation: Any, crowd: int, folder: Path) -> None:
    write(folder / "annotations.json", document(BOX | {"segmentation": segmentation, "iscrowd": crowd}))
    files, refused = read(folder, Task.SEGMENT)
    assert refused == []
    assert files["a.png"].labels == Masks({"cat": rle.encode(SQUARE_MASK)})


def test_objects_of_one_category_become_one_mask_in_order_of_appearance(folder: Path) -> None:
    parts = [(9, [0, 0, 1, 0, 1, 8, 0, 8]), (7, SQUARE), (9, [9, 0, 10, 0, 10, 8, 9, 8])]
    write(folder / "annotations.json", document(*(BOX | {"category_id": c, "segmentation": [p]} for c, p in parts)))
    labels = read(folder, Task.SEGMENT)[0]["a.png"].labels
    assert isinstance(labels, Masks)
    assert list(labels.by_name) == ["dog", "cat"]
    assert rle.area(labels.by_name["dog"]) == 16


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ([[1, 2, 3, 4]], "3 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "3 points"),
        ([[1, 1, 1, 1, 1, 1]], "no pixel"),
        ([[1, 2, 3, 4, float("inf"), 6]], "finite"),
        ([[1, 2, 3, 4, "x", 6]], "expected a number"),
        ([[1, 2, 3, 4, 1e9, 6]], "far outside"),
        ([3], "3 points"),
        ("text", "neither"),
        ({"size": [8, 10], "counts": [80]}, "no pixel"),
        ({"size": [8, 10], "counts": [1, 2]}, "do not fill"),
        ({"size": [8, 10], "counts": [100, -40, 20]}, "do not fill"),
        ({"size": [8, 10], "counts": [1.5, 78.5]}, "neither"),
        ({"size": [8, 10], "counts": "garbage!"}, "damaged"),
        ({"size": [8, 10], "counts": "oooo"}, "too early"),
        ({"size": [8, 10], "counts": ""}, "do not fill"),
        ({"size": [8, 10], "counts": None}, "neither"),
        ({"size": [9, 10], "counts": [80, 10]}, "10×9"),
        ({"size": [8]}, "neither"),
    ],
)
def test_a_bad_segmentation_is_refused(segmentation: Any, reason: str, folder: Path) -> None:
    good = BOX | {"segmentation": [SQUARE]}
    write(folder / "annotations.json", document(good, BOX | {"segmentation": segmentation}))
    files, refused = read(folder, Task.SEGMENT)
    assert len(refused) == 1
    assert reason in refused[0].reason
    assert files["a.png"].labels == Masks({"cat": rle.encode(SQUARE_MASK)})


def test_without_a_size_the_image_is_asked(folder: Path) -> None:
    content = document(BOX | {"segmentation": [SQUARE]}, images=[{"id": 1, "file_name": "a.png"}])
    write(folder / "annotations.json", content)
    assert read(folder, Task.SEGMENT)[0]["a.png"].labels == Masks({"cat": rle.encode(SQUARE_MASK)})


def test_a_class_is_the_one_category_of_an_image(folder: Path) -> None:
    write(folder / "annotations.json", document(BOX, BOX | {"id": 2}))
    assert read(folder, Task.CLASSIFY)[0]["a.png"].labels == ImageClass("cat")
    write(folder / "annotations.json", document(BOX, BOX | {"category_id": 9}))
    files, refused = read(folder, Task.CLASSIFY)
    assert files["a.png"].labels is None
    assert "several classes (cat, dog)" in refused[0].reason


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with numpy 2
def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    source = image(tmp_path / "a.png")
    example = Example(Item("k", str(source), 10, 8), Masks({"dog": rle.encode(SQUARE_MASK)}))
    coco.write(
        [example, Example(Item("l", str(source), 10, 8), Masks({}))], tmp_path / "out", Task.SEGMENT, ("cat", "dog")
    )
    reference = COCO(str(tmp_path / "out/annotations.json"))
    (annotation,) = reference.loadAnns(reference.getAnnIds())
    assert np.array_equal(reference.annToMask(annotation), SQUARE_MASK)
    assert reference.loadCats(annotation["category_id"])[0]["name"] == "dog"
    assert (annotation["bbox"], annotation["area"]) == ([2, 1, 4, 3], 12)
    assert [entry["file_name"] for entry in reference.loadImgs(reference.getImgIds())] == ["a.png", "l-a.png"]
