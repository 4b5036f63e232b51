"""Every image file ends as 8-bit RGB as a person sees it, or as a DataError."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alpipe import images
from alpipe.errors import DataError

TORTURE = Path(__file__).parents[1].parent / "shared" / "data" / "torture"
TORTURED = sorted(path for path in TORTURE.rglob("*") if path.is_file()) if TORTURE.is_dir() else []
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
}


def noise(height: int = 40, width: int = 60, channels: int = 3) -> npt.NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def outcome(function: Callable[[Path], Any], path: Path) -> Any:
    try:
        return function(path)
    except DataError as error:
        return error


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.skipif(not TORTURED, reason="the torture files (../shared/data/torture) are not here")
@pytest.mark.parametrize("path", TORTURED, ids=lambda path: path.name)
def test_a_torture_file_is_an_image_or_a_data_error(path: Path) -> None:
    facts, pixels = outcome(images.inspect, path), outcome(images.read, path)
    if isinstance(facts, DataError):
        assert str(facts) == str(pixels)
        assert str(facts).startswith(str(path))
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape == (facts.height, facts.width, 3)


@pytest.mark.skipif(not TORTURED, reason="the torture files (../shared/data/torture) are not here")
@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
def test_exif_orientations_all_show_the_same_picture(kind: str) -> None:
    def small(number: int) -> npt.NDArray[Any]:
        picture = Image.fromarray(images.read(TORTURE / "exif" / f"{kind}_{number}.jpg"))
        return np.asarray(picture.resize((60, 60)), np.float32)

    upright = small(1)
    for number in range(2, 9):
        # The number drawn into each picture differs, so a few pixels do too.
        assert np.mean(np.abs(small(number) - upright) > 40) < 0.1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_image_is_turned_as_exif_says_and_the_facts_are_of_the_turned_image(
    tmp_path: Path, orientation: int, file_format: str
) -> None:
    corners = np.zeros((16, 32, 3), np.uint8)
    corners[:8, :16] = 255  # where it is stored: top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    Image.fromarray(corners).save(path, file_format, exif=exif)
    facts, pixels = images.inspect(path), images.read(path)
    assert (facts.width, facts.height) == ((32, 16) if orientation < 5 else (16, 32))
    assert facts.orientation == orientation
    # EXIF names the corner in which the stored top left is displayed (TIFF 6.0, tag 274).
    bottom, right = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[
        orientation
    ]
    assert pixels[-3 if bottom else 2, -3 if right else 2].min() > 200
    assert pixels[2 if bottom else -3, 2 if right else -3].max() < 60


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_cut_in_half_is_refused(tmp_path: Path, file_format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, file_format, **FORMATS[file_format])
    path = tmp_path / "cut"
    path.write_bytes(buffer.getvalue())
    images.inspect(path)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DataError, match="cut"):
        images.inspect(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file_format=st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "WEBP"]),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0, 1),
)
def test_no_damage_ends_in_anything_but_an_image_or_a_data_error(
    tmp_path: Path, file_format: str, damage: list[tuple[int, int]], keep: float
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(12, 12)).save(buffer, file_format)
    data = bytearray(buffer.getvalue())
    for at, value in damage:
        data[at % len(data)] = value
    path = tmp_path / "damaged"
    path.write_bytes(data[: max(1, round(len(data) * keep))])
    try:
        facts = images.inspect(path)
    except DataError:
        return
    assert images.read(path).shape == (facts.height, facts.width, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (png_header(60_000, 60_000), "more than the 178,956,970"),
        (png_header(13_500, 13_500), "more than the 178,956,970"),
        (png_header(2**31 - 1, 1), "."),
        (png_header(0, 5), "."),
        (png_header(300, 300), "."),
    ],
    ids=["empty", "text", "bomb", "over the limit", "wide", "no width", "too little data"],
)
def test_files_that_are_no_image_and_absurd_headers_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        images.inspect(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: there is no such file"):
        images.read(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="is a directory"):
        images.read(tmp_path)


def test_a_postscript_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    Image.fromarray(noise()).save(path, "EPS")
    with pytest.raises(DataError, match="EPS files are not read"):
        images.read(path)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"]
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    rgb = Image.fromarray(noise())
    match mode:
        case "I;16":
            image = Image.fromarray(noise()[..., 0].astype(np.uint16) * 200)
        case "LAB":
            image = Image.merge("LAB", rgb.split())
        case "PA":
            image = rgb.convert("P").convert("PA")
        case _:
            image = rgb.convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    pixels, facts = images.read(path), images.inspect(path)
    assert pixels.shape == (40, 60, 3)
    assert pixels.flags.writeable
    assert pixels.std() > 1
    assert bool(facts.note) == (facts.mode in ("CMYK", "YCbCr", "LAB", "I;16", "I", "F")), facts


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((10, 10, 4), np.uint8)
    rgba[:5, :, 3] = 255
    path = tmp_path / "half.png"
    Image.fromarray(rgba).save(path)
    pixels, facts = images.read(path), images.inspect(path)
    assert (pixels[:5] == 0).all()
    assert (pixels[5:] == 255).all()
    assert facts.note == "transparent parts on white"
    assert not images.is_browser_friendly(facts)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_scaled_between_their_percentiles(tmp_path: Path, dtype: type) -> None:
    values: npt.NDArray[Any] = np.random.default_rng(1).normal(3000, 200, (200, 300)).astype(dtype)
    values[0, 0], values[-1, -1] = 60_000, 0  # a hot and a dead pixel
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    low, high = np.percentile(values, [0.1, 99.9])
    expected = np.clip((values.astype(np.float64) - low) / (high - low) * 255, 0, 255)
    pixels = images.read(path)
    assert np.abs(pixels[..., 0] - expected).max() <= 0.51
    assert (pixels == pixels[..., :1]).all()
    assert "scaled to 8" in images.inspect(path).note


@given(value=st.integers(0, 65535))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_constant_deep_image_is_black(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((5, 7), value, np.uint16)).save(tmp_path / "constant.png")
    assert (images.read(tmp_path / "constant.png") == 0).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_do_no_harm(tmp_path: Path, odd: float) -> None:
    values = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    values[3, 3] = odd
    Image.fromarray(values).save(tmp_path / "odd.tif")
    assert images.read(tmp_path / "odd.tif")[3, 3, 0] == (255 if odd == np.inf else 0)
    Image.fromarray(np.full((4, 4), odd, np.float32)).save(tmp_path / "all.tif")
    assert (images.read(tmp_path / "all.tif") == 0).all()


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    facts = images.inspect(tmp_path / "pages.tif")
    assert (facts.frames, facts.note) == (3, "first of 3 frames")
    assert images.read(tmp_path / "pages.tif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("name", "mode", "friendly"),
    [
        ("a.jpg", "RGB", True),
        ("a.jpg", "L", True),
        ("a.jpg", "CMYK", False),
        ("a.png", "RGB", True),
        ("a.png", "P", True),
        ("a.png", "RGBA", True),
        ("a.png", "I;16", False),
        ("a.webp", "RGB", True),
        ("a.gif", "P", True),
        ("a.tif", "RGB", False),
    ],
)
def test_browsers_get_only_what_they_show_as_read_does(tmp_path: Path, name: str, mode: str, friendly: bool) -> None:
    image = (
        Image.fromarray(noise()[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(noise()).convert(mode)
    )
    image.save(tmp_path / name)
    assert images.is_browser_friendly(images.inspect(tmp_path / name)) is friendly


def test_a_turned_jpeg_is_browser_friendly_and_a_turned_png_is_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, friendly in (("a.jpg", True), ("a.png", False)):
        Image.fromarray(noise()).save(tmp_path / name, exif=exif)
        assert images.is_browser_friendly(images.inspect(tmp_path / name)) is friendly


def test_warnings_of_pillow_do_not_come_out_nor_stay_off_with_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "page.tif"
    Image.fromarray(noise()).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"\xff\xff")  # the directory goes on beyond the file
    before = [*warnings.filters]
    threads = [threading.Thread(target=lambda: [images.inspect(path) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [*warnings.filters] == before
