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
    (runs,) = run_lengths(rle)
    flat = np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs)
    return np.ascontiguousarray(flat.reshape(rle.width, rle.height).T)


def area(rle: Rle) -> int:
    """Number of pixels in the mask. Raises DataError as ``decode`` does."""
    return int(run_lengths(rle)[0][1::2].sum())


def iou(a: Sequence[Rle], b: Sequence[Rle]) -> FloatArray:
    """(N, M) float32 intersection over union in [0, 1] of masks of one size, run by run, without decoding any; 0 where
    both are empty.

    Raises DataError for masks of different sizes, and as ``decode`` does.
    """
    if len({mask[:2] for mask in (*a, *b)}) > 1:
        raise DataError("masks of different sizes cannot be compared")
    if not a or not b:
        return np.zeros((len(a), len(b)), np.float32)
    run_lengths(*{*a, *b})  # pycocotools trusts them, and never ends with two that fill different sizes
    sides = [[{"size": mask[:2], "counts": mask.counts.encode()} for mask in side] for side in (a, b)]
    return np.nan_to_num(np.asarray(coco.iou(*sides, [0] * len(b)), np.float32))


def run_lengths(*masks: Rle) -> list[npt.NDArray[np.int64]]:
    """Of each mask the lengths of the runs of 0 and 1 in turn, column by column, beginning with 0. Raises DataError for
    counts that are damaged or do not fill the size stated.

    The counts are COCO's (maskApi.c, rleFrString): each number in groups of five bits from the lowest, one character a
    group (48 is added), the bit 32 says that another group follows, the bit 16 of the last one is the sign; from the
    fourth number on the difference to the last but one is written. All masks are read at once: of small ones there are
    many, and each call of NumPy takes longer than the numbers of one.
    """
    written = [mask.counts.encode() for mask in masks]
    ends = np.cumsum([len(counts) for counts in written])
    codes = np.frombuffer(b"".join(written), np.uint8) - 48  # what is below 48 becomes a large one
    if not all(written) or codes.max() > 63 or (codes[ends - 1] & 32).any():
        raise _damaged(masks)
    last = np.flatnonzero(codes < 32)
    groups = last.copy()
    groups[1:] -= last[:-1]
    groups[0] += 1
    longest = int(groups.max())
    if longest > 7:  # longer numbers than any image has pixels
        raise _damaged(masks)
    runs = (codes[last].astype(np.int64) ^ 16) - 16
    for group in range(1, longest):
        at = np.flatnonzero(groups > group)
        runs[at] = runs[at] << 5 | codes[last[at] - group] & 31
    each = np.split(runs, np.searchsorted(last, ends[:-1]))
    for mask, some in zip(masks, each, strict=True):
        some[1::2] = some[1::2].cumsum()
        some[2::2] = some[2::2].cumsum()
        if some.min() < 0 or some.sum() != mask.height * mask.width:
            raise _damaged([mask])
    return each


def _damaged(masks: Sequence[Rle]) -> DataError:
    """All have one size, or there is only one."""
    mask = masks[0]
    return DataError(f"a run-length mask of {mask.width}×{mask.height} is damaged: its counts do not fill the image")


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
