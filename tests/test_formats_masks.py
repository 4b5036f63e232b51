"""Mask images: what values, palettes and colours mean, and every fault by itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alpipe import rle
from alpipe.errors import DataError
from alpipe.formats import masks
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Masks, Refusal, Task

VALUES = np.array([[0, 1, 1, 2], [0, 0, 2, 2]], np.uint8)
TWO = ("cat", "dog")
EXPECTED = rle.from_class_map(VALUES, TWO)
COLOURS = (("cat", (255, 0, 0)), ("dog", (0, 255, 0)), ("background", (0, 0, 0)))
RGB = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[VALUES]


def put(root: Path, mask: Image.Image | None, name: str = "a", kind: str = "png", folder: str = "masks") -> Path:
    """An image with a mask; returns the path of the mask."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 2)).save(root / "images" / f"{name}.jpg")
    path = root / folder / f"{name}.{kind}"
    if mask is not None:
        mask.save(path)
    return path


def palette(values: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist()) if not hasattr(image, "frombytes") else image.frombytes(values.tobytes())
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def read(root: Path, classes: tuple[str, ...] = TWO, **request: Any) -> tuple[dict[str, LabelledFile], list[Refusal]]:
    results = list(masks.read(root, ReadRequest(Task.SEGMENT, classes, **request)))
    files = {result.image.stem: result for result in results if isinstance(result, LabelledFile)}
    return files, [result for result in results if isinstance(result, Refusal)]


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(VALUES),
        Image.fromarray(VALUES.astype(np.uint16)),
        Image.fromarray(VALUES.astype(np.int32)),
        Image.fromarray(np.stack([VALUES] * 3, axis=-1)),
        palette(VALUES, (9, 9, 9), (200, 0, 0), (0, 200, 0)),
    ],
    ids=["8 bit", "16 bit", "32 bit", "grey RGB", "palette"],
)
def test_value_i_is_the_i_th_label(mask: Image.Image, tmp_path: Path) -> None:
    kind = "tif" if mask.mode == "I" else "png"
    put(tmp_path, mask, kind=kind)
    files, refused = read(tmp_path)
    assert refused == []
    assert files["a"].labels == EXPECTED
    assert files["a"].size == (4, 2)
    assert files["a"].source == f"masks/a.{kind}"


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray((VALUES > 0) * np.uint8(255)),
        Image.fromarray(VALUES.astype(np.uint16) * 1000),
        Image.fromarray(VALUES > 0),
        Image.fromarray(np.stack([VALUES * 100] * 3, axis=-1)),
    ],
    ids=["0 and 255", "instances", "1 bit", "grey RGB"],
)
def test_with_one_label_every_value_but_0_is_it(mask: Image.Image, tmp_path: Path) -> None:
    put(tmp_path, mask)
    files, refused = read(tmp_path, ("cell",))
    assert refused == []
    assert files["a"].labels == Masks({"cell": rle.encode(VALUES)})


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_where_they_are_given(mode: str, tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(RGB).convert(mode))
    files, refused = read(tmp_path, colours=COLOURS)
    assert refused == []
    assert files["a"].labels == EXPECTED


def test_names_of_the_background_stand_for_no_label_unless_the_project_has_them(tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(RGB))
    for name in ("background", "Unlabelled", "unlabeled"):
        colours = (*COLOURS[:2], (name, (0, 0, 0)))
        assert read(tmp_path, colours=colours)[0]["a"].labels == EXPECTED
    labels = read(tmp_path, (*TWO, "background"), colours=COLOURS)[0]["a"].labels
    assert isinstance(labels, Masks)
    assert rle.area(labels.by_name["background"]) == 3


def test_background_only_was_reviewed_and_no_mask_says_nothing(tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(VALUES * 0), "empty")
    put(tmp_path, None, "unseen")
    for classes in (TWO, ("cell",)):
        files, refused = read(tmp_path, classes)
        assert refused == []
        assert files["empty"].labels == Masks({})
        assert files["unseen"].labels is None


FLOATS = Image.fromarray(VALUES.astype(np.float32))


@pytest.mark.parametrize(
    ("mask", "kind", "reason"),
    [
        (Image.fromarray(VALUES * 100), "png", "value 100 (25 % of the pixels), 200 (37.5 % of the pixels), beyond"),
        (Image.fromarray(RGB), "png", "coded by colour (#000000 37.5 % of the pixels, #"),
        (palette(VALUES * 2, *[(i, 0, 0) for i in range(5)]), "png", "index 4, but there are 2 labels"),
        (FLOATS, "tif", "mode F"),
        (Image.fromarray(VALUES), "jpg", "JPEG"),
    ],
    ids=["values", "colours", "palette", "floats", "jpeg"],
)
def test_a_mask_that_cannot_be_understood_is_refused(mask: Image.Image, kind: str, reason: str, tmp_path: Path) -> None:
    put(tmp_path, mask, kind=kind)
    put(tmp_path, Image.fromarray(VALUES), "good")
    files, refused = read(tmp_path)
    assert [r.source for r in refused] == [f"masks/a.{kind}"]
    assert reason in refused[0].reason
    assert files["a"].labels is None
    assert files["good"].labels == EXPECTED


def test_a_colour_that_is_not_listed_is_named_with_its_share(tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(RGB))
    files, refused = read(tmp_path, colours=(COLOURS[0], COLOURS[2]))
    assert "#00FF00 37.5 % of the pixels" in refused[0].reason
    assert files["a"].labels is None


