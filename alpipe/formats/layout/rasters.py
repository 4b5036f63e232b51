"""Mask images to masks: what the values and colours of pixels mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from alpipe import rle
from alpipe.errors import DataError
from alpipe.types import ByteArray, Masks

Colours = tuple[tuple[str, tuple[int, int, int]], ...]

BACKGROUND_NAMES = frozenset({"background", "unlabelled", "unlabeled"})
_OPENING = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class Coding:
    """How the masks of a set are to be understood.

    ``names``: value i is ``names[i - 1]``, 0 is background; with one name every value but 0 is it. ``colours`` by name
    (empty: none given); names of the background stand for no label. ``doubt`` says in words why the indices of
    palette masks cannot be values (empty: they can).
    """

    names: tuple[str, ...]
    colours: Colours = ()
    doubt: str = ""


def doubt_palettes(files: Sequence[Path], names: Sequence[str]) -> str:
    """Why the indices of the set's palette masks cannot stand for classes; empty where nothing speaks against it.

    Only headers are read. An index means the same in the whole set only if its palettes agree on the colours and no
    other mask is coded by colour.
    """
    first: tuple[Path, list[int]] | None = None
    coloured: Path | None = None
    for file in files:
        try:
            with Image.open(file) as image:
                mode, palette = image.mode, (image.getpalette() or [])[: 3 * (len(names) + 1)]
        except _OPENING:
            continue  # decode() says so when its turn comes
        if mode in ("RGB", "RGBA"):
            coloured = coloured or file
        elif mode == "P":
            first = first or (file, palette)
            if any(a != b for a, b in zip(first[1], palette, strict=False)):
                return f"the palettes of {first[0].name} and {file.name} give the same index different colours"
    if first and coloured:
        return f"other masks of the set are coded by colour ({coloured.name})"
    return ""


def decode(file: Path, coding: Coding) -> tuple[Masks, tuple[int, int]]:
    """The masks in the file and its size (width, height). Raises DataError where it cannot be read or understood."""
    try:
        with Image.open(file) as image:
            image.load()
            size = image.size
            if image.format in ("JPEG", "MPO"):
                return _lossy(image, coding), size
            if image.mode == "P" and not coding.colours:
                return _palette(np.asarray(image), coding), size
            if image.mode in ("1", "L") or image.mode.startswith("I"):
                return _by_value(np.asarray(image), coding), size
            if image.mode == "LA":
                return _by_value(np.asarray(image)[:, :, 0], coding), size
            if image.mode in ("RGB", "RGBA", "P", "PA"):
                return _by_colour(np.asarray(image.convert("RGB")), coding), size
            raise DataError(f"the mask has the mode {image.mode}; expected whole numbers, a palette or colours")
    except _OPENING as error:
        raise DataError(f"the mask cannot be read: {error}") from error


def _by_value(values: npt.NDArray[np.integer], coding: Coding) -> Masks:
    if len(coding.names) == 1:
        covered = values != 0
        return Masks({coding.names[0]: rle.encode(covered)} if covered.any() else {})
    present, counts = np.unique(values, return_counts=True)
    beyond = (present < 0) | (present > len(coding.names))
    if beyond.any():
        listed = ", ".join(
            f"{value} ({_percent(count / values.size)})"
            for value, count in zip(present[beyond][:3].tolist(), counts[beyond][:3], strict=True)
        )
        more = f" and {int(beyond.sum()) - 3} more" if beyond.sum() > 3 else ""
        raise DataError(
            f"the mask has the value {listed}{more}, beyond the labels 1 to {len(coding.names)} "
            f"({', '.join(coding.names)}); 0 is background"
        )
    return rle.from_class_map(values, coding.names)


def _palette(indices: ByteArray, coding: Coding) -> Masks:
    highest = int(indices.max(initial=0))
    doubt = coding.doubt
    if not doubt and highest > len(coding.names):
        doubt = f"it uses the index {highest}, but there are {len(coding.names)} labels"
    if doubt:
        raise DataError(f"the mask has a palette whose indices are no classes: {doubt}; give the colours (--colours)")
    return rle.from_class_map(indices, coding.names)


def _by_colour(rgb: ByteArray, coding: Coding) -> Masks:
    if not coding.colours:
        if (rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 0] == rgb[:, :, 2]).all():
            return _by_value(rgb[:, :, 0], coding)
        raise DataError(f"the mask is coded by colour ({_shares(_packed(rgb))}); give the colours (--colours)")
    packed = _packed(rgb)
    unlisted = np.ones(packed.shape, bool)
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for name, (red, green, blue) in coding.colours:
        here = packed == (red << 16 | green << 8 | blue)
        unlisted &= ~here
        if here.any() and (name in coding.names or name.lower() not in BACKGROUND_NAMES):
            found[name] = found[name] | here if name in found else here
    if unlisted.any():
        shares = _shares(packed[unlisted], packed.size)
        raise DataError(
            f"the mask has colours that are not among those given: {shares}; name them, or call them 'background'"
        )
    return Masks({name: rle.encode(mask) for name, mask in found.items()})


def _lossy(image: Image.Image, coding: Coding) -> Masks:
    if coding.colours or len(coding.names) != 1:
        raise DataError("the mask is a JPEG, which changes values and colours; save the masks as PNG")
    return rle.from_class_map((np.asarray(image.convert("L")) >= 128).astype(np.uint8), coding.names)


def _packed(rgb: ByteArray) -> npt.NDArray[np.uint32]:
    wide = rgb.astype(np.uint32)
    packed: npt.NDArray[np.uint32] = wide[:, :, 0] * 65536 + wide[:, :, 1] * 256 + wide[:, :, 2]
    return packed


def _shares(packed: npt.NDArray[np.uint32], total: int | None = None) -> str:
    """The most frequent colours with their share of the pixels."""
    colours, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    listed = [f"#{colours[i]:06X} {_percent(counts[i] / (total or packed.size))}" for i in order[:4]]
    return ", ".join(listed) + (f" and {len(order) - 4} more" if len(order) > 4 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} % of the pixels"
