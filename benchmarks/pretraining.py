"""What an encoder that was pretrained on the whole pool is worth: paired trainings on few random images.

    python -m benchmarks.label_efficiency sign_digits --data PATH/TO/sign_digits --folder RESULTS/sign_digits
    python -m benchmarks.pretraining RESULTS/sign_digits/project --arms benchmarks/arms/sign_digits.yaml --images 16 40

The project is one that `benchmarks.label_efficiency` made; the learner is that of its file of arms. The encoder is
trained once, on the pool without labels, by ``pretrain: true``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import yaml

from alpipe import config as configuration
from alpipe.evaluation import classification, detection, segmentation
from alpipe.project import Project
from alpipe.protocols import Learner
from alpipe.steps import autoencoding
from alpipe.types import Example, Item, Progress, Split, Task

EVALUATE = {Task.CLASSIFY: classification, Task.DETECT: detection, Task.SEGMENT: segmentation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--arms", type=Path, required=True, help="file whose settings say the learner")
    parser.add_argument("--images", type=int, nargs="+", default=[16, 40])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    learner = yaml.safe_load(given.arms.read_text(encoding="utf-8"))["settings"]["learner"]
    found: list[dict[str, float]] = []
    config = configuration.read(given.project / configuration.FILE)
    changed = {"learner": config.learner.model_validate(learner), "pretrain": True}
    with Project(given.project.absolute(), config.model_copy(update=changed)) as project:
        start = time.process_time()
        encoder = autoencoding.pretrained_encoder(project, said)
        pretrained_s = time.process_time() - start
        pool, test = labelled(project, Split.POOL), labelled(project, Split.HOLDOUT)
        for count in given.images:
            for seed in range(given.seeds):
                order = np.random.default_rng([seed, count]).permutation(len(pool))[:count]
                train = [pool[at] for at in order]
                row = {"images": count, "seed": seed}
                for name, weights in (("plain", None), ("pretrained", encoder)):
                    row[name] = judged(project, project.learner(encoder=weights), train, test, seed)
                found.append(row)
                print(json.dumps(row), flush=True)
    for count in given.images:
        some = [row for row in found if row["images"] == count]
        print(count, *(f"{name} {np.mean([row[name] for row in some]):.3f}" for name in ("plain", "pretrained")))
    gains = [row["pretrained"] - row["plain"] for row in found]
    result = {"name": f"pretraining, {config.task.value}", "value": round(float(np.mean(gains)), 4), "rows": found}
    print(json.dumps(result | {"pretraining_s": round(pretrained_s, 1)}))


def labelled(project: Project, split: Split) -> list[Example]:
    """All images of the split whose labels are known, pool images by the truth that the oracle has."""
    items: list[Item] = sorted(project.store.items.list(split=split), key=lambda item: item.key)
    answers = project.store.annotations.latest(split=split)
    labels = {key: answer.labels for key, answer in answers.items()}
    labels |= {item.key: truth for item in items if (truth := project.store.truth.get(item.key)) is not None}
    return [Example(item, labels[item.key]) for item in items if labels.get(item.key) is not None]


def judged(project: Project, learner: Learner, train: list[Example], test: list[Example], seed: int) -> float:
    model = learner.fit(train, [], [], seed=seed)
    pairs = zip(model.predict([example.item for example in test]), test, strict=True)
    return round(float(EVALUATE[project.config.task].evaluate(pairs, project.classes).value), 4)


def said(now: Progress) -> None:
    if now.total and now.done == now.total:
        print(f"{now.stage}: {now.done} {now.detail}", flush=True)


if __name__ == "__main__":
    main()
