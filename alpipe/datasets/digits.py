"""The built-in demo data: real handwritten digits on real photographs, both from what scikit-learn ships.

The digits are those of ``sklearn.datasets.load_digits`` (8×8, from the UCI set of Alpaydin and Kaynak), the
photographs those of ``load_sample_images``. Digits are drawn at random size, angle, colour and contrast on random
crops. Some images hold no digit, some hold cut-up digits: strokes of the same ink that are no digit, the natural false
positives. What is known of each image is exact: it comes from the very ink that was drawn.

The hold-out is honest: every fifth handwritten digit and the right-hand part of each photograph appear in hold-out
images only. The same seed gives the same files to the byte (with the same versions of the libraries).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from alpipe import boxes as box_arithmetic
from alpipe import rle
from alpipe.errors import ConfigError
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.types import Boxes, ByteArray, FloatArray, ImageClass, Labels, Masks, Progress, Rle, Task

HOLDOUT_EVERY = 5
"""Every fifth handwritten digit is kept for the hold-out."""
HOLDOUT_STRIP = 0.35
"""The share of each photograph's width, on its right, that is kept for the hold-out."""
MOST_OVERLAP = 0.05
"""Boxes of things in one image overlap by less than this IoU; their ink never touches."""

_GLYPH = 64  # pixels of the side of a digit after smooth enlargement
_MARGIN = 32  # pixels around it, so that strokes end round and nothing is cut off


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What images of a task look like. ``share`` is how often each digit is drawn; ``sizes`` are ink heights relative
    to the image's side, drawn log-uniformly; ``angle`` is the most they are turned, in degrees; ``most`` is the largest
    number of digits in an image; ``photo_only`` and ``cut_up`` are shares of images; ``opacity`` is that of the ink.
    """

    share: Mapping[str, float]
    sizes: tuple[float, float]
    angle: float
    most: int
    photo_only: float
    cut_up: float
    opacity: tuple[float, float]


_RECIPES: Mapping[Task, _Recipe] = {
    Task.DETECT: _Recipe({"0": 0.55, "4": 0.3, "7": 0.15}, (0.11, 0.38), 25, 4, 0.2, 0.25, (0.5, 1.0)),
    Task.SEGMENT: _Recipe(dict.fromkeys("0123456789", 0.1), (0.15, 0.4), 25, 4, 0.2, 0.25, (0.5, 1.0)),
    Task.CLASSIFY: _Recipe(dict.fromkeys("01234", 0.2), (0.55, 0.8), 12, 1, 0.0, 0.0, (0.7, 1.0)),
}

CLASSES: Mapping[Task, tuple[str, ...]] = {
    Task.DETECT: tuple(_RECIPES[Task.DETECT].share),
    Task.SEGMENT: ("digit",),
    Task.CLASSIFY: tuple(_RECIPES[Task.CLASSIFY].share),
}
"""The labels of each task. Few, for a demo of some minutes: detection has three digits, one of them rare; segmentation
tells the ink of any digit from everything else; classification has five digits, one in each image."""


@dataclass(frozen=True, slots=True)
class MadeImage:
    """One image of the demo and all that is known of it.

    ``boxes`` are the tight boxes of the visible ink with the digits as names, ``masks`` the ink of each digit by name,
    ``image_class`` the digit where there is exactly one.
    """

    path: Path
    holdout: bool
    boxes: Boxes
    masks: Masks
    image_class: ImageClass | None


def labels_for(image: MadeImage, task: Task) -> Labels:
    """The truth in the labels of a task. Raises ConfigError where an image has no single class to give."""
    match task:
        case Task.DETECT:
            return image.boxes
        case Task.SEGMENT:
            return Masks({"digit": _union(image.masks)}) if image.masks.by_name else Masks({})
        case Task.CLASSIFY:
            if image.image_class is None:
                raise ConfigError(f"{image.path.name} was not made for classification: it does not hold one digit")
            return image.image_class


def make(
    folder: Path,
    *,
    task: Task = Task.DETECT,
    count: int = 400,
    seed: int = 0,
    size: int = 160,
    holdout_share: float = 0.2,
    progress: ProgressCallback = no_progress,
) -> list[MadeImage]:
    """Writes ``count`` images of 0.9 to 1.2 times ``size`` pixels a side into the folder and says what they hold.

    Three of four are JPEG (quality 92), the others PNG. Each image depends on the seed and its own number only, so that
    a larger count begins with the images of a smaller one. Raises ConfigError for a count, size or share out of range.
    """
    if count < 0 or size < 64 or not 0 <= holdout_share < 1:
        raise ConfigError(
            f"demo data: count {count}, size {size}, holdout_share {holdout_share}: expected count ≥ 0, size ≥ 64 and"
            " 0 ≤ holdout_share < 1"
        )
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        holdout = int((number + 1) * holdout_share) > int(number * holdout_share)
        rng = np.random.default_rng([seed, list(Task).index(task), number])
        picture, boxes, masks = _compose(rng, _RECIPES[task], size, holdout)
        path = folder / f"digits_{number:04d}.{'png' if number % 4 == 3 else 'jpg'}"
        Image.fromarray(picture).save(path, quality=92)
        image_class = ImageClass(boxes.names[0]) if len(boxes.names) == 1 else None
        made.append(MadeImage(path, holdout, boxes, masks, image_class))
        progress(Progress("making images", number + 1, count))
    return made


def _compose(rng: np.random.Generator, recipe: _Recipe, size: int, holdout: bool) -> tuple[ByteArray, Boxes, Masks]:
    """One picture (H, W, 3) uint8, the boxes of its digits and their ink by name."""
    height, width = (round(size * factor / 4) * 4 for factor in rng.uniform(0.9, 1.2, 2))
    picture = _photograph(rng, height, width, holdout)
    wanted = _wanted(rng, recipe)
    placed: list[tuple[float, float, float, float]] = []
    digits: list[tuple[str, tuple[float, float, float, float]]] = []
    inked = np.zeros((height, width), bool)
    by_name: dict[str, ByteArray] = {}
    for name in wanted:
        found = _place(rng, recipe, name, inked, placed, min(height, width), holdout)
        if found is None:  # no room left in this picture
            continue
        alpha, box = found
        ink = alpha > 0.5
        picture = _draw(rng, picture, alpha, recipe.opacity)
        inked |= ink
        placed.append(box)
        if name is not None:
            digits.append((name, box))
            by_name[name] = by_name.get(name, np.zeros((height, width), np.uint8)) | ink.astype(np.uint8)
    xyxy = np.asarray([box for _, box in digits], np.float32).reshape(-1, 4)
    boxes = Boxes(xyxy, tuple(name for name, _ in digits))
    return _through_the_lens(rng, picture), boxes, Masks({name: rle.encode(by_name[name]) for name in sorted(by_name)})


def _wanted(rng: np.random.Generator, recipe: _Recipe) -> list[str | None]:
    """What an image is to hold: digits by name, and None for each cut-up one."""
    names, share = list(recipe.share), list(recipe.share.values())
    how_many = int(rng.integers(1, recipe.most + 1)) if rng.random() >= recipe.photo_only else 0
    digits = [str(name) for name in rng.choice(names, how_many, p=share)]
    cut_up = int(rng.integers(1, 4)) if rng.random() < recipe.cut_up else 0
    return [*digits, *[None] * cut_up]


def _place(
    rng: np.random.Generator,
    recipe: _Recipe,
    name: str | None,
    inked: npt.NDArray[np.bool_],
    placed: list[tuple[float, float, float, float]],
    side: int,
    holdout: bool,
) -> tuple[FloatArray, tuple[float, float, float, float]] | None:
    """The (H, W) coverage in [0, 1] of a digit (of a cut-up one for None) where there is room, and its ink's box."""
    sources = _sources(holdout)
    glyph = sources[name or str(rng.choice(list(recipe.share)))]
    shape = _enlarge(glyph[rng.integers(len(glyph))])
    if name is None:
        shape = _cut_up(rng, shape)
    height, width = inked.shape
    extent = float(np.exp(rng.uniform(*np.log(recipe.sizes)))) * side
    angle, aspect = float(rng.uniform(-recipe.angle, recipe.angle)), float(rng.uniform(0.85, 1.15))
    small = _turned(shape, extent, angle, aspect)
    excess = max(small.shape[0] / height, small.shape[1] / width)
    if excess >= 1:
        small = _turned(shape, extent * 0.95 / excess, angle, aspect)
    h, w = small.shape
    near = cv2.dilate(inked.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    for _ in range(30):
        top, left = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
        alpha = np.zeros((height, width), np.float32)
        alpha[top : top + h, left : left + w] = small
        ink = alpha > 0.5
        box = _extent(ink)
        others = np.asarray(placed, np.float32).reshape(-1, 4)
        overlap = box_arithmetic.iou(np.asarray([box], np.float32), others)
        if not (ink & near).any() and not (overlap >= MOST_OVERLAP).any():
            return alpha, box
    return None


# ── ink ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _sources(holdout: bool) -> Mapping[str, FloatArray]:
    """By digit the (N, 8, 8) handwritten ones in [0, 1] that images on this side of the split are made of."""
    from sklearn.datasets import load_digits  # takes half a second: only when images are made

    data = load_digits()
    ours = (np.arange(len(data.target)) % HOLDOUT_EVERY == HOLDOUT_EVERY - 1) == holdout
    return {str(digit): (data.images[ours & (data.target == digit)] / 16).astype(np.float32) for digit in range(10)}


def _enlarge(digit: FloatArray) -> FloatArray:
    """The (8, 8) digit as (128, 128) coverage in [0, 1] with smooth edges, empty around it."""
    # the strokes of many touch the border of their 8×8 pixels: with space around them their ends come out round
    spacious = np.pad(digit, 4)
    smooth = cv2.resize(spacious, (_GLYPH + 2 * _MARGIN,) * 2, interpolation=cv2.INTER_CUBIC)
    ramp = np.clip((cv2.GaussianBlur(smooth, (0, 0), 2) - 0.3) / 0.3, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _cut_up(rng: np.random.Generator, shape: FloatArray) -> FloatArray:
    """The quarters of a digit put together wrongly, so that no digit comes out: always the wrong column."""
    y, x = np.nonzero(shape > 0.5)
    inner = shape[y.min() : y.max() + 1, x.min() : x.max() + 1]
    inner = np.asarray(cv2.resize(inner, (_GLYPH, _GLYPH), interpolation=cv2.INTER_LINEAR), np.float32)
    half, gap = _GLYPH // 2, 6
    swap_rows = rng.random() < 0.5
    missing = int(rng.integers(0, 8))  # half of the time one quarter is lost
    result = np.zeros_like(shape)
    for quarter in range(4):
        row, column = divmod(quarter, 2)
        if quarter == missing:
            continue
        piece = inner[row * half : (row + 1) * half, column * half : (column + 1) * half]
        to_row = 1 - row if swap_rows else row
        dy, dx = rng.integers(-gap, gap + 1, 2)
        top = _MARGIN + to_row * (half + gap) - gap // 2 + int(dy)
        left = _MARGIN + (1 - column) * (half + gap) - gap // 2 + int(dx)
        result[top : top + half, left : left + half] = np.maximum(result[top : top + half, left : left + half], piece)
    return result


def _turned(shape: FloatArray, extent: float, angle: float, aspect: float) -> FloatArray:
    """The shape with its ink scaled to ``extent`` pixels of height, then turned by ``angle`` degrees, cropped."""
    rows = np.flatnonzero((shape > 0.5).any(axis=1))
    scale = extent / (rows[-1] - rows[0] + 1)
    if scale < 1:  # antialias: no detail finer than the pixels to come
        shape = np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.45 / scale), np.float32)
    radians = np.deg2rad(angle)
    matrix = np.asarray(
        [[np.cos(radians) * aspect, -np.sin(radians)], [np.sin(radians) * aspect, np.cos(radians)]], np.float64
    )
    matrix *= scale
    side = int(np.ceil(shape.shape[0] * scale * 1.3)) + 4
    offset = side / 2 - matrix @ np.full(2, shape.shape[0] / 2)
    turned = cv2.warpAffine(shape, np.column_stack([matrix, offset]), (side, side), flags=cv2.INTER_LINEAR)
    y, x = np.nonzero(turned > 1 / 255)
    return np.asarray(turned[y.min() : y.max() + 1, x.min() : x.max() + 1], np.float32)


