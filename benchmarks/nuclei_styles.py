"""What arms of the bench on nuclei chose, and how well their last models do, by style of image.

    python -m benchmarks.nuclei_styles --bench RESULTS/nuclei/bench --seeds 5

Reads the folder that `benchmarks.label_efficiency nuclei` has filled. Dice is over all pixels of the test images of a
style. Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpipe.bench.plan import slug
from alpipe.evaluation import segmentation
from alpipe.project import Project
from alpipe.types import Example, Split
from benchmarks.label_efficiency import style_of
from benchmarks.pretraining import labelled

STYLES = ("dark", "colour", "light")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder of the bench")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", default=["random", "balanced_random", "margin, herding", "entropy"])
    given = parser.parse_args()
    found = {
        arm: [of_trial(given.bench / "arms" / slug(arm) / f"seed-{n}") for n in range(given.seeds)]
        for arm in given.arms
    }
    means = {
        arm: {name: float(np.mean([one[name] for one in some])) for name in some[0]} for arm, some in found.items()
    }
    print(f"{'':18} chosen: {', '.join(STYLES):20} Dice: {', '.join(STYLES)}, mean of them")
    for arm, mean in means.items():
        chosen = " ".join(f"{mean[f'chosen {style}']:5.1f}" for style in STYLES)
        dice = [mean[style] for style in STYLES]
        print(f"{arm:18} {chosen:28} {' '.join(f'{value:.3f}' for value in dice)} {np.mean(dice):.3f}")
    print(json.dumps({"name": "nuclei by style", "seeds": given.seeds, "means": means}))


def of_trial(folder: Path) -> dict[str, float]:
    """Images of each style among the labels of a trial, and the Dice of its last model on each style."""
    with Project.open(folder) as project:
        test = labelled(project, Split.HOLDOUT)
        model = project.model(project.store.models.list()[-1].name)
        predictions = list(model.predict([example.item for example in test]))
        styles = [style_of(Path(example.item.path)) for example in test]
        chosen = Counter(style_of(Path(one.item.path)) for one in project.store.annotations.examples(Split.POOL))
        figures: dict[str, float] = {f"chosen {style}": chosen[style] for style in STYLES}
        for style in STYLES:
            some = [pair for pair, its in zip(zip(predictions, test, strict=True), styles, strict=True) if its == style]
            figures[style] = dice(some, project.classes)
    return figures


def dice(pairs: Sequence[tuple[Any, Example]], classes: Sequence[str]) -> float:
    return float(segmentation.evaluate(pairs, classes).value)


if __name__ == "__main__":
    main()