def test_palettes_that_disagree_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, palette(VALUES, (0, 0, 0), (255, 0, 0), (0, 255, 0)), "a")
    put(tmp_path, palette(VALUES, (0, 0, 0), (0, 255, 0), (255, 0, 0)), "b")
    files, refused = read(tmp_path)
    assert all("the palettes of a.png and b.png" in r.reason for r in refused)
    assert [file.labels for file in files.values()] == [None, None]
    files, refused = read(tmp_path, colours=COLOURS)
    assert refused == []
    assert files["a"].labels == EXPECTED
    assert files["b"].labels == rle.from_class_map(np.array([0, 2, 1])[VALUES], TWO) or files["b"].labels == Masks(
        {name: EXPECTED.by_name[other] for name, other in (("cat", "dog"), ("dog", "cat"))}
    )


def test_palettes_beside_colours_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, palette(VALUES, (0, 0, 0), (255, 0, 0), (0, 255, 0)), "a")
    put(tmp_path, Image.fromarray(RGB), "b")
    _, refused = read(tmp_path)
    assert len(refused) == 2
    assert "coded by colour (b.png)" in refused[0].reason


def test_a_jpeg_mask_of_one_label_is_what_is_half_bright(tmp_path: Path) -> None:
    values = np.zeros((16, 16), np.uint8)
    values[:, 8:] = 255
    path = put(tmp_path, None, kind="jpg")
    Image.fromarray(values).save(path)
    assert read(tmp_path, ("cell",))[0]["a"].labels == Masks({"cell": rle.encode(values)})


def test_a_damaged_mask_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 3, (90, 90), np.uint8)))
    path.write_bytes(path.read_bytes()[:300])
    put(tmp_path, None, "b").write_bytes(b"nothing")
    files, refused = read(tmp_path)
    assert {r.source for r in refused} == {"masks/a.png", "masks/b.png"}
    assert all("cannot be read" in r.reason for r in refused)
    assert set(files) == {"a", "b"}


@pytest.mark.parametrize("folder", ["masks", "mask", "labels", "annotations", "SegmentationClass"])
def test_names_of_the_folder_of_masks(folder: str, tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(VALUES), folder=folder)
    assert read(tmp_path)[0]["a"].labels == EXPECTED


def test_tiles_splits_and_endings(tmp_path: Path) -> None:
    for tile in ("Tile_1", "Tile_2"):
        put(tmp_path / tile, Image.fromarray(VALUES)).rename(tmp_path / tile / "masks" / "a_mask.png")
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "masks" / split).mkdir(parents=True)
        Image.new("RGB", (4, 2)).save(tmp_path / "images" / split / f"{split}.jpg")
        Image.fromarray(VALUES).save(tmp_path / "masks" / split / f"{split}.png")
    results = list(masks.read(tmp_path, ReadRequest(Task.SEGMENT, TWO)))
    assert len(results) == 4
    assert all(isinstance(result, LabelledFile) and result.labels == EXPECTED for result in results)
    for subset, count in (("Tile_2", 1), ("val", 1), ("images", 4)):
        assert len(list(masks.read(tmp_path, ReadRequest(Task.SEGMENT, TWO, subset)))) == count
    with pytest.raises(DataError, match="Tile_3"):
        read(tmp_path, subset="Tile_3")


def test_a_mask_without_image_and_two_masks_for_one_are_refused(tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(VALUES), "a")
    put(tmp_path, Image.fromarray(VALUES), "a", kind="bmp")
    put(tmp_path, Image.fromarray(VALUES), "gone")
    (tmp_path / "images/gone.jpg").unlink()
    files, refused = read(tmp_path)
    assert [(r.source, r.reason[:20]) for r in refused] == [
        ("masks/a.bmp", "image a.jpg has 2 ma"),
        ("masks/gone.png", "there is no image fo"),
    ]
    assert files["a"].labels is None


def test_the_names_of_the_set_come_before_those_of_the_project(tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(VALUES))
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    labels = read(tmp_path)[0]["a"].labels
    assert isinstance(labels, Masks)
    assert labels.by_name["dog"] == EXPECTED.by_name["cat"]


def test_one_colour_for_two_labels_is_stated(tmp_path: Path) -> None:
    put(tmp_path, Image.fromarray(RGB))
    with pytest.raises(DataError, match="#FF0000 is given to both 'cat' and 'dog'"):
        read(tmp_path, colours=(("cat", (255, 0, 0)), ("dog", (255, 0, 0))))


@pytest.mark.parametrize(
    "document",
    [
        {"cat": "#FF0000", "dog": "#00ff00", "background": "000000"},
        {
            "classes": [
                {"title": "cat", "color": "#FF0000"},
                {"name": "dog", "colour": "#00FF00"},
                {"title": "background", "color": "#000000", "shape": "polygon"},
            ]
        },
    ],
)
def test_colours_from_a_file(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "colours.json"
    path.write_text(json.dumps(document))
    assert masks.read_colours(path) == COLOURS


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"a": 3}', '{"a": "red"}', '{"a": "#FFF"}', '{"classes": [{}]}', '{"classes": [3]}', "\x00"],
)
def test_a_bad_file_of_colours_is_stated(content: str, tmp_path: Path) -> None:
    path = tmp_path / "colours.json"
    path.write_text(content)
    with pytest.raises(DataError):
        masks.read_colours(path)
    with pytest.raises(DataError, match=r"gone\.json"):
        masks.read_colours(tmp_path / "gone.json")
    path.write_text('{"a": "#112233", "b": "#112233"}')
    with pytest.raises(DataError, match="given to both"):
        masks.read_colours(path)
