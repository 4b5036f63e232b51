"""What is served to browsers: copies of what they can show, PNG of all else, always the image as displayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alpipe import images as base
from alpipe.annotators.studio import images
from alpipe.errors import DataError
from alpipe.types import Item

TORTURE = Path(__file__).parents[1].parent / "shared" / "data" / "torture"


def item_of(path: Path) -> Item:
    height, width = base.read(path).shape[:2]
    return Item("key", str(path), width, height)


def save(path: Path, mode: str, **options: object) -> Item:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)  # type: ignore[arg-type]
    return item_of(path)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.jpg", "RGB"), ("a.JPEG", "L"), ("a.png", "P"), ("a.webp", "RGB"), ("a.bmp", "RGB")]
)
def test_what_browsers_show_is_copied_byte_for_byte(tmp_path: Path, name: str, mode: str) -> None:
    item = save(tmp_path / name, mode)
    placed = images.place(item, tmp_path / "served")
    assert placed.read_bytes() == item.path.read_bytes()
    assert placed.suffix == Path(name.replace("JPEG", "jpg")).suffix
    assert not placed.is_symlink()
    assert placed.stat().st_ino != item.path.stat().st_ino, "a copy, not a hard link to the original"


@pytest.mark.parametrize(("name", "mode"), [("a.tif", "RGB"), ("a.jpg", "CMYK"), ("a.png", "I;16")])
def test_all_else_becomes_a_png_with_the_same_pixels(tmp_path: Path, name: str, mode: str) -> None:
    path = tmp_path / name
    if mode == "I;16":
        Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(path)
        item = item_of(path)
    else:
        item = save(path, mode)
    placed = images.place(item, tmp_path / "served")
    with Image.open(placed) as served:
        assert served.format == "PNG"
    np.testing.assert_array_equal(base.read(placed), base.read(path))


def test_the_suffix_follows_the_content_not_the_name(tmp_path: Path) -> None:
    item = save(tmp_path / "page.html", "RGB", format="PNG")
    assert images.place(item, tmp_path / "served").suffix == ".png"


@pytest.mark.parametrize("text", ["<svg xmlns='http://www.w3.org/2000/svg'/>", "<html><script>1</script></html>", ""])
def test_what_is_no_raster_image_is_never_served(tmp_path: Path, text: str) -> None:
    path = tmp_path / "picture.png"
    path.write_text(text)
    with pytest.raises(DataError, match=r"picture\.png"):
        images.place(Item("key", str(path), 8, 8), tmp_path / "served")
    assert not list(tmp_path.glob("served/*"))


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_a_file_that_changed_since_it_was_added_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, "RGB")
    with pytest.raises(DataError, match="is 12×8 pixels but was 5×5 when it was added"):
        images.place(Item("key", str(tmp_path / name), 5, 5), tmp_path / "served")


def test_addresses_are_quoted(tmp_path: Path) -> None:
    assert images.url(tmp_path / "a b" / "ü&.png", tmp_path) == "/data/local-files/?d=a%20b/%C3%BC%26.png"


@pytest.mark.skipif(not TORTURE.is_dir(), reason="the torture images are not beside this checkout")
def test_every_readable_torture_image_is_served_as_it_is_displayed(tmp_path: Path) -> None:
    served = 0
    for path in sorted(path for path in TORTURE.rglob("*") if path.is_file()):
        try:
            item = item_of(path)
        except DataError:
            continue
        placed = images.place(item, tmp_path / str(served))
        with Image.open(placed) as image:
            assert image.format in images.SUFFIXES, path
        np.testing.assert_array_equal(base.read(placed), base.read(path), err_msg=str(path))
        served += 1
    assert served
