"""Run-length encoded masks in the encoding of COCO: small in memory and in the store, exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from alpipe.errors import DataError
from alpipe.types import ByteArray, FloatArray, Masks, Rle


def encode(mask: npt.NDArray[np.bool_] | ByteArray) -> Rle:
    """The run-length encoding of an (H, W) mask; every value that is not 0 belongs to it."""
    encoded = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return Rle(int(mask.shape[0]), int(mask.shape[1]), encoded["counts"].decode("ascii"))


def decode(rle: Rle) -> ByteArray:
    """(H, W) uint8 of 0 and 1. Raises DataError for counts that cannot be read or do not fill the size stated.

    Own code, since pycocotools trusts the counts: it reads past the end of damaged ones.
    """
    runs = _runs(rle)
    flat = np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs)
    return np.ascontiguousarray(flat.reshape(rle.width, rle.height).T)


def area(rle: Rle) -> int:
    """Number of pixels in the mask. Raises DataError as ``decode`` does."""
    return int(_runs(rle)[1::2].sum())


def iou(a: Sequence[Rle], b: Sequence[Rle]) -> FloatArray:
    """(N, M) float32 intersection over union in [0, 1] of masks of one size, run by run, without decoding any; 0 where
    both are empty.

    Raises DataError for masks of different sizes, and as ``decode`` does.
    """
    if len({mask[:2] for mask in (*a, *b)}) > 1:
        raise DataError("masks of different sizes cannot be compared")
    if not a or not b:
        return np.zeros((len(a), len(b)), np.float32)
    for mask in (*a, *b):
        _runs(mask)  # pycocotools trusts them
    sides = [[{"size": mask[:2], "counts": mask.counts.encode()} for mask in side] for side in (a, b)]
    return np.nan_to_num(np.asarray(coco.iou(*sides, [0] * len(b)), np.float32))


def _runs(rle: Rle) -> npt.NDArray[np.int64]:
    """Lengths of the runs of 0 and 1 in turn, column by column, beginning with 0.

    The counts are COCO's (maskApi.c, rleFrString): each number in groups of five bits from the lowest, one character a
    group (48 is added), the bit 32 says that another group follows, the bit 16 of the last one is the sign; from the
    fourth number on the difference to the last but one is written.
    """
    damaged = DataError(f"a run-length mask of {rle.width}×{rle.height} is damaged: its counts do not fill the image")
    codes = np.frombuffer(rle.counts.encode(), np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise damaged
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if groups.max() > 7:  # longer numbers than any image has pixels
        raise damaged
    shift = 5 * (np.arange(codes.size) - np.repeat(first, groups))
    runs = np.add.reduceat((codes & 31) << shift, first)
    runs -= np.where(codes[last] & 16, np.int64(1) << (5 * groups), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0 or runs.sum() != rle.height * rle.width:
        raise damaged
    return np.asarray(runs, np.int64)


def class_map(masks: Masks, classes: Sequence[str], height: int, width: int) -> ByteArray:
    """(height, width) uint8: 0 is background, i + 1 is ``classes[i]``; later names of ``masks`` lie on top.

    Raises DataError for a mask of another size or a name that is not among the classes.
    """
    image = np.zeros((height, width), np.uint8)
    for name, rle in masks.by_name.items():
        if name not in classes:
            raise DataError(f"mask of unknown label {name!r}; the labels are {', '.join(classes)}")
        if (rle.height, rle.width) != (height, width):
            raise DataError(f"mask of {rle.width}×{rle.height} pixels for an image of {width}×{height}")
        image[decode(rle) > 0] = classes.index(name) + 1
    return image


def from_class_map(image: npt.NDArray[np.integer], classes: Sequence[str]) -> Masks:
    """The masks in an (H, W) class map: 0 is background, i + 1 is ``classes[i]``; absent classes get no mask.

    Raises DataError for a value beyond the classes.
    """
    by_name: Mapping[str, Rle] = {}
    present = np.unique(image)
    if present.size and (present[0] < 0 or present[-1] > len(classes)):
        raise DataError(f"class map with value {present[-1]}, but there are {len(classes)} labels (0 is background)")
    by_name = {classes[int(value) - 1]: encode(image == value) for value in present if value}
    return Masks(by_name)
