"""What hard-negative mining does: rounds of the sliding classifier, three arms of the detector, the guard, the speed.

    python -m benchmarks.mining rounds digits                        the tutorial's loop: mine, add, retrain, repeat
    python -m benchmarks.mining arms bccd --data PATH --seeds 5      no, random and hard negatives, paired by seed
    python -m benchmarks.mining guard digits --hide 0.2              what the guard finds of labels taken away
    python -m benchmarks.mining guard bccd --data PATH               a sheet of 100 candidates, to be looked at
    python -m benchmarks.mining speed digits                         mining beside predicting 1,000 images

Each prints a table, and as its last line one JSON object. ``--quick`` takes few steps and keeps nothing. Rows that
--results already holds are not measured again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alpipe import boxes, plugins
from alpipe.evaluation import detection
from alpipe.evaluation.false_alarms import alarm_curve
from alpipe.mining.guard import doubtful, sure_from
from alpipe.mining.hard import Guard, Mined, mine, no_doubt
from alpipe.mining.options import MiningOptions, View
from alpipe.plugins import Kind
from alpipe.pool.bank import key_of
from alpipe.protocols import LearnerContext, Model
from alpipe.types import BankEntry, Boxes, BoxPrediction, Example, Negative, NegativeState, Task
from benchmarks import detection_sets
from benchmarks import mining_pictures as pictures
from benchmarks import mining_rows as rows
from benchmarks.detection_sets import DetectionSet
from benchmarks.mining_speed import speed

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("sliding", "digits"): {"flip": "none", "steps": 1200, "windows": 5, "features": [16, 32], "hidden": [64]},
    ("sliding", "bccd"): {"flip": "both", "steps": 1200},
    ("sliding", "aerial"): {"flip": "both", "steps": 1200},
    ("detector", "digits"): {"flip": "none"},
    ("detector", "bccd"): {"flip": "both", "image_size": 256},
    ("detector", "aerial"): {"flip": "both"},
}
QUICK = {"sliding": {"steps": 60}, "detector": {"steps": 40, "image_size": 160, "width": 32}}

LOOP = {"nms_iou": 0.3, "patience": 100}
"""Mining for the sliding classifier: its windows overlap a lot, so that one place gives one negative; what was found is
let go for harder ones alone.
"""

ARMS = ("none", "random", "hard")
UNGUARDED = "unguarded"
"""What is mined whatever the guard says."""

COMPARED = (("hard", "random"), ("hard", "none"), ("random", "none"), (UNGUARDED, "hard"))

FIGURES = (
    "FPPI@recall0.8",
    "FPPI@recall0.9",
    "recall@FPPI0.1",
    "recall@FPPI1",
    "LAMR",
    "empty_alarms@recall0.8",
    "background@recall0.8",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rounds", "arms", "guard", "speed"])
    parser.add_argument("set", choices=detection_sets.SETS)
    parser.add_argument("--data", type=Path, help="folder that holds the sets' folders")
    parser.add_argument("--images", type=int, help="training images, drawn by the seed; default: all")
    parser.add_argument("--tests", type=int, help="test images, drawn by seed 0; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="mining rounds after the first training")
    parser.add_argument("--recall", type=float, default=0.7, help="recall at which false alarms are compared")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=[*ARMS, UNGUARDED], help="of `arms`")
    parser.add_argument("--hide", type=float, default=0.0, help="share of the labels taken away, for the guard to find")
    parser.add_argument("--set-mining", nargs="*", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--set-learner", nargs="*", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--results", type=Path, default=Path("docs/results/mining.jsonl"))
    parser.add_argument("--sheets", type=Path, default=Path("docs/images"))
    parser.add_argument(
        "--growing", action="store_true", help="of `rounds`: the bank may hold its full number after the last one only"
    )
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        data = detection_sets.read(given.set, given.data, Path(work))
        data = data._replace(test=some(data.test, given.tests, 0))
        {"rounds": rounds, "arms": arms, "guard": guard, "speed": speed}[given.what](given, data)


# ── the sliding classifier, round by round ──────────────────────────────────────────────────────────────────────────


def rounds(given: argparse.Namespace, data: DetectionSet) -> None:
    """Trains, mines the training images, adds the hardest to the bank, and trains anew from the same first weights."""
    asked = LOOP | {"exhaustive": data.exhaustive} | dict(map(option, given.set_mining))
    if given.growing:
        asked |= {"growing": given.rounds}
    found: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        train = some(data.train, given.images, seed)
        bank: list[BankEntry] = []
        for number in range(1 if given.quick else given.rounds + 1):
            arm = {"what": "rounds", **describe(given, "sliding", seed, asked), "round": number}
            row, model = rows.known(given, arm), None
            if row is None:
                model = fit(given, "sliding", data.classes, train, negatives(bank), seed)
                row = arm | measure(model, data) | {"bank": len(bank)}
                options = options_of(asked, number)
                mined = guarded(model, train, data, options, view_of(given, "sliding"), bank, number)
                bank = filed(bank, mined, number)
                row |= {"mined": len(mined.new), "evicted": len(mined.evicted), "doubtful": len(mined.doubts)}
                rows.keep(given, row, rows.plain(bank))
            else:
                bank = rows.entries(row["entries"])
            found.append(row)
            here = f"FPPI at recall {given.recall}: {fppi(row, given.recall)}"
            print(
                f"seed {seed}, round {number}: {here}, mAP50 {row['mAP50']}, {row['bank']} negatives learnt", flush=True
            )
        if not given.quick:
            path = given.sheets / f"mining-rounds-{given.set}-{seed}.png"
            pictures.rounds_sheet(path, bank, train, data.classes)
    columns = ("seed", "round", "bank", "mined", "evicted", "doubtful", "mAP50", *FIGURES[:5])
    table(found, columns)
    numbers = sorted({row["round"] for row in found})
    means = [mean([fppi(row, given.recall) for row in found if row["round"] == number]) for number in numbers]
    first, last = means[0], means[-1]
    if not given.quick:
        by_seed = [[row["curve"] for row in found if row["seed"] == seed] for seed in range(given.seeds)]
        pictures.curves(given.sheets / f"mining-rounds-{given.set}.png", by_seed)
    result = {"name": f"mining rounds of sliding on {given.set}, false alarms an image at recall {given.recall}"}
    result |= {"value": last, "goal": None if first is None else round(0.9 * first, 4), "by_round": means}
    print(json.dumps(result | machine()))


def options_of(asked: Mapping[str, Any], number: int) -> MiningOptions:
    """Where the bank is to grow, equally in each of so many rounds, the hardest come first."""
    options = MiningOptions(**{name: value for name, value in asked.items() if name != "growing"})
    share = min(1.0, (number + 1) / asked.get("growing", 1))
    return options.model_copy(update={"ratio": options.ratio * share})


# ── three arms of the detector ──────────────────────────────────────────────────────────────────────────────────────


def arms(given: argparse.Namespace, data: DetectionSet) -> None:
    """A first training; then, from the same first weights and seed, trainings with nothing added, with random regions
    of background, and with as many hard negatives; on request with all that is mined, whatever the guard says.
    Differences are paired by seed.
    """
    asked = {"exhaustive": data.exhaustive, **dict(map(option, given.set_mining))}
    options, level = MiningOptions(**asked), f"FPPI@recall{given.recall:g}"
    found: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        train = some(data.train, given.images, seed)
        first: Model | None = None
        for name in given.arms:
            arm = {"what": "arms", **describe(given, "detector", seed, asked), "arm": name}
            row = rows.known(given, arm)
            if row is None:
                first = first or fit(given, "detector", data.classes, train, [], seed)
                used = added(name, first, train, data, options, view_of(given, "detector"), seed)
                model = fit(given, "detector", data.classes, train, used, seed) if name != "none" else first
                row = arm | measure(model, data) | {"negatives": len(used)}
                rows.keep(given, row)
            found.append(row | {level: fppi(row, given.recall)})
            print(f"seed {seed}, {name}: mAP50 {row['mAP50']}, {level} {found[-1][level]}", flush=True)
    figures = tuple(dict.fromkeys(("mAP50", "mAP50-95", level, *FIGURES)))
    table(found, ("seed", "arm", "negatives", *figures))
    paired = {
        f"{one} − {other}": {name: differences(found, name, one, other) for name in figures}
        for one, other in COMPARED
        if {one, other} <= {*given.arms}
    }
    for pair, tests in paired.items():
        for name, test in tests.items():
            print(f"{pair:20} {name:24} {test}")
    alarms = {arm: mean([row[level] for row in found if row["arm"] == arm]) for arm in given.arms}
    chance, hard = alarms.get("random"), alarms.get("hard")
    fewer = None if not chance or hard is None else round(1 - hard / chance, 4)
    result = {"name": f"hard against random negatives on {given.set}, share of false alarms saved, {level}"}
    print(json.dumps(result | {"value": fewer, "goal": 0.3, level: alarms, "paired": paired} | machine()))


def added(
    arm: str, first: Model, train: Sequence[Example], data: DetectionSet, options: MiningOptions, view: View, seed: int
) -> list[Negative]:
    """The negatives that an arm trains on; ``first`` is the model of none."""
    if arm == "none":
        return []
    if arm == UNGUARDED:
        return mine_all(first, train, data.classes, options, []).new
    hard = guarded(first, train, data, options, view).new
    return hard if arm == "hard" else random_regions(train, hard, seed)


def guarded(
    model: Model,
    train: Sequence[Example],
    data: DetectionSet,
    options: MiningOptions,
    view: View,
    bank: Sequence[BankEntry] = (),
    number: int = 0,
) -> Mined:
    """What is mined, apart from what the guard would ask people about first."""
    truths = {one.item.key: one for one in train}

    def guard(candidates: Sequence[Negative], sure: float) -> Mapping[Negative, str]:
        seen = options.guard_view or view
        return doubtful(Task.DETECT, candidates, truths, model.predict, data.classes, options, seen, sure)

    return mine_all(model, train, data.classes, options, bank, number, guard)


def view_of(given: argparse.Namespace, learner: str) -> View:
    """As the product chooses it: mirrored where the learner's training images are."""
    return View.SHRINK if settings(given, learner)["flip"] == "none" else View.FLIP


