"""Run-length encoded masks, by pycocotools: small in memory and in the store, exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from alpipe.errors import DataError
from alpipe.types import ByteArray, Masks, Rle


def encode(mask: npt.NDArray[np.bool_] | ByteArray) -> Rle:
    """The run-length encoding of an (H, W) mask; every value that is not 0 belongs to it."""
    encoded = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return Rle(int(mask.shape[0]), int(mask.shape[1]), encoded["counts"].decode("ascii"))


def decode(rle: Rle) -> ByteArray:
    """(H, W) uint8 of 0 and 1. Raises DataError for counts that do not fill the size stated."""
    try:
        decoded = coco.decode({"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")})
    except Exception as error:  # the C extension raises bare exceptions on damaged counts
        raise DataError(f"a run-length mask of {rle.width}×{rle.height} is damaged: {error}") from error
    return np.ascontiguousarray(decoded, dtype=np.uint8)


def area(rle: Rle) -> int:
    """Number of pixels in the mask."""
    return int(coco.area({"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")}))


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
