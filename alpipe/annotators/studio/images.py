"""How a browser gets at the pool's images: copies under the folder that the server serves, or addresses elsewhere.

Nothing but verified raster images is served, and no links: the server would follow them out of the folder, and run
HTML or SVG as its own pages.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from PIL import Image

from alpipe import images
from alpipe.errors import AnnotatorError, DataError
from alpipe.types import Item

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
"""By content, never by the file's name: the server tells the browser the type by the suffix."""


SCHEMES = ("http", "https", "s3", "gs", "azure-blob")
"""Addresses that a browser, or a storage of Label Studio's, can follow."""


def served_folder(root: Path, name: str) -> Path:
    """The project's folder below the root that the server serves, made if need be. Raises AnnotatorError where it is a
    link, which would lead the server out of its root.
    """
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnnotatorError(f"{folder}: cannot be made: {error.strerror}; correct the option files_root") from error
    if folder.is_symlink() or not folder.resolve().is_relative_to(root.resolve()):
        raise AnnotatorError(f"{folder} is a link that leads out of the served folder: remove it")
    return folder


def address(item: Item, prefixes: Mapping[Path, str]) -> str | None:
    """Where the item's image lies for browsers, by the longest folder that has an address; None where none has, and
    for images that browsers do not show as they are.

    Raises DataError where the file is not of the item's size any more.
    """
    folders = sorted((folder for folder in prefixes if item.path.is_relative_to(folder)), key=lambda f: len(f.parts))
    if not folders or not _shows(item):
        return None
    start, rest = prefixes[folders[-1]].rstrip("/"), item.path.relative_to(folders[-1]).as_posix()
    return f"{start}/{quote(rest) if start.startswith('http') else rest}"  # a bucket's keys are taken as they stand


def check_prefix(prefix: str) -> None:
    """Raises ValueError for a prefix that is no address of a kind that browsers and storages can follow."""
    parts = urlsplit(prefix)
    if parts.scheme not in SCHEMES or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{prefix!r} is no address: begin it with one of {', '.join(f'{s}://' for s in SCHEMES)}")


def place(item: Item, folder: Path) -> Path:
    """The item's image in the folder, as displayed: copied if browsers show it just so, else converted to PNG.

    What is there already is not made again. Raises DataError where the file is gone, cannot be read, or is not of the
    item's size any more.
    """
    for suffix in sorted(set(SUFFIXES.values())):
        made = folder / f"{item.key}{suffix}"
        if made.is_file() and not made.is_symlink():
            return made
    facts = _facts(item)
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


def _facts(item: Item) -> images.ImageFacts:
    facts = images.inspect(item.path)
    if (facts.width, facts.height) != (item.width, item.height):
        raise DataError(
            f"{item.uri}: is {facts.width}×{facts.height} pixels but was {item.width}×{item.height} when it was added;"
            " put the old file back"
        )
    return facts


def _shows(item: Item) -> bool:
    facts = _facts(item)
    return images.is_browser_friendly(facts) and facts.format in SUFFIXES


def url(path: Path, root: Path) -> str:
    """Where the server serves a file under its root, relative to its own address."""
    return "/data/local-files/?d=" + quote(path.relative_to(root).as_posix())