def random_regions(train: Sequence[Example], hard: Sequence[Negative], seed: int) -> list[Negative]:
    """As many regions as there are hard negatives, each of the size of one of them, anywhere in the training images
    where they overlap true boxes by an IoU under 0.3.
    """
    rng = np.random.default_rng(seed)
    made: list[Negative] = []
    while len(made) < len(hard):
        example, like = train[rng.integers(len(train))], hard[len(made)]
        sides = np.array([like.box[2] - like.box[0], like.box[3] - like.box[1]])
        room = np.array([example.item.width, example.item.height]) - sides
        if (room < 0).any():
            continue
        corner = rng.uniform(0, room)
        box = np.concatenate([corner, corner + sides]).astype(np.float32)
        assert isinstance(example.labels, Boxes)
        iou = float(boxes.best(box[None], example.labels.xyxy).iou[0])
        if iou < 0.3:
            x1, y1, x2, y2 = box.tolist()
            made.append(Negative(example.item.key, (x1, y1, x2, y2), like.name, 0.0, iou))
    return made


def differences(found: Sequence[dict[str, Any]], figure: str, one: str, other: str) -> dict[str, Any]:
    """One arm minus the other, seed by seed: mean, and the two-sided p of a t-test and of Wilcoxon's."""
    by_seed: dict[int, dict[str, Any]] = {}
    for row in found:
        by_seed.setdefault(row["seed"], {})[row["arm"]] = row.get(figure)
    both = [(of_seed.get(one), of_seed.get(other)) for of_seed in by_seed.values()]
    values = np.array([ours - theirs for ours, theirs in both if ours is not None and theirs is not None])
    made: dict[str, Any] = {"seeds": len(values), "mean": round(float(values.mean()), 4) if len(values) else None}
    if len(values) > 1 and np.ptp(values) > 0:
        from scipy import stats

        made |= {"p_t": round(float(stats.ttest_1samp(values, 0).pvalue), 4)}
        made |= {"p_wilcoxon": round(float(stats.wilcoxon(values).pvalue), 4)}
    return made


