"""Whole frames or tiles of them: what an equal number of boxes is worth when they are asked for in smaller regions.

    python -m benchmarks.regions --data PATH --seeds 3

Aerial cars. One arm labels whole frames, drawn at random, the other tiles of all frames, until there are as many boxes;
both train on tiles, with the same detector, and are tested on tiles of another street.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alpipe import plugins
from alpipe.evaluation import detection
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext
from alpipe.types import Boxes, Example, Task
from benchmarks import detection_sets

LEARNER = {"flip": "both", "width": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets' folders")
    parser.add_argument("--boxes", type=int, nargs="+", default=[60, 120])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as work:
        frames: list[list[Example]] = []
        for sequence, some in detection_sets.aerial_sequences(given.data / "aerial_cars").items():
            if not sequence.startswith(detection_sets.TESTED):
                frames += [detection_sets.tiles(frame, detection_sets.TILE, Path(work)) for frame in some]
        test = detection_sets.read("aerial", given.data, Path(work)).test
        tiles = [[tile] for frame in frames for tile in frame]
        for budget in given.boxes:
            for seed in range(given.seeds):
                for name, units in (("frames", frames), ("tiles", tiles)):
                    train = drawn(units, budget, np.random.default_rng(seed))
                    row = {"boxes": sum(map(boxes_of, train)), "tiles": len(train)}
                    found.append(
                        {"asked": name, "budget": budget, "seed": seed, **row, "mAP50": judged(train, test, seed)}
                    )
                    print(json.dumps(found[-1]), flush=True)
    mean: Callable[[int, str], float] = lambda budget, asked: float(  # noqa: E731
        np.mean([row["mAP50"] for row in found if (row["budget"], row["asked"]) == (budget, asked)])
    )
    means = {budget: {asked: round(mean(budget, asked), 4) for asked in ("frames", "tiles")} for budget in given.boxes}
    print(json.dumps({"name": "regions on aerial cars, mAP50", "value": means}))


def drawn(units: list[list[Example]], budget: int, rng: np.random.Generator) -> list[Example]:
    """Units at random until they hold that many boxes; the last one that would go further over it than not is left."""
    taken: list[Example] = []
    for at in rng.permutation(len(units)):
        more = [*taken, *units[at]]
        if sum(map(boxes_of, more)) - budget > budget - sum(map(boxes_of, taken)):
            break
        taken = more
    return taken


def boxes_of(example: Example) -> int:
    assert isinstance(example.labels, Boxes)
    return len(example.labels.names)


def judged(train: list[Example], test: list[Example], seed: int) -> float:
    module = plugins.load(Kind.LEARNER, "detector")
    options = plugins.options(Kind.LEARNER, "detector", module, LEARNER)
    model = module.build(options, LearnerContext(Task.DETECT, ("car",), "cpu", "fp32")).fit(train, [], [], seed=seed)
    pairs = zip(model.predict([example.item for example in test]), test, strict=True)
    return round(float(detection.evaluate(pairs, ("car",)).value), 4)


if __name__ == "__main__":
    main()
