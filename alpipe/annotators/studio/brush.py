"""Masks to and from the run-length code of Label Studio's brush: bits of an RGBA image, row by row.

The code (github.com/thi-ng/umbrella, package rle-pack) opens with the number of bytes (32 bits), the word size − 1
(5 bits) and four run sizes − 1 (4 bits each). Then come blocks: one bit (run or literals), two bits (which run size),
the block's length − 1, and one word for a run or one word an element for literals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from alpipe.errors import DataError
from alpipe.types import ByteArray

HEADER_BITS = 32 + 5 + 4 * 4
OPAQUE = 128
"""Alpha from which a pixel belongs to the mask: strokes have anti-aliased edges."""


def encode(mask: ByteArray) -> list[int]:
    """The code of an (H, W) mask of 0 and 1; covered pixels become opaque."""
    from label_studio_sdk.converter.brush import mask2rle

    code: list[int] = mask2rle((mask > 0).astype(np.uint8) * 255)  # type: ignore[no-untyped-call]
    return code


def decode(code: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    """(height, width) bool, true where the brush is opaque. Raises DataError for a damaged code or another size."""
    try:
        packed = np.asarray(code)
        if packed.ndim != 1 or packed.dtype.kind != "i" or packed.min() < 0 or packed.max() > 255:
            raise ValueError("not a list of bytes")
        bits = _bits(packed)
        count = int(bits[:32], 2)
    except (ValueError, TypeError) as error:
        raise DataError(f"a brush mask is damaged: {error}") from error
    if count != 4 * height * width:
        raise DataError(f"a brush mask has {count / 4:g} pixels, but the image has {width}×{height} = {width * height}")
    try:
        rgba = _blocks(bits, count)
    except ValueError as error:
        raise DataError("a brush mask is damaged: its code ends too early") from error
    opaque: npt.NDArray[np.bool_] = rgba.reshape(height, width, 4)[:, :, 3] >= OPAQUE
    return opaque


def _bits(packed: npt.NDArray[np.integer]) -> str:
    ones = np.unpackbits(packed.astype(np.uint8)) + ord("0")
    return ones.tobytes().decode("ascii")


def _blocks(bits: str, count: int) -> ByteArray:
    """(count,) uint8. Raises ValueError where the bits end before the bytes are full."""
    word = int(bits[32:37], 2) + 1
    sizes = [int(bits[at : at + 4], 2) + 1 for at in range(37, HEADER_BITS, 4)]
    out = np.zeros(count, np.uint8)
    at, filled = HEADER_BITS, 0
    while filled < count:
        is_run = bits[at : at + 1] == "1"
        size = sizes[int(bits[at + 1 : at + 3], 2)]
        length = int(bits[at + 3 : at + 3 + size], 2) + 1
        at += 3 + size
        end = min(filled + length, count)
        if is_run:
            out[filled:end] = int(bits[at : at + word], 2) & 255
            at += word
        else:
            for place in range(filled, end):
                out[place] = int(bits[at : at + word], 2) & 255
                at += word
        filled = end
    if at > len(bits):
        raise ValueError("the last block is cut off")
    return out