# ── the guard ───────────────────────────────────────────────────────────────────────────────────────────────────────


def guard(given: argparse.Namespace, data: DetectionSet) -> None:
    """With --hide: labels are taken away at random, and the candidates counted that are such objects, among those sent
    to people and among those trained on. A sheet shows 100 candidates of each kind.
    """
    options = MiningOptions(**{"questions": 10_000, **dict(map(option, given.set_mining))})
    train = some(data.train, given.images, 0)
    shown, hidden = hide(train, given.hide, np.random.default_rng(0))
    model = fit(given, "detector", data.classes, shown, [], 0)
    view = options.guard_view or view_of(given, "detector")
    mined = guarded(model, shown, data, options, view)
    asked, trained = list(mined.doubts), mined.new
    real = {
        kind: sum(
            bool(boxes.best(np.array([one.box], np.float32), hidden[one.item_key]).iou[0] >= 0.5) for one in some_
        )
        for kind, some_ in (("asked", asked), ("trained on", trained))
    }
    found = {"asked": len(asked), "trained on": len(trained), "hidden objects": sum(map(len, hidden.values()))}
    table(
        [{"": kind, "candidates": found[kind], "hidden objects": real[kind]} for kind in real],
        ("", "candidates", "hidden objects"),
    )
    if not given.quick:
        groups = {f"asked: {len(asked)}": asked[:100], f"trained on: {len(trained)}": trained[:100]}
        pictures.write_sheet(given.sheets / f"mining-guard-{given.set}.png", groups, shown, data.classes, 100)
    share = round(real["asked"] / len(asked), 4) if asked else None
    result = {
        "name": f"guard on {given.set}, share of questions that are objects taken away",
        "value": share,
        "goal": None,
    }
    result |= {"found": found, "real": real, "hide": given.hide, "images": len(train), "view": view.value}
    result |= {"sure": round(sure_from(options, mined.sure), 4)}
    print(json.dumps(result | machine()))


