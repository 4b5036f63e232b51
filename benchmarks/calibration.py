"""How well calibrated the classifier is, and what calibrating it would change about what is chosen.

    python -m benchmarks.calibration --data PATH/TO/sign_digits --labels 16 40 64 --seeds 2

Trains as the arms in benchmarks/arms/sign_digits.yaml do, on random photos of the training people, and fits a
temperature to photos that were not trained on (Guo et al. 2017, "On calibration of modern neural networks"): the best
that calibration by temperature could do. Prints a row a training, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.stats import spearmanr

from alpipe import plugins
from alpipe.acquisition.ranking.measures import margin
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext
from alpipe.types import ImageClass, Task
from benchmarks.classifier import examples
from benchmarks.sign_digits import DIGITS, split

OPTIONS = {"image_size": 32, "length": 0.4}
BATCH = 12

Probabilities = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the set: 0/ … 9/")
    parser.add_argument("--labels", type=int, nargs="+", default=[16, 40, 64])
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    rows = [run(given.data, labels, seed) for seed in range(given.seeds) for labels in given.labels]
    print(json.dumps({"name": "calibration sign_digits", "rows": rows}))


def run(data: Path, labels: int, seed: int) -> dict[str, Any]:
    known, _ = split(data, seed)
    photos = examples(known)
    order = np.random.default_rng(seed).permutation(len(photos))
    train, rest = ([photos[at] for at in rows] for rows in (order[:labels], order[100:]))
    module = plugins.load(Kind.LEARNER, "cnn", Task.CLASSIFY)
    options = plugins.options(Kind.LEARNER, "cnn", module, OPTIONS)
    model = module.build(options, LearnerContext(Task.CLASSIFY, DIGITS, "cpu", "fp32")).fit(train, [], [], seed=seed)
    probs = np.stack([one.probs for one in model.predict([example.item for example in rest])]).astype(np.float64)
    truth = np.array([DIGITS.index(one.labels.name) for one in rest if isinstance(one.labels, ImageClass)])

    def loss(temperature: float) -> float:
        return float(-np.log(tempered(probs, temperature)[np.arange(len(truth)), truth] + 1e-12).mean())

    best = float(minimize_scalar(loss, bounds=(0.3, 8), method="bounded").x)
    before, after = margin(probs), margin(tempered(probs, best))
    row = {
        "seed": seed,
        "labels": labels,
        "accuracy": round(float((probs.argmax(axis=1) == truth).mean()), 3),
        "ECE": round(ece(probs, truth), 3),
        "temperature": round(best, 2),
        "ECE after": round(ece(tempered(probs, best), truth), 3),
        "rank correlation of margins": round(float(spearmanr(before, after)[0]), 4),
        f"of the first {BATCH} the same": len({*np.argsort(-before)[:BATCH]} & {*np.argsort(-after)[:BATCH]}),
    }
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def tempered(probs: Probabilities, temperature: float) -> Probabilities:
    """(N, C) probabilities whose logits are divided by the temperature."""
    raised = np.exp(np.log(np.maximum(probs, 1e-12)) / temperature)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def ece(probs: Probabilities, truth: npt.NDArray[np.int64], bins: int = 10) -> float:
    """Expected calibration error over equal bins of confidence (Naeini et al. 2015)."""
    sure, right = probs.max(axis=1), probs.argmax(axis=1) == truth
    of_bin = np.minimum((sure * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(right[of_bin == one].mean() - sure[of_bin == one].mean()) * (of_bin == one).mean()
            for one in range(bins)
            if (of_bin == one).any()
        )
    )


if __name__ == "__main__":
    main()
