"""Would closeness in the embedding tell unmarked objects from true mistakes? A third sign for the guard, measured.

    python -m benchmarks.guard_embedding digits --images 100 --set-learner image_size=160 width=32 length=0.6
    python -m benchmarks.guard_embedding bccd --data PATH --images 80 --set-learner image_size=160 width=32 length=0.4

A fifth of the labels is taken away, a detector trained, and what it would mine is judged: the AUROC of objects taken
away among it, by the detector's score, and by how near the crop's embedding lies to those of true objects of the class
(the mean distance to the five nearest, of the detector's own embeddings of unit length). Prints a row a seed, and as
its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.metrics import roc_auc_score

from alpipe import boxes, images
from alpipe.mining.options import MiningOptions
from alpipe.types import Boxes, FloatArray, Item
from benchmarks import detection_sets, mining

SIDE = 96
"""Of the crops, in pixels."""

NEAREST = 5
Box = tuple[float, float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=detection_sets.SETS)
    parser.add_argument("--data", type=Path, help="folder that holds the sets' folders")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--context", type=float, default=1.5, help="side of a crop, in longer sides of its box")
    parser.add_argument("--set-learner", nargs="*", default=[], metavar="OPTION=VALUE")
    given = parser.parse_args()
    given.quick = False
    rows = []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as work:
            rows.append(run(given, seed, Path(work)))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    print(json.dumps({"name": f"closeness in the embedding on {given.set}", "rows": rows}))


def run(given: argparse.Namespace, seed: int, work: Path) -> dict[str, Any]:
    data = detection_sets.read(given.set, given.data, work)
    shown, hidden = mining.hide(mining.some(data.train, given.images, seed), 0.2, np.random.default_rng(seed))
    model = mining.fit(given, "detector", data.classes, shown, [], seed)
    options = MiningOptions(min_score=0.1, ratio=10, per_image=50)
    found = mining.mine_all(model, shown, data.classes, options, []).new
    items = {example.item.key: example.item for example in shown}
    truths = [
        (example.item, tuple(box), name)
        for example in shown
        if isinstance(example.labels, Boxes)
        for box, name in zip(example.labels.xyxy.tolist(), example.labels.names, strict=True)
    ]
    of_truths = embedded(model, ((item, box) for item, box, _ in truths), given.context, work / "truths")
    of_found = embedded(model, ((items[one.item_key], one.box) for one in found), given.context, work / "found")
    names = np.array([name for *_, name in truths])
    distance = []
    for one, embedding in zip(found, of_found, strict=True):
        away = np.linalg.norm(of_truths[names == one.name] - embedding, axis=1)
        distance.append(float(np.sort(away)[:NEAREST].mean()))
    real = [bool(boxes.best(np.array([one.box], np.float32), hidden[one.item_key]).iou[0] >= 0.5) for one in found]
    return {
        "seed": seed,
        "mined": len(found),
        "taken away": sum(real),
        "AUROC by score": round(float(roc_auc_score(real, [one.score for one in found])), 3),
        "by closeness": round(float(roc_auc_score(real, [-value for value in distance])), 3),
    }


def embedded(model: Any, places: Iterable[tuple[Item, Box]], context: float, folder: Path) -> FloatArray:
    """(N, D) embeddings, of unit length, of square crops around boxes."""
    folder.mkdir()
    crops = []
    for at, (item, (x1, y1, x2, y2)) in enumerate(places):
        pixels = images.read(item.path)
        half, x, y = max(x2 - x1, y2 - y1) * context / 2, (x1 + x2) / 2, (y1 + y2) / 2
        top, bottom = max(0, int(y - half)), min(pixels.shape[0], int(y + half) + 1)
        left, right = max(0, int(x - half)), min(pixels.shape[1], int(x + half) + 1)
        path = folder / f"{at}.png"
        crop = cv2.resize(pixels[top:bottom, left:right], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(path), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
        crops.append(Item(f"{folder.name}{at}", str(path), SIDE, SIDE))
    made: FloatArray = model.embed(crops)
    return made / np.maximum(1e-9, np.linalg.norm(made, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
