"""The U-Net++: speed and Dice beside MONAI's, and what it reaches on the nuclei set.

    python -m benchmarks.unetpp speed
    python -m benchmarks.unetpp dice --data PATH/TO/nuclei --seeds 3
    python -m benchmarks.unetpp nuclei --data PATH/TO/nuclei

``speed`` and ``dice`` need MONAI (``pip install "alpipe[bench]"``). Each prints a table, and as its last line one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alpipe import images
from alpipe.evaluation.metrics import evaluate
from alpipe.formats import masks
from alpipe.learners import unetpp
from alpipe.learners.nets.blocks import Conv
from alpipe.learners.nets.cost import cost
from alpipe.learners.nets.fold import folded
from alpipe.learners.nets.nested import NestedUNet
from alpipe.learners.segmentation.objective import segmentation_loss, target_of
from alpipe.learners.training import trainer
from alpipe.learners.training.device import Compute, resolve
from alpipe.learners.training.inference import stream
from alpipe.learners.training.learner import Setting
from alpipe.protocols import LabelledFile, LearnerContext, ReadRequest, no_progress
from alpipe.steps.models import split_validation
from alpipe.types import KEY_LENGTH, Example, Item, MapPrediction, Progress, Task

FEATURES = (16, 32, 64, 128, 256)
SIDE, BATCH = 128, 8
CLASSES = ("nucleus",)
CHANNELS_LAST = torch.channels_last
MACHINE = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    speed_ = commands.add_parser("speed", help="images/s of scoring and training beside MONAI's, depths, convolutions")
    speed_.add_argument("--rounds", type=int, default=9, help="how often each is timed, in turn")
    dice_ = commands.add_parser("dice", help="test Dice beside MONAI's: same data, epochs, loss, optimiser")
    dice_.add_argument("--seeds", type=int, default=3)
    dice_.add_argument("--images", type=int, default=120, help="training images")
    dice_.add_argument("--epochs", type=int, default=6)
    nuclei_ = commands.add_parser("nuclei", help="all training images; Dice by style and depth")
    nuclei_.add_argument("--options", type=json.loads, default={}, help="options of the learner, as JSON")
    nuclei_.add_argument("--seed", type=int, default=0)
    for command in (dice_, nuclei_):
        command.add_argument("--data", type=Path, required=True, help="folder of the nuclei set")
    given = parser.parse_args()
    match given.command:
        case "speed":
            result = speed(given.rounds)
        case "dice":
            result = dice(given.data, given.seeds, given.images, given.epochs)
        case _:
            result = nuclei(given.data, given.options, given.seed)
    print(json.dumps(result | {"machine": MACHINE}))


def monai() -> nn.Module:
    """MONAI's U-Net++ of the same features, as it comes."""
    try:
        from monai.networks.nets import BasicUNetPlusPlus
    except ImportError:
        sys.exit('MONAI is not installed; pip install "alpipe[bench]"')
    net: nn.Module = BasicUNetPlusPlus(2, 3, 2, features=(*FEATURES, 16), deep_supervision=True)
    return net


# ── speed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def speed(rounds: int) -> dict[str, Any]:
    """Everything is timed in turn, round by round, so that what else the machine does meets all alike."""
    theirs, ours = monai(), NestedUNet(2, FEATURES).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    separable = NestedUNet(2, FEATURES, Conv("separable"))
    for name, net in (("MONAI", theirs), ("standard", ours), ("separable", separable)):
        made = cost(net, SIDE, SIDE)
        print(f"{name:10} {made.parameters:9,} weights {made.multiply_adds / 1e6:7.0f} M multiply-adds")
    standard, thin = folded(ours), folded(separable).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    pixels = torch.randn(BATCH, 3, SIDE, SIDE)
    last = pixels.contiguous(memory_format=CHANNELS_LAST)
    scoring = {
        "MONAI": lambda: theirs.eval()(pixels),
        "depth 4": lambda: _head(standard, last, 4),
        "depth 3": lambda: _head(standard, last, 3),
        "depth 2": lambda: _head(standard, last, 2),
        "depth 1": lambda: _head(standard, last, 1),
        "all heads": lambda: standard(last),
        "separable": lambda: _head(thin, last, 4),
    }
    training = {"MONAI": _steps(theirs, pixels), "standard": _steps(ours, last)}
    with torch.inference_mode():
        scored = _in_turn(scoring, rounds)
    trained = _in_turn(training, rounds)
    rows = [("scoring", name, seconds) for name, seconds in scored.items()]
    rows += [("training", name, seconds) for name, seconds in trained.items()]
    for what, name, seconds in rows:
        print(f"{what:9} {name:10} {BATCH / statistics.median(seconds):7.1f} images/s")
    found = {
        "scoring against MONAI": (_ratio(scored["MONAI"], scored["depth 4"]), 3.5),
        "training against MONAI": (_ratio(trained["MONAI"], trained["standard"]), 1.5),
        "depth 2 against depth 4": (_ratio(scored["depth 4"], scored["depth 2"]), 3.0),
        "separable against standard": (_ratio(scored["depth 4"], scored["separable"]), 1.4),
    }
    for name, (value, goal) in found.items():
        print(f"{name:27} {value:5.2f}× (goal {goal}×)")
    return {
        "name": "unetpp speed",
        "value": {name: value for name, (value, _) in found.items()},
        "goal": {name: goal for name, (_, goal) in found.items()},
        "images_a_second": {f"{what} {name}": round(BATCH / statistics.median(s), 1) for what, name, s in rows},
    }


