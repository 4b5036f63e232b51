"""What the detector is to say at each place of its output.

After TTFNet (Liu et al. 2020, "Training-Time-Friendly Network for Real-Time Object Detection"): an object is a Gaussian
bump of its class, shaped like its box; boxes are learnt everywhere under the bump, with the bump as weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpipe.types import FloatArray

SPREAD = 0.54
"""Share of the box that the bump covers, as in TTFNet."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Of one image with (h, w) places: ``heat`` (C, h, w) in [0, 1]; ``boxes`` (4, h, w) xyxy in network pixels;
    ``weight`` (h, w) of the box there, 0 where there is none, each object's summing to one; ``focus`` (h, w) weight of
    the class loss there, 1 save in hard negatives.
    """

    heat: FloatArray
    boxes: FloatArray
    weight: FloatArray
    focus: FloatArray


def targets(
    xyxy: FloatArray,
    class_index: npt.NDArray[np.int64],
    negatives: FloatArray,
    focus: float,
    classes: int,
    grid: tuple[int, int],
    stride: int,
) -> Targets:
    """Targets of (N, 4) boxes and (M, 4) hard negatives, in network pixels, on a grid (h, w). On places that two
    objects claim, the smaller one wins.
    """
    height, width = grid
    heat = np.zeros((classes, height, width), np.float32)
    boxes = np.zeros((4, height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    xs = (np.arange(width, dtype=np.float32) + 0.5) * stride
    ys = (np.arange(height, dtype=np.float32) + 0.5) * stride
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
    for index in np.argsort(-area, kind="stable"):
        x1, y1, x2, y2 = xyxy[index]
        # the peak stands on a place, so that some place is a full positive
        peak_x, peak_y = (min(int((a + b) / 2 / stride), n - 1) for a, b, n in ((x1, x2, width), (y1, y2, height)))
        sigma_x, sigma_y = (max(side * SPREAD / 6, stride / 4) for side in (x2 - x1, y2 - y1))
        bump = np.exp(-(((ys - ys[peak_y]) / sigma_y) ** 2) / 2)[:, None] * np.exp(
            -(((xs - xs[peak_x]) / sigma_x) ** 2) / 2
        )
        np.maximum(heat[class_index[index]], bump, out=heat[class_index[index]])
        inside = (xs > x1) & (xs < x2) & ((ys > y1) & (ys < y2))[:, None]
        inside[peak_y, peak_x] = True
        claimed = (bump > 0.01) & inside
        boxes[:, claimed] = xyxy[index][:, None]
        weight[claimed] = bump[claimed] / bump[claimed].sum()
    return Targets(heat, boxes, weight, _focus(negatives, focus, xs, ys))


def _focus(negatives: FloatArray, focus: float, xs: FloatArray, ys: FloatArray) -> FloatArray:
    weights = np.ones((len(ys), len(xs)), np.float32)
    for x1, y1, x2, y2 in negatives:
        weights[((ys > y1) & (ys < y2))[:, None] & (xs > x1) & (xs < x2)] = focus
    return weights
