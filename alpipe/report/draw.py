"""Small pictures of images with their labels: masks are blended into the pixels, boxes lie over them as vectors."""

from __future__ import annotations

import base64
import colorsys
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from alpipe import rle
from alpipe.types import Boxes, ByteArray, FloatArray, ImageClass, Labels, Masks, Rle

LARGEST_SIDE = 320
CROP_SIDE = 160
JPEG_QUALITY = 80
MOST_TAGS = 8
"""Boxes in a picture up to which each carries its name; with more the names would hide the picture."""

PALETTE = ("#e69f00", "#56b4e9", "#2fbf8f", "#f0e442", "#d55e00", "#cc79a7", "#4f7dff", "#9bd13c")
"""After Okabe and Ito (2008), told apart by colour-blind people too; brightened to stand out on photographs."""
UNKNOWN_COLOUR = "#b0b0b0"


@dataclass(frozen=True, slots=True)
class Mark:
    """A box in pixels of the thumbnail, with its colour and what to say of it; ``tag``: whether to write its name."""

    x: float
    y: float
    width: float
    height: float
    name: str
    colour: str
    score: float | None = None
    tag: bool = True


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A JPEG as a data URI of ``width`` × ``height`` pixels, and the boxes to draw over it."""

    uri: str
    width: int
    height: int
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Chip:
    """What an image holds, in words: a class, its colour, and how many or how sure."""

    name: str
    colour: str
    detail: str = ""


def colour_of(name: str, classes: Sequence[str]) -> str:
    """``#rrggbb`` of a class, by its place among the classes; grey for a name that is not among them."""
    if name not in classes:
        return UNKNOWN_COLOUR
    index = list(classes).index(name)
    if index < len(PALETTE):
        return PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95)  # golden ratio: neighbours differ
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def chips(labels: Labels | None, classes: Sequence[str], scores: Sequence[float] = ()) -> tuple[Chip, ...]:
    """The classes in the labels, each with the number of its boxes, its share of the image or its confidence."""
    match labels:
        case ImageClass(name=name):
            return (Chip(name, colour_of(name, classes), f"{scores[0]:.2f}" if scores else ""),)
        case Boxes(names=names):
            return tuple(Chip(name, colour_of(name, classes), f"× {n}") for name, n in Counter(names).most_common())
        case Masks(by_name=by_name):
            return tuple(Chip(name, colour_of(name, classes), _share(mask)) for name, mask in by_name.items())
        case None:
            return ()


def thumbnail(
    image: ByteArray, labels: Labels | None, classes: Sequence[str], scores: Sequence[float] = ()
) -> Thumbnail:
    """A small picture of an (H, W, 3) uint8 RGB image with its labels; never enlarged.

    ``scores`` are the confidences of the boxes in their order, where a model proposed them. Raises DataError for a
    mask that is damaged.
    """
    height, width = image.shape[:2]
    small = _resize(image, min(1.0, LARGEST_SIDE / max(height, width)))
    marks: tuple[Mark, ...] = ()
    match labels:
        case Masks():
            small = overlay(small, labels, classes)
        case Boxes(xyxy=xyxy, names=names):
            scale = np.array([small.shape[1] / width, small.shape[0] / height] * 2, np.float32)
            marks = _marks(xyxy * scale, names, classes, scores)
        case _:
            pass
    return Thumbnail(_jpeg_uri(small), small.shape[1], small.shape[0], marks)


def crop(image: ByteArray, box: Sequence[float], name: str, score: float, classes: Sequence[str]) -> Thumbnail:
    """A region of the image, xyxy in its pixels, with as much again around it, enlarged where it is small."""
    small, inside = cut_out(image, box, CROP_SIDE)
    marks = _marks(inside[None], (name,), classes, (score,))
    marks = tuple(replace(mark, tag=False) for mark in marks)  # no room for it
    return Thumbnail(_jpeg_uri(small), small.shape[1], small.shape[0], marks)


def cut_out(image: ByteArray, box: Sequence[float], side: int) -> tuple[ByteArray, FloatArray]:
    """The region of a box, xyxy in pixels of the (H, W, 3) image, with as much again around it, its longer side scaled
    to ``side`` pixels; and the box (4,) in its pixels.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    reach = max(x2 - x1, y2 - y1, 16)
    middle_x, middle_y = min(max((x1 + x2) / 2, 0), width), min(max((y1 + y2) / 2, 0), height)
    left, top = int(max(0, middle_x - reach)), int(max(0, middle_y - reach))
    right, bottom = int(min(width, middle_x + reach + 1)), int(min(height, middle_y + reach + 1))
    left, top = min(left, width - 1), min(top, height - 1)
    part = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    scale = side / max(part.shape[:2])
    inside = (np.array(box, np.float32) - np.array([left, top, left, top], np.float32)) * np.float32(scale)
    return _resize(part, scale), inside


def overlay(image: ByteArray, masks: Masks, classes: Sequence[str]) -> ByteArray:
    """The (H, W, 3) image with each mask, scaled to it, as a tint and an outline in its colour; later ones on top."""
    height, width = image.shape[:2]
    drawn = image.astype(np.float32)
    for name, encoded in masks.by_name.items():
        mask = rle.decode(encoded)
        cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        colour = np.array([int(colour_of(name, classes)[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
        weight = 0.4 * cover[..., None]
        drawn = drawn * (1 - weight) + colour * weight
        outline, _ = cv2.findContours((cover >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        drawn = np.ascontiguousarray(drawn, np.float32)
        cv2.drawContours(drawn, outline, -1, colour.tolist(), 1)
    return np.asarray(np.clip(np.rint(drawn), 0, 255), np.uint8)


def _share(mask: Rle) -> str:
    percent = 100 * rle.area(mask) / max(mask.height * mask.width, 1)
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else "< 1 %"


def _marks(xyxy: FloatArray, names: Sequence[str], classes: Sequence[str], scores: Sequence[float]) -> tuple[Mark, ...]:
    return tuple(
        Mark(
            x=round(x1, 1),
            y=round(y1, 1),
            width=round(x2 - x1, 1),
            height=round(y2 - y1, 1),
            name=name,
            colour=colour_of(name, classes),
            score=scores[i] if i < len(scores) else None,
            tag=len(names) <= MOST_TAGS,
        )
        for i, ((x1, y1, x2, y2), name) in enumerate(zip(xyxy.tolist(), names, strict=True))
    )


def _resize(image: ByteArray, scale: float) -> ByteArray:
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    how = cv2.INTER_AREA if scale <= 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=how), np.uint8)


def _jpeg_uri(image: ByteArray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
