"""Pascal VOC: layouts, and every fault by itself."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alpipe.errors import DataError
from alpipe.formats import voc
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Boxes, Refusal, Task

GOOD = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>"


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8)).save(path)
    return path


def xml(path: Path, body: str, head: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}<annotation>{body}</annotation>")
    return path


def read(path: Path, subset: str | None = None) -> tuple[dict[str, LabelledFile], list[Refusal]]:
    results = list(voc.read(path, ReadRequest(Task.DETECT, ("cat",), subset)))
    files = [result for result in results if isinstance(result, LabelledFile)]
    refused = [result for result in results if isinstance(result, Refusal)]
    assert len({file.image for file in files}) == len(files)
    return {file.image.name: file for file in files}, refused


def bounds(xmin: object, ymin: object, xmax: object, ymax: object) -> str:
    inner = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>cat</name><bndbox>{inner}</bndbox></object>"


def test_coordinates_are_taken_as_they_stand_and_the_stated_size_is_passed_on(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/a.png")
    xml(tmp_path / "Annotations/a.xml", f"<size><width>20</width><height>16</height></size>{GOOD}")
    files, refused = read(tmp_path)
    assert refused == []
    assert files["a.png"].labels == Boxes(np.array([[1, 2, 5, 6]], np.float32), ("cat",))
    assert files["a.png"].size == (20, 16)
    assert files["a.png"].source == "Annotations/a.xml"


def test_an_xml_without_object_is_empty_and_an_image_without_xml_says_nothing(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/empty.png")
    image(tmp_path / "JPEGImages/unseen.png")
    xml(tmp_path / "Annotations/empty.xml", "")
    files, refused = read(tmp_path)
    assert refused == []
    assert files["empty.png"].labels == Boxes.none()
    assert files["unseen.png"].labels is None


def test_a_subset_is_a_list_of_image_sets(tmp_path: Path) -> None:
    for name in ("a", "b", "c d", "unseen"):
        image(tmp_path / f"JPEGImages/{name}.png")
    for name in ("a", "b", "c d"):
        xml(tmp_path / f"Annotations/{name}.xml", GOOD)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n\nc d\nunseen\na\nmissing\n../../secret\n")
    (lists / "cat_train.txt").write_text("a  1\nb -1\n")
    files, refused = read(tmp_path, "val")
    assert set(files) == {"a.png", "c d.png", "unseen.png"}
    assert files["unseen.png"].labels is None
    assert [refusal.source for refusal in refused] == [f"ImageSets/Main/val.txt: line {n}" for n in (5, 6, 7)]
    assert "twice" in refused[0].reason
    assert "neither image nor XML" in refused[1].reason
    assert "leaves" in refused[2].reason
    assert set(read(tmp_path, "cat_train")[0]) == {"a.png", "b.png"}
    with pytest.raises(DataError, match="known: cat_train, val"):
        read(tmp_path, "test")


def test_xml_files_beside_the_images(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    xml(tmp_path / "a.xml", GOOD)
    files, refused = read(tmp_path)
    assert refused == []
    assert isinstance(files["a.jpg"].labels, Boxes)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (bounds(5, 2, 5, 6), "no area"),
        (bounds(5, 2, 1, 6), "inside out"),
        (bounds("many", 2, 5, 6), "xmin is 'many'"),
        (bounds("nan", 2, 5, 6), "finite"),
        (bounds(1, 2, "inf", 6), "finite"),
        (bounds(1, 2, "1e39", 6), "finite"),
        (bounds(16777216, 2, 16777217, 6), "no area"),
        (bounds("", 2, 5, 6), "xmin is missing"),
        ("<object><name>cat</name></object>", "bndbox"),
        ("<object><name>cat</name><bndbox/></object>", "missing"),
        (GOOD.replace("cat", " "), "no name"),
        (GOOD.replace("<name>cat</name>", ""), "no name"),
    ],
)
def test_a_bad_object_is_refused_and_the_others_are_taken(body: str, reason: str, tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/a.png")
    xml(tmp_path / "Annotations/a.xml", GOOD + body + GOOD)
    files, refused = read(tmp_path)
    assert [refusal.source for refusal in refused] == ["Annotations/a.xml: object 2"]
    assert reason in refused[0].reason
    assert files["a.png"].labels == Boxes(np.array([[1, 2, 5, 6]] * 2, np.float32), ("cat", "cat"))


def test_an_image_whose_only_object_was_refused_is_not_taken_for_empty(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/a.png")
    xml(tmp_path / "Annotations/a.xml", bounds(5, 2, 5, 6))
    files, refused = read(tmp_path)
    assert len(refused) == 1
    assert files["a.png"].labels is None


LAUGHS = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<annotation><object>", "broken"),
        (b"", "broken"),
        (b"\xff\xfe\x00garbage", "broken"),
        (b"<?xml version='1.0' encoding='klingon'?><annotation/>", "broken"),
        (b"<html/>", "<html>"),
        (f"{LAUGHS}<annotation>&y;</annotation>".encode(), "DOCTYPE"),
        (f"{OUTSIDE}<annotation><object><name>&x;</name></object></annotation>".encode(), "DOCTYPE"),
        (f"{LAUGHS}<annotation>&y;</annotation>".encode("utf-16"), "DOCTYPE"),
    ],
)
def test_a_bad_xml_is_refused_and_its_image_has_no_labels(content: bytes, reason: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"JPEGImages/{name}.png")
    xml(tmp_path / "Annotations/b.xml", GOOD)
    (tmp_path / "Annotations/a.xml").write_bytes(content)
    files, refused = read(tmp_path)
    assert [refusal.source for refusal in refused] == ["Annotations/a.xml"]
    assert reason in refused[0].reason
    assert files["a.png"].labels is None
    assert isinstance(files["b.png"].labels, Boxes)


@pytest.mark.parametrize(
    "names",
    [
        "<filename>real.png</filename>",
        "<filename>gone.png</filename><path>C:\\Users\\me\\JPEGImages\\real.png</path>",
        "<path>/home/pi/JPEGImages/real.png</path>",
        "<filename>../../elsewhere/real.png</filename>",
        "<filename>REAL.PNG</filename>",
    ],
)
def test_the_image_is_found_by_the_names_in_the_xml(names: str, tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/real.png")
    xml(tmp_path / "Annotations/a.xml", names + GOOD)
    files, refused = read(tmp_path)
    assert refused == []
    assert isinstance(files["real.png"].labels, Boxes)


@pytest.mark.parametrize("name", ["../secret.png", "{outside}/secret.png", "..", "", "x" * 5000 + ".png", "nul\\0.png"])
def test_a_path_never_leaves_the_set(name: str, tmp_path: Path) -> None:
    secret = image(tmp_path / "secret.png")
    image(tmp_path / "set/JPEGImages/other.png")
    xml(tmp_path / "set/Annotations/a.xml", f"<filename>{name.format(outside=secret.parent)}</filename>{GOOD}")
    files, refused = read(tmp_path / "set")
    assert set(files) == {"other.png"}
    assert [refusal.source for refusal in refused] == ["Annotations/a.xml"]


def test_two_files_for_one_image_are_not_both_taken(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/a.png")
    xml(tmp_path / "Annotations/a.xml", GOOD)
    xml(tmp_path / "Annotations/b.xml", f"<filename>a.png</filename>{GOOD}")
    files, refused = read(tmp_path)
    assert set(files) == {"a.png"}
    assert refused == [Refusal("Annotations/b.xml", "the image a.png was taken before, from Annotations/a.xml")]


def test_an_ambiguous_name_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/a.png")
    image(tmp_path / "JPEGImages/a.jpg")
    xml(tmp_path / "Annotations/a.xml", GOOD)
    files, refused = read(tmp_path)
    assert "any of 2 images" in refused[0].reason
    assert all(file.labels is None for file in files.values())
