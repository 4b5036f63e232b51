"""Copies of the pool's images that a browser can show, made under the folder that the server serves.

Nothing but verified raster images goes there, and no links: the server would follow them out of the folder, and run
HTML or SVG as its own pages.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from alpipe import images
from alpipe.errors import DataError
from alpipe.types import Item

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
"""By content, never by the file's name: the server tells the browser the type by the suffix."""


def place(item: Item, folder: Path) -> Path:
    """The item's image in the folder, as displayed: copied if browsers show it just so, else converted to PNG.

    What is there already is not made again. Raises DataError where the file is gone, cannot be read, or is not of the
    item's size any more.
    """
    for suffix in sorted(set(SUFFIXES.values())):
        made = folder / f"{item.key}{suffix}"
        if made.is_file() and not made.is_symlink():
            return made
    facts = images.inspect(item.path)
    if (facts.width, facts.height) != (item.width, item.height):
        raise DataError(
            f"{item.uri}: is {facts.width}×{facts.height} pixels but was {item.width}×{item.height} when it was added;"
            " put the old file back"
        )
    keep = images.is_browser_friendly(facts) and facts.format in SUFFIXES
    target = folder / f"{item.key}{SUFFIXES[facts.format] if keep else '.png'}"
    temporary = folder / f".{item.key}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if keep:
            shutil.copyfile(item.path, temporary)
        else:
            Image.fromarray(images.read(item.path)).save(temporary, "PNG")
        temporary.replace(target)
    except OSError as error:
        raise DataError(f"{item.uri}: cannot be copied to {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def url(path: Path, root: Path) -> str:
    """Where the server serves a file under its root, relative to its own address."""
    return "/data/local-files/?d=" + quote(path.relative_to(root).as_posix())