def _head(net: NestedUNet, pixels: torch.Tensor, depth: int) -> Any:
    return net.heads[depth - 1](net.columns(pixels, depth)[-1])


def _steps(net: nn.Module, pixels: torch.Tensor) -> Callable[[], object]:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    target = target_of(torch.randint(0, 2, (BATCH, SIDE, SIDE)), torch.ones(BATCH, SIDE, SIDE), 2)

    def step() -> None:
        net.train()
        loss = torch.stack([segmentation_loss(logits, target) for logits in net(pixels)]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def _in_turn(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if round_:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _ratio(slow: list[float], quick: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(slow, quick, strict=True)), 2)


# ── Dice beside MONAI's ─────────────────────────────────────────────────────────────────────────────────────────────


def dice(data: Path, seeds: int, count: int, epochs: int) -> dict[str, Any]:
    """Same images at 128 pixels a side, same batches, loss, optimiser and steps; the deepest head is measured."""
    styles = by_style(read(data))
    found: dict[str, list[float]] = {"MONAI": [], "ours": []}
    for seed in range(seeds):
        train, test = _split(styles, seed)
        order = np.random.default_rng(seed).permutation(len(train))[:count]
        some = [train[index] for index in order]
        for name in found:
            started = time.perf_counter()
            found[name].append(_trained_dice(name, some, test, epochs, seed))
            print(f"seed {seed} {name:6} Dice {found[name][-1]:.4f} {time.perf_counter() - started:5.0f} s", flush=True)
    differences = [a - b for a, b in zip(found["ours"], found["MONAI"], strict=True)]
    return {
        "name": "unetpp dice against MONAI",
        "value": round(statistics.mean(differences), 4),
        "goal": 0.0,
        "dice": {name: [round(value, 4) for value in values] for name, values in found.items()},
        "images": count,
        "epochs": epochs,
    }


def _trained_dice(name: str, train: list[Example], test: list[Example], epochs: int, seed: int) -> float:
    context = LearnerContext(Task.SEGMENT, CLASSES, "cpu", "fp32")
    compute = resolve(context)
    options = unetpp.Options(image_size=SIDE, features=FEATURES, flip="both", patience=0)
    setting = Setting(options, CLASSES, SIDE)
    steps = epochs * len(train) // BATCH
    fitted = trainer.train(
        monai if name == "MONAI" else lambda: unetpp.DESIGN.network(setting),
        unetpp.DESIGN.objective(setting, train, [], [], BATCH, compute.device),
        trainer.recipe(options, steps, BATCH),
        compute,
        seed=seed,
        identity="",
        progress=no_progress,
        resume_from=None,
    )
    predictions = _predict(fitted.net, [example.item for example in test], compute)
    return evaluate(Task.SEGMENT, predictions, {example.item.key: example for example in test}, CLASSES).value


def _predict(net: nn.Module, items: Sequence[Item], compute: Compute) -> Iterable[MapPrediction]:
    def run(pixels: torch.Tensor, batch: Sequence[Any]) -> list[MapPrediction]:
        probs = torch.softmax(net(pixels)[-1].float(), dim=1).numpy()
        sizes = [frame.pixels.shape[:2] for _, frame in batch]
        return [
            MapPrediction(item.key, one[:, :height, :width].copy(), frame.size)
            for (item, frame), one, (height, width) in zip(batch, probs, sizes, strict=True)
        ]

    return stream(items, SIDE, 16, compute, run)


# ── the nuclei set ──────────────────────────────────────────────────────────────────────────────────────────────────


def nuclei(data: Path, values: dict[str, Any], seed: int) -> dict[str, Any]:
    """A fifth of each style is the test; 15 % of the rest choose weights and depth."""
    styles = by_style(read(data))
    kept, test = _split(styles, seed)
    train, validation = split_validation(kept, 0.15, seed)
    options = unetpp.Options(**({"flip": "both", "depth": "auto"} | values))
    learner = unetpp.build(options, LearnerContext(Task.SEGMENT, CLASSES))
    started = time.perf_counter()
    model = learner.fit(train, validation, [], seed=seed, progress=_show)
    fit_seconds = time.perf_counter() - started
    facts, deepest = model.setting.facts, len(options.features) - 1

    heads = dict(
        zip([one.item.key for one in test], model.each([one.item for one in test], unetpp.every_head), strict=True)
    )
    groups = {"all": test, **{style: [one for one in test if one in some] for style, some in styles.items()}}
    table: dict[str, list[float]] = {}
    for group, examples in groups.items():
        truths = {example.item.key: example for example in examples}
        table[group] = [
            evaluate(Task.SEGMENT, [heads[key].members[depth] for key in truths], truths, CLASSES).value
            for depth in range(deepest)
        ]
        cells = " ".join(f"{value:.4f}" for value in table[group])
        print(f"{group:8} {len(examples):4} images, Dice by depth {cells}")
    quick, slow = (model.knowing(depth=depth) for depth in (facts["depth"], deepest))
    items = [example.item for example in test[::4]]
    timed = _in_turn({"quick": lambda: list(quick.predict(items)), "slow": lambda: list(slow.predict(items))}, 3)
    speedup = _ratio(timed["slow"], timed["quick"])
    chosen, full = table["all"][facts["depth"] - 1], table["all"][-1]
    print(
        f"depth auto chose {facts['depth']} of {deepest}: {speedup}× as fast, Dice {chosen:.4f} instead of {full:.4f}"
    )
    return {
        "name": f"unetpp nuclei seed {seed}",
        "value": round(full, 4),
        "goal": 0.9,
        "dice_by_depth": {group: [round(value, 4) for value in row] for group, row in table.items()},
        "images": {group: len(examples) for group, examples in groups.items()},
        "trained_on": len(train),
        "validated_on": len(validation),
        "depth": {"chosen": facts["depth"], "speedup": speedup, "loss": round(full - chosen, 4)},
        "images_a_second": {name: round(len(items) / statistics.median(s), 1) for name, s in timed.items()},
        "steps": facts["steps"],
        "fit_seconds": round(fit_seconds),
        "options": values,
    }


def _show(progress: Progress) -> None:
    if progress.done % 100 < 2:
        print(f"{progress.done}/{progress.total} {progress.detail}", file=sys.stderr, flush=True)


def read(data: Path) -> list[Example]:
    """The set's images with their masks. What is refused is said."""
    examples = []
    for found in masks.read(data, ReadRequest(Task.SEGMENT, CLASSES)):
        if not isinstance(found, LabelledFile) or found.labels is None:
            print(f"left out: {found}", file=sys.stderr)
            continue
        facts = images.inspect(found.image)
        key = blake2b(found.image.read_bytes(), digest_size=KEY_LENGTH // 2).hexdigest()
        examples.append(Example(Item(key, str(found.image), facts.width, facts.height), found.labels))
    return examples


def by_style(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The three kinds of microscopy, told apart by the pixels: colour, dark (fluorescence), and light grey."""
    styles: dict[str, list[Example]] = {"dark": [], "colour": [], "light": []}
    for example in examples:
        pixels = images.read(example.item.path)[::4, ::4].astype(np.float32)
        tint = float((pixels.max(axis=2) - pixels.min(axis=2)).mean())
        styles["colour" if tint > 8 else "dark" if pixels.mean() < 100 else "light"].append(example)
    return styles


def _split(styles: dict[str, list[Example]], seed: int) -> tuple[list[Example], list[Example]]:
    """Four fifths and one fifth of each style, by a hash of the key and the seed."""
    train, test = [], []
    for some in styles.values():
        ranked = sorted(some, key=lambda one: blake2b(f"{seed} {one.item.key}".encode()).digest())
        fifth = round(len(ranked) / 5)
        test += ranked[:fifth]
        train += ranked[fifth:]
    return train, test


if __name__ == "__main__":
    main()