def hide(examples: Sequence[Example], share: float, rng: np.random.Generator) -> tuple[list[Example], dict[str, Any]]:
    """The examples without a share of their boxes, but no image without any, and the (N, 4) boxes taken away by key."""
    shown, hidden = [], {}
    for example in examples:
        assert isinstance(example.labels, Boxes)
        gone = rng.random(len(example.labels.names)) < share
        gone &= ~gone.all()
        left = np.flatnonzero(~gone)
        labels = Boxes(example.labels.xyxy[left], tuple(example.labels.names[at] for at in left))
        shown.append(replace(example, labels=labels))
        hidden[example.item.key] = example.labels.xyxy[gone]
    return shown, hidden


# ── shared ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def fit(
    given: argparse.Namespace,
    name: str,
    classes: tuple[str, ...],
    train: Sequence[Example],
    used: Sequence[Negative],
    seed: int,
) -> Model:
    module = plugins.load(Kind.LEARNER, name)
    options = plugins.options(Kind.LEARNER, name, module, settings(given, name))
    learner = module.build(options, LearnerContext(Task.DETECT, classes, "cpu", "fp32"))
    made: Model = learner.fit(train, [], used, seed=seed)
    return made


def settings(given: argparse.Namespace, name: str) -> dict[str, Any]:
    return OPTIONS[name, given.set] | (QUICK[name] if given.quick else {}) | dict(map(option, given.set_learner))


def describe(given: argparse.Namespace, name: str, seed: int, mining: dict[str, Any]) -> dict[str, Any]:
    """What tells one measurement from another."""
    return {
        "set": given.set,
        "images": given.images,
        "tests": given.tests,
        "options": settings(given, name),
        "mining": mining,
        "seed": seed,
    }


def measure(model: Model, data: DetectionSet) -> dict[str, Any]:
    pairs: list[tuple[Any, Example]] = list(zip(model.predict([one.item for one in data.test]), data.test, strict=True))
    metrics = detection.evaluate(pairs, data.classes)
    curve = alarm_curve(pairs, data.classes)
    at = {f"{recall:.2f}": curve.fppi_at(recall) for recall in np.arange(0.3, 0.96, 0.05)}
    figures = {name: round(value, 4) for name, value in metrics.details.items() if name != "boxes"}
    figures["background@recall0.8"] = on_background(pairs, curve.score_at(0.8))
    return {"mAP50": round(metrics.value, 4), **figures, "curve": at}


def on_background(pairs: Sequence[tuple[BoxPrediction, Example]], score: float | None) -> float | None:
    """False alarms an image, at this score, that overlap no true object by an IoU of 0.3: those that mining can find.
    The others are of the wrong class, or lie badly, or are there twice.
    """
    if score is None:
        return None
    far = 0
    for found, example in pairs:
        assert isinstance(example.labels, Boxes)
        far += int((boxes.best(found.xyxy[found.scores >= score], example.labels.xyxy).iou < 0.3).sum())
    return round(far / len(pairs), 4)


def mine_all(
    model: Model,
    train: Sequence[Example],
    classes: Sequence[str],
    options: MiningOptions,
    bank: Sequence[BankEntry],
    number: int = 0,
    guard: Guard = no_doubt,
) -> Mined:
    truths = {one.item.key: one for one in train}
    found = model.predict([one.item for one in train])
    return mine(Task.DETECT, found, truths, classes, options, bank, number, guard=guard)


def filed(bank: Sequence[BankEntry], mined: Mined, number: int) -> list[BankEntry]:
    """The bank after a round, as the store keeps it."""
    gone = set(mined.evicted)
    kept = [replace(one, score=mined.scores.get(one.key, one.score)) for one in bank if one.key not in gone]
    return kept + [
        BankEntry(key_of(number, one), one, number, "", NegativeState.HARD, one.score, number) for one in mined.new
    ]


def negatives(bank: Sequence[BankEntry]) -> list[Negative]:
    return [entry.negative for entry in bank]


def fppi(row: dict[str, Any], recall: float) -> float | None:
    value: float | None = row["curve"].get(f"{recall:.2f}")
    return None if value is None else round(value, 4)


def mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(float(np.mean(there)), 4) if there and len(there) == len(values) else None


def some(examples: list[Example], count: int | None, seed: int) -> list[Example]:
    if count is None or count >= len(examples):
        return examples
    return [examples[at] for at in np.random.default_rng(seed).permutation(len(examples))[:count]]


def option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def table(found: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    width = {name: max(len(name), 6) for name in columns}
    print("  ".join(f"{name:>{width[name]}}" for name in columns))
    for row in found:
        cells = ("–" if row.get(name) is None else str(row[name]) for name in columns)
        print("  ".join(f"{cell:>{width[name]}}" for name, cell in zip(columns, cells, strict=True)))


def machine() -> dict[str, Any]:
    return {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}


if __name__ == "__main__":
    main()
