"""YOLO: layouts, and every fault by itself."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from alpipe import rle
from alpipe.errors import DataError
from alpipe.formats import yolo
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Boxes, Masks, Refusal, Task

BOX = "0 0.5 0.5 0.5 0.25\n"
XYXY = np.array([[5, 3, 15, 5]], np.float32)
"""BOX in an image of 20×8."""


def image(path: Path, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (20, 8)).save(path, exif=exif)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def read(
    path: Path, subset: str | None = None, task: Task = Task.DETECT
) -> tuple[dict[str, LabelledFile], list[Refusal]]:
    results = list(yolo.read(path, ReadRequest(task, ("cat", "dog"), subset)))
    files = {result.image.name: result for result in results if isinstance(result, LabelledFile)}
    return files, [result for result in results if isinstance(result, Refusal)]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("images/train", "labels/train"),
        ("train/images", "train/labels"),
        ("", ""),
        ("obj_train_data", "obj_train_data"),
        ("pictures", "labels"),
    ],
)
def test_layouts(images: str, labels: str, tmp_path: Path) -> None:
    image(tmp_path / images / "a.jpg")
    image(tmp_path / images / "empty.jpg")
    image(tmp_path / images / "unseen.jpg")
    text(tmp_path / labels / "a.txt", BOX)
    text(tmp_path / labels / "empty.txt", "\n")
    text(tmp_path / "classes.txt", "cat\ndog\n")
    files, refused = read(tmp_path)
    assert refused == []
    assert files["a.jpg"].labels == Boxes(XYXY, ("cat",))
    assert files["a.jpg"].size == (20, 8)
    assert files["empty.jpg"].labels == Boxes.none()
    assert files["unseen.jpg"].labels is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shares_are_of_the_image_as_displayed(orientation: int, tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg", orientation)
    text(tmp_path / "labels/a.txt", "0 0.5 0.5 1 1\n")
    files, _ = read(tmp_path)
    labels = files["a.jpg"].labels
    assert isinstance(labels, Boxes)
    assert labels.xyxy.tolist() == [[0, 0, 20, 8] if orientation < 5 else [0, 0, 8, 20]]


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        ("classes.txt", "eins\nzwei\n", "eins"),
        ("obj.names", "eins\nzwei\n", "eins"),
        ("data.yaml", "names: [eins, zwei]\n", "eins"),
        ("data.yaml", "names:\n  0: eins\n  7: zwei\n", "eins"),
        ("data.yaml", "names: {'0': eins}\n", "eins"),
        ("readme.txt", "", "cat"),
    ],
)
def test_names_come_from_the_set_else_from_the_project(file: str, content: str, name: str, tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", BOX)
    text(tmp_path / file, content)
    files, refused = read(tmp_path)
    assert refused == []
    assert files["a.jpg"].labels == Boxes(XYXY, (name,))


@pytest.mark.parametrize("train", ["train/images", "../train/images", "[train/images]", "train.txt"])
@pytest.mark.parametrize("base", ["", "path: .\n", "path: ../set\n", "path: /home/me/set\n"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_dataset_yaml(train: str, base: str, whole: bool, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split in ("train", "val"):
        image(root / split / "images" / f"{split}.jpg")
        text(root / split / "labels" / f"{split}.txt", BOX)
    text(root / "train.txt", "./train/images/train.jpg\n")
    text(root / "data.yaml", f"{base}train: {train}\nval: val/images\nnames: [cat]\n")
    path = root if whole else root / "data.yaml"
    assert set(read(path)[0]) == {"train.jpg", "val.jpg"}
    assert set(read(path, "train")[0]) == {"train.jpg"}
    assert set(read(path, "valid")[0]) == {"val.jpg"}
    with pytest.raises(DataError, match="no subset 'test'"):
        read(path, "test")


def test_a_yaml_does_not_lead_out_of_the_set(tmp_path: Path) -> None:
    image(tmp_path / "secret/images/s.jpg")
    text(tmp_path / "secret/labels/s.txt", BOX)
    image(tmp_path / "set/images/a.jpg")
    text(tmp_path / "set/labels/a.txt", BOX)
    for entry in ("../secret/images", str(tmp_path / "secret/images"), "images/../../secret/images"):
        text(tmp_path / "set/data.yaml", f"train: {entry}\nval: images\nnames: [cat]\n")
        files, refused = read(tmp_path / "set")
        assert set(files) == {"a.jpg"}
        assert [refusal.source for refusal in refused] == ["data.yaml: train"]
    text(tmp_path / "set/train.txt", f"{tmp_path}/secret/images/s.jpg\n../secret/images/s.jpg\nimages/a.jpg\n")
    text(tmp_path / "set/data.yaml", "train: train.txt\nnames: [cat]\n")
    files, refused = read(tmp_path / "set")
    assert set(files) == {"a.jpg"}
    assert [refusal.source for refusal in refused] == ["train.txt: line 1", "train.txt: line 2"]


@pytest.mark.parametrize("content", ["names: [a\n", "names: 3\n", "names: {a: b}\n"])
def test_a_broken_yaml_is_stated(content: str, tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", BOX)
    text(tmp_path / "data.yaml", content)
    with pytest.raises(DataError, match=r"data\.yaml") as error:
        read(tmp_path / "data.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.5 0.25", "class index 2"),
        ("-1 0.5 0.5 0.5 0.25", "class index -1"),
        ("0.5 0.5 0.5 0.5 0.25", "class index 0.5"),
        ("cat 0.5 0.5 0.5 0.25", "class index is 'cat'"),
        ("0 0.5 0.5 0 0.25", "no area"),
        ("0 0.5 0.5 nan 0.25", "finite"),
        ("0 x 0.5 0.5 0.25", "'x'"),
        ("0 0.5 0.5 0.5", "4 columns"),
        ("0 0.5 0.5 0.5 0.25 0.99", "6 columns"),
        ("0 10 4 10 2", "not within 0 and 1"),
        ("0 0.5 0.5 -0.5 0.25", "not within 0 and 1"),
        ("0", "1 columns"),
    ],
)
def test_a_bad_line_is_refused_and_the_others_are_taken(line: str, reason: str, tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", f"{BOX}{line}\n{BOX}")
    files, refused = read(tmp_path)
    assert [refusal.source for refusal in refused] == ["labels/a.txt: line 2"]
    assert reason in refused[0].reason
    labels = files["a.jpg"].labels
    assert isinstance(labels, Boxes)
    assert len(labels.names) == 2


def test_a_label_file_without_image_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", BOX)
    text(tmp_path / "labels/gone.txt", BOX)
    text(tmp_path / "README.txt", "hello")
    _, refused = read(tmp_path)
    assert refused == [Refusal("labels/gone.txt", "there is no image for this label file")]


def test_an_unreadable_label_file_or_image_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    (tmp_path / "images/b.jpg").write_bytes(b"no image")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_bytes(b"\xff\xfe0\x00")
    text(tmp_path / "labels/b.txt", BOX)
    files, refused = read(tmp_path)
    assert {refusal.source for refusal in refused} == {"labels/a.txt", "labels/b.txt"}
    assert files["a.jpg"].labels is None
    assert "b.jpg" not in files


def test_polygons_become_masks_or_boxes_and_a_box_is_no_outline(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", "1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75\n1 0.9 0 1 0 1 0.125 0.9 0.125\n" + BOX)
    files, refused = read(tmp_path, task=Task.SEGMENT)
    assert ["no outline" in refusal.reason for refusal in refused] == [True]
    expected = np.zeros((8, 20), np.uint8)
    expected[2:6, 2:10] = expected[0, 18:] = 1
    assert files["a.jpg"].labels == Masks({"dog": rle.encode(expected)})
    files, refused = read(tmp_path)
    assert refused == []
    labels = files["a.jpg"].labels
    assert isinstance(labels, Boxes)
    np.testing.assert_allclose(labels.xyxy[:2], [[2, 2, 10, 6], [18, 0, 20, 1]], atol=1e-5)


def test_a_subset_is_a_folder_too(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        image(tmp_path / split / "images" / f"{split}.jpg")
        text(tmp_path / split / "labels" / f"{split}.txt", BOX)
        text(tmp_path / split / "labels" / "gone.txt", BOX)
    files, refused = read(tmp_path, "val")
    assert set(files) == {"valid.jpg"}
    assert [refusal.source for refusal in refused] == ["valid/labels/gone.txt"]
    with pytest.raises(DataError, match="known: train, valid"):
        read(tmp_path, "test")


def test_the_label_files_alone_or_the_images_alone_are_no_set(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "classes.txt", "cat\n")
    with pytest.raises(DataError, match="label files"):
        read(tmp_path)
