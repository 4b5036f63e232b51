"""One folder a class."""

from pathlib import Path

import pytest
from PIL import Image

from alpipe.errors import DataError
from alpipe.formats import folders
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Boxes, Example, ImageClass, Item, Refusal, Task


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 2)).save(path)
    return path


def read(root: Path, subset: str | None = None) -> tuple[dict[str, LabelledFile], list[Refusal]]:
    results = list(folders.read(root, ReadRequest(Task.CLASSIFY, ("cat", "dog"), subset)))
    files = {r.image.relative_to(root).as_posix(): r for r in results if isinstance(r, LabelledFile)}
    return files, [r for r in results if isinstance(r, Refusal)]


def test_the_folder_is_the_class_and_files_that_are_no_image_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "cat/a.jpg")
    image(tmp_path / "dog/deep/er/b.PNG")
    image(tmp_path / "_empty/c.jpg")
    image(tmp_path / "loose.jpg")
    image(tmp_path / ".hidden/d.jpg")
    (tmp_path / "dog/notes.txt").write_text("hello")
    (tmp_path / "dog/.DS_Store").write_text("")
    files, refused = read(tmp_path)
    assert {name: file.labels for name, file in files.items()} == {
        "cat/a.jpg": ImageClass("cat"),
        "dog/deep/er/b.PNG": ImageClass("dog"),
        "_empty/c.jpg": None,
        "loose.jpg": None,
    }
    assert [r.source for r in refused] == ["dog/notes.txt"]


def test_a_subset_is_a_folder_of_class_folders(tmp_path: Path) -> None:
    image(tmp_path / "train/cat/a.jpg")
    image(tmp_path / "test/dog/b.jpg")
    with pytest.raises(DataError, match="name one by --subset: test, train"):
        read(tmp_path)
    files, _ = read(tmp_path, "test")
    assert {name: file.labels for name, file in files.items()} == {"test/dog/b.jpg": ImageClass("dog")}
    with pytest.raises(DataError, match="folders: test, train"):
        read(tmp_path, "val")


def test_classes_named_as_splits_are_classes_where_they_hold_images(tmp_path: Path) -> None:
    image(tmp_path / "train/a.jpg")
    image(tmp_path / "test/b.jpg")
    assert read(tmp_path)[0]["train/a.jpg"].labels == ImageClass("train")


def test_a_reviewed_image_without_class_is_written_apart(tmp_path: Path) -> None:
    item = Item("k", str(image(tmp_path / "a.jpg")), 4, 2)
    folders.write([Example(item, Boxes.none())], tmp_path / "out", Task.CLASSIFY, ("cat",))
    assert (tmp_path / "out/_empty/a.jpg").is_file()


@pytest.mark.parametrize("name", ["a/b", "..", ".cat", "", "_empty", "a\\b"])
def test_a_class_that_cannot_be_a_folder_is_stated(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name of a folder"):
        folders.write([], tmp_path / "out", Task.CLASSIFY, (name,))
    assert not (tmp_path / "out").exists()
