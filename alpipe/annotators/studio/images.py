"""Copies of the pool's images that a browser can show, made under the folder that the server serves.

Nothing but verified raster images goes there, and no links: the server would follow them out of the folder, and run
HTML or SVG as its own pages.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from alpipe import images
from alpipe.errors import DataError
from alpipe.types import Item

SHOWN = {"JPEG": (".jpg", ("RGB", "L")), "PNG": (".png", ("RGB", "RGBA", "L", "LA", "P", "1"))}
"""Formats, with the modes, that every browser shows as they are; all else is converted to PNG."""
ORIENTATION = 0x0112


def place(item: Item, folder: Path) -> Path:
    """The item's image in the folder, copied or converted unless it is there already.

    Raises DataError where the file is gone, cannot be read, or is not of the item's size any more.
    """
    suffix = _kept_suffix(item)
    target = folder / f"{item.key}{suffix or '.png'}"
    if target.is_file() and not target.is_symlink():
        return target
    temporary = folder / f".{item.key}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if suffix:
            shutil.copyfile(item.path, temporary)
        else:
            _convert(item, temporary)
        temporary.replace(target)
    except OSError as error:
        raise DataError(f"{item.uri}: cannot be copied to {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def url(path: Path, root: Path) -> str:
    """Where the server serves a file under its root, relative to its own address."""
    return "/data/local-files/?d=" + quote(path.relative_to(root).as_posix())


def _kept_suffix(item: Item) -> str | None:
    """The suffix of a file that is served as it is; None for one that must be converted."""
    try:
        with Image.open(item.path) as image:
            suffix, modes = SHOWN.get(image.format or "", ("", ()))
            turned = _orientation(image)
            size = image.size[::-1] if turned in (5, 6, 7, 8) else image.size
            many = getattr(image, "n_frames", 1) > 1
            keep = suffix and image.mode in modes and not many and (turned == 1 or image.format == "JPEG")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{item.uri}: cannot be read as an image: {error}") from error
    if size != (item.width, item.height) and keep:
        raise _changed(item, *size)
    return suffix if keep else None


def _orientation(image: Image.Image) -> int:
    value: Any = image.getexif().get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _convert(item: Item, target: Path) -> None:
    pixels = images.read(item.path)
    if pixels.shape[:2] != (item.height, item.width):
        raise _changed(item, pixels.shape[1], pixels.shape[0])
    Image.fromarray(pixels).save(target, "PNG")


def _changed(item: Item, width: int, height: int) -> DataError:
    return DataError(
        f"{item.uri}: is {width}×{height} pixels but was {item.width}×{item.height} when it was added; put it back"
    )
