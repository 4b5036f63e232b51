"""Image files to arrays: decoded whole, turned as EXIF says, any mode to 8-bit RGB."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from alpipe.errors import DataError
from alpipe.types import ByteArray

MAX_PIXELS = 178_956_970
"""The largest image that is decoded, in pixels (13,377 × 13,377, half a gigabyte as RGB). It is also the size at which
Pillow by default takes a file for a decompression bomb.
"""

PERCENTILES = (0.1, 99.9)
"""The values of a 16-bit or float image that become black and white."""

SAMPLED = 4_000_000
"""Values from which those percentiles are taken at most, evenly spread over the image."""

BROWSER_FORMATS = frozenset({"BMP", "GIF", "JPEG", "MPO", "PNG", "WEBP"})

_NEVER = frozenset({"EPS", "WMF"})  # Pillow runs another program to draw these
_DEEP = frozenset({"I", "F"})  # and every I;16…
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a file holds. ``width`` and ``height`` are pixels as displayed; ``format`` and ``mode`` are Pillow's words;
    ``orientation`` is EXIF's (1: upright); ``note`` says what was converted on the way to 8-bit RGB, such as
    "16-bit scaled to 8", "first of 12 frames" or "transparent parts on white", and is empty where pixels are as stored.
    """

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    frames: int
    note: str


def read(path: Path) -> ByteArray:
    """(H, W, 3) uint8 RGB of the image as displayed, writable; of several frames the first.

    Transparent parts are laid on white. Values beyond 8 bits, and floats, are scaled linearly so that the percentiles
    PERCENTILES become 0 and 255; an image of one value becomes 0. Raises DataError that names the file and what is
    wrong with it: damaged, cut off, over MAX_PIXELS, or no image at all.
    """
    return _decode(path)[0]


def inspect(path: Path) -> ImageFacts:
    """The facts of an image, decoded whole as ``read`` does it. Raises DataError where ``read`` would."""
    return _decode(path)[1]


def is_browser_friendly(facts: ImageFacts) -> bool:
    """Whether a browser shows the file just as ``read`` gives it, so that it may be served as it is.

    Browsers turn JPEG files as EXIF says, but do not agree on other formats.
    """
    if facts.format not in BROWSER_FORMATS:
        return False
    if facts.format in ("JPEG", "MPO"):  # further frames of an MPO are previews, which no browser shows
        return facts.mode in ("RGB", "L")
    return facts.orientation == 1 and not facts.note


def _decode(path: Path) -> tuple[ByteArray, ImageFacts]:
    try:
        with _pillow_is_quiet(), Image.open(path) as image:
            width, height = image.size
            if image.format in _NEVER:
                raise DataError(f"{path}: {image.format} files are not read; convert it to PNG")
            if width < 1 or height < 1:
                raise DataError(f"{path}: the image has no pixels ({width}×{height})")
            if width * height > MAX_PIXELS:
                raise DataError(f"{path}: more than the {MAX_PIXELS:,} pixels that are read: cut it into tiles")
            file_format, mode, orientation = image.format or "unknown", image.mode, _orientation(image)
            image.load()  # TIFF turns itself here, and then says that it is upright
            turn = _TURNS.get(_orientation(image))
            pixels, notes = _to_rgb(image if turn is None else image.transpose(turn))
            frames = _frames(image)
    except DataError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever comes
        raise DataError(f"{path}: {_reason(error)}") from error
    if frames > 1:
        notes.insert(0, f"first of {frames} frames")
    facts = ImageFacts(pixels.shape[1], pixels.shape[0], file_format, mode, orientation, frames, "; ".join(notes))
    return pixels, facts


def _reason(error: Exception) -> str:
    match error:
        case UnidentifiedImageError():
            return "not an image in a format that can be read"
        case FileNotFoundError():
            return "there is no such file"
        case Image.DecompressionBombError():
            return f"more than the {MAX_PIXELS:,} pixels that are read: cut it into tiles"
        case MemoryError():
            return "not enough memory to decode it"
        case OSError(strerror=str(reason)):
            return reason.lower()
    return f"cannot be read as an image: {str(error) or type(error).__name__}"


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none. Damaged EXIF data does not make the image unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as above
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _frames(image: Image.Image) -> int:
    """How many frames there are; those behind a damaged one do not count, since only the first is read."""
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # as above
        return 1


def _to_rgb(image: Image.Image) -> tuple[ByteArray, list[str]]:
    if image.mode in _DEEP or image.mode.startswith("I;16"):
        return _scaled(image)
    if image.mode == "LAB":
        return np.array(_from_lab(image)), ["LAB converted to RGB"]
    if not image.has_transparency_data:
        if image.mode == "RGB":
            return np.array(image), []  # convert() would copy it once more
        notes = [] if image.mode in ("1", "L", "P", "RGBX") else [f"{image.mode} converted to RGB"]
        return np.array(image.convert("RGB")), notes
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] == 255:
        return np.array(rgba.convert("RGB")), []
    white = Image.new("RGBA", rgba.size, "white")
    return np.array(Image.alpha_composite(white, rgba).convert("RGB")), ["transparent parts on white"]


def _scaled(image: Image.Image) -> tuple[ByteArray, list[str]]:
    values: npt.NDArray[Any] = np.asarray(image)
    depth = {"I": "32-bit", "F": "float"}.get(image.mode, "16-bit")
    low, high = _range(values)
    scale = 255.0 / (high - low) if high > low else 0.0
    pixels: ByteArray = np.zeros((*values.shape, 3), np.uint8)
    rows = max(1, SAMPLED // values.shape[1])
    for start in range(0, len(values) if scale else 0, rows):  # in blocks, which keeps the floats few
        block = values[start : start + rows].astype(np.float64)
        block = (np.nan_to_num(block, nan=low, posinf=high, neginf=low) - low) * scale
        pixels[start : start + rows] = np.clip(block + 0.5, 0, 255).astype(np.uint8)[..., None]
    return pixels, [f"{depth} scaled to 8 ({low:g} to {high:g})"]


def _range(values: npt.NDArray[Any]) -> tuple[float, float]:
    flat = values.reshape(-1)
    sample = flat[:: max(1, flat.size // SAMPLED)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    low, high = np.percentile(sample, PERCENTILES)
    if low == high:  # a few bright spots on an even ground
        low, high = sample.min(), sample.max()
    return float(low), float(high)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # only here: some builds of Pillow lack it

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    if converted is None:
        raise DataError("LAB cannot be converted to RGB")
    return converted


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: Any = None


@contextmanager
def _pillow_is_quiet() -> Iterator[None]:
    """No warning comes out of Pillow: what is wrong with a file ends as a DataError or does not matter.

    ``warnings.catch_warnings`` alone is not made for threads: the first to enter sets the filter, the last one out
    restores what was there.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.__exit__(None, None, None)
