"""A contact sheet: regions of images as one PNG, group by group."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from alpipe.report.draw import cut_out
from alpipe.types import ByteArray

SIDE, GAP, CAPTION, HEADING = 112, 8, 15, 30
"""Pixels: of a crop, between crops, and of the lines below a crop and above a group."""

MOST = 2000
"""Crops on a sheet at most, which keeps it under 3,000 × 30,000 pixels."""

PAPER, INK, QUIET, MISSING = "#ffffff", "#111418", "#59616b", "#d8dce1"


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A region of an (H, W, 3) image, None where that cannot be read, its xyxy ``box``, a caption and a colour."""

    image: ByteArray | None
    box: tuple[float, float, float, float]
    caption: str
    colour: str


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Crops under a heading."""

    heading: str
    crops: tuple[Crop, ...]


def sheet(groups: Sequence[Group], columns: int = 12) -> bytes:
    """The PNG."""
    rows = [-(-len(group.crops) // columns) for group in groups]
    width = columns * (SIDE + GAP) + GAP
    height = GAP + sum(HEADING + count * (SIDE + CAPTION + GAP) for count in rows)
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(16), ImageFont.load_default(11)
    top = GAP
    for group, count in zip(groups, rows, strict=True):
        pen.text((GAP, top + 4), group.heading, INK, large)
        top += HEADING
        for at, crop in enumerate(group.crops):
            left, down = GAP + at % columns * (SIDE + GAP), top + at // columns * (SIDE + CAPTION + GAP)
            _draw(page, pen, crop, left, down)
            pen.text((left, down + SIDE + 1), crop.caption, QUIET, small)
        top += count * (SIDE + CAPTION + GAP)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _draw(page: Image.Image, pen: ImageDraw.ImageDraw, crop: Crop, left: int, top: int) -> None:
    if crop.image is None:
        pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), MISSING)
        return
    pixels, (x1, y1, x2, y2) = cut_out(crop.image, crop.box, SIDE)
    page.paste(Image.fromarray(pixels), (left, top))
    pen.rectangle((left + x1, top + y1, left + max(x1, x2 - 1), top + max(y1, y2 - 1)), outline=crop.colour, width=1)
