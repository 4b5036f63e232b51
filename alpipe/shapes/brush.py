"""Label Studio's run lengths of brush strokes: an RGBA image, of which the alpha channel is the mask.

The bit stream: 32 bits the number of values (4 × width × height), 5 bits word size − 1, 4 times 4 bits a length's size
− 1; then, until all values are there: 1 bit whether one value repeats, 2 bits which length size, the length − 1, and
one word (repeating) or as many words as the length says.
"""

from __future__ import annotations

import numpy as np

from alpipe.errors import DataError
from alpipe.types import ByteArray

_WORD = 8
_LENGTHS = (3, 4, 8, 16)
_OPAQUE = 128
"""Strokes are anti-aliased: a pixel belongs to the mask from half opacity on."""


def decode(rle: object, width: int, height: int) -> ByteArray:
    """(height, width) uint8 of 0 and 1. Raises DataError for run lengths that are damaged or of another size."""
    if not isinstance(rle, list) or not all(isinstance(byte, int) and 0 <= byte < 256 for byte in rle):
        raise DataError("the run lengths of a brush stroke are not a list of bytes")
    bits = "".join(f"{byte:08b}" for byte in rle)
    if len(bits) < 53 or int(bits[:32], 2) != 4 * width * height:
        raise DataError(f"the run lengths of a brush stroke do not fill the {width}×{height} image")
    word = int(bits[32:37], 2) + 1
    sizes = [int(bits[start : start + 4], 2) + 1 for start in range(37, 53, 4)]
    values = np.zeros(4 * width * height, np.uint8)
    at, done = 53, 0
    try:
        while done < len(values):
            size = sizes[int(bits[at + 1 : at + 3], 2)]
            length = int(bits[at + 3 : at + 3 + size], 2) + 1
            repeats, at = bits[at] == "1", at + 3 + size
            words = [int(bits[at + i * word : at + (i + 1) * word], 2) for i in range(1 if repeats else length)]
            if done + length > len(values):
                raise DataError("the run lengths of a brush stroke go beyond the image")
            values[done : done + length] = words[0] if repeats else words
            at, done = at + word * len(words), done + length
    except (ValueError, IndexError, OverflowError) as error:
        raise DataError("the run lengths of a brush stroke are damaged or end too early") from error
    return (values.reshape(height, width, 4)[:, :, 3] >= _OPAQUE).astype(np.uint8)


def encode(mask: ByteArray) -> list[int]:
    """The run lengths of an (H, W) mask, as Label Studio's own encoder gives them for one of 0 and 255."""
    flat = mask.ravel() != 0
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * 4
    bits = [f"{4 * flat.size:032b}{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTHS)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        whole, rest = divmod(length - 1, 2**16)
        bits += [f"111{'1' * 16}{value}"] * whole
        index = 3 if whole else next(i for i, size in enumerate(_LENGTHS) if rest < 2**size)
        bits.append(f"1{index:02b}{rest:0{_LENGTHS[index]}b}{value}")
    stream = "".join(bits)
    stream += "0" * (8 - len(stream) % 8)
    return [int(stream[start : start + 8], 2) for start in range(0, len(stream), 8)]
