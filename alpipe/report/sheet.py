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
    """A piece of an image around a region, (H, W, 3) with SIDE pixels on its longer side, None where it cannot be read;
    the region's xyxy ``box`` in it, a caption and a colour. ``cropped`` makes one.
    """

    pixels: ByteArray | None
    box: tuple[float, float, float, float]
    caption: str
    colour: str


def cropped(image: ByteArray | None, box: tuple[float, float, float, float], caption: str, colour: str) -> Crop:
    """The crop around the xyxy ``box`` of an (H, W, 3) image, of which nothing more is kept."""
    if image is None:
        return Crop(None, box, caption, colour)
    pixels, within = cut_out(image, box, SIDE)
    x1, y1, x2, y2 = within.tolist()
    return Crop(pixels.copy(), (x1, y1, x2, y2), caption, colour)


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
    if crop.pixels is None:
        pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), MISSING)
        return
    x1, y1, x2, y2 = crop.box
    page.paste(Image.fromarray(crop.pixels), (left, top))
    pen.rectangle((left + x1, top + y1, left + max(x1, x2 - 1), top + max(y1, y2 - 1)), outline=crop.colour, width=1)
