"""What a model says of images and of their mirror images.

The learner is not asked whether it can mirror: it is given mirrored copies of the files, some at a time, so that it
works for every learner, also those of third parties.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from alpipe import images
from alpipe.errors import DataError
from alpipe.protocols import Model
from alpipe.types import BoxPrediction, ClassPrediction, Item, MapPrediction, Mirrored, Prediction

BLOCK = 64
"""Images whose copies lie on disk at a time."""


def scan_mirrored(model: Model, items: Sequence[Item]) -> Iterator[Mirrored]:
    """Both predictions of each item, in the order of the items; each image is scanned twice."""
    for start in range(0, len(items), BLOCK):
        some = items[start : start + BLOCK]
        with tempfile.TemporaryDirectory(prefix="alpipe-mirrored-") as folder:
            copies = [_copy(item, Path(folder)) for item in some]
            for item, plain, mirrored in zip(some, model.scan(some), model.scan(copies), strict=True):
                yield Mirrored(item.key, plain, turned_back(mirrored, item.width))


def turned_back(prediction: Prediction, width: int) -> Prediction:
    """A prediction of a mirrored image, in the coordinates of the image as it is; ``width`` in pixels. Members go."""
    match prediction:
        case BoxPrediction(xyxy=xyxy):
            x1, y1, x2, y2 = xyxy.T
            return replace(prediction, xyxy=np.stack([width - x2, y1, width - x1, y2], axis=1), members=())
        case MapPrediction(probs=probs):
            return replace(prediction, probs=probs[:, :, ::-1].copy(), members=())
        case ClassPrediction():
            return replace(prediction, members=())


def _copy(item: Item, folder: Path) -> Item:
    file = folder / f"{item.key}.bmp"  # nothing is lost, and no time with compressing
    pixels = images.read(item.path)
    try:
        Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(file)
    except OSError as error:
        raise DataError(f"a mirrored copy of {item.uri} cannot be written to {folder}: {error}") from error
    return replace(item, uri=str(file))
