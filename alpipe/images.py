"""Image files to arrays: decoded whole, turned as EXIF says, any mode to 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from alpipe.errors import DataError
from alpipe.types import ByteArray


def read(path: Path) -> ByteArray:
    """(H, W, 3) uint8 RGB of the image as displayed. Raises DataError that names the file and what is wrong."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