def _extent(ink: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _union(masks: Masks) -> Rle:
    decoded = [rle.decode(mask) for mask in masks.by_name.values()]
    return rle.encode(np.maximum.reduce(decoded))


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _photographs(holdout: bool) -> tuple[ByteArray, ...]:
    """The parts of scikit-learn's photographs that images on this side of the split are cut from."""
    from sklearn.datasets import load_sample_images

    parts = []
    for photograph in load_sample_images().images:
        border = int(photograph.shape[1] * (1 - HOLDOUT_STRIP))
        parts.append(photograph[:, border:] if holdout else photograph[:, :border])
    return tuple(parts)


def _photograph(rng: np.random.Generator, height: int, width: int, holdout: bool) -> FloatArray:
    """(height, width, 3) float32 in [0, 255]: a random crop at random scale, perhaps mirrored, of random brightness."""
    photographs = _photographs(holdout)
    whole = photographs[rng.integers(len(photographs))]
    largest = min(whole.shape[0] / height, whole.shape[1] / width)
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(min(largest, 1.4)))))
    h, w = int(height * scale), int(width * scale)
    top, left = int(rng.integers(0, whole.shape[0] - h + 1)), int(rng.integers(0, whole.shape[1] - w + 1))
    crop = whole[top : top + h, left : left + w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=method).astype(np.float32)
    picture = (picture - 128) * float(rng.uniform(0.6, 1.1)) + 128 + float(rng.uniform(-35, 35))
    return np.clip(picture, 0, 255)


def _draw(rng: np.random.Generator, picture: FloatArray, alpha: FloatArray, opacity: tuple[float, float]) -> FloatArray:
    """Blends ink into the picture: light on dark or dark on light, tinted, more or less opaque."""
    under = float(picture[alpha > 0.1].mean())
    light = rng.random() < np.clip((168 - under) / 80, 0, 1)
    grey = rng.uniform(205, 255) if light else rng.uniform(0, 45)
    colour = np.clip(grey + rng.normal(0, 14, 3), 0, 255).astype(np.float32)
    cover = (alpha * float(rng.uniform(*opacity)))[..., None]
    return np.asarray(picture * (1 - cover) + colour * cover, np.float32)


def _through_the_lens(rng: np.random.Generator, picture: FloatArray) -> ByteArray:
    """A little blur and noise, as cameras give, over ink and photograph alike."""
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 0.9))), np.float32)
    noise = rng.normal(0, float(rng.uniform(1, 7)), picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
