"""What dropout samples of the last layer cost: a scan with 20 of them against a prediction without.

    python -m benchmarks.dropout
    python -m benchmarks.dropout --learner cnn --samples 50

The learners' networks with fresh weights on noise: the cost does not depend on what they have learnt. The two are timed
in turns in one run. Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from alpipe import plugins
from alpipe.learners.nets.fold import folded
from alpipe.learners.training.data import Frame, round_up, to_input
from alpipe.learners.training.device import resolve
from alpipe.learners.training.inference import PIXELS_A_BATCH
from alpipe.learners.training.learner import Setting
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext
from alpipe.types import Item, Task

GOAL = 1.3
LEARNERS = {"cnn": 64, "unetpp": 256, "detector": 320}
"""Those that sample, and the size of the images that they are measured on, in pixels a side."""

FACTS = {"depth": 4, "scan_depth": 4}
"""What a U-Net++ chooses after its training: here the same depth with and without samples."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learner", action="append", choices=sorted(LEARNERS), help="default: all")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="two turns, to see that it works")
    given = parser.parse_args()
    turns = 2 if given.quick else given.turns
    ratios = {name: measure(name, given.samples, turns, given.device) for name in given.learner or LEARNERS}
    device = resolve(LearnerContext(Task.CLASSIFY, ("a",), given.device)).device.type
    result = {
        "name": f"dropout {given.samples} samples of the last layer",
        "value": max(ratios.values()),
        "goal": GOAL,
        "metric": "time of a scan with samples / without, the worst learner",
        "by_learner": ratios,
        "turns": turns,
        "versions": {"torch": torch.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
    }
    print(json.dumps(result))


def measure(name: str, samples: int, turns: int, device: str) -> float:
    """Median over the turns of the ratio of times; prints a row."""
    module = plugins.load(Kind.LEARNER, name)
    compute = resolve(LearnerContext(next(iter(module.TASKS)), ("a", "b", "c"), device))
    setting = Setting(module.Options(samples=samples), ("a", "b", "c"), LEARNERS[name], FACTS)
    side = round_up(LEARNERS[name], module.DESIGN.multiple(setting))
    net = folded(module.DESIGN.network(setting)).to(compute.device, memory_format=torch.channels_last)
    count = max(1, PIXELS_A_BATCH[compute.device.type] // side**2)
    pixels = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)
    batch = [(Item(str(i), f"{i}.png", side, side), Frame(pixels[i], (1.0, 1.0), (side, side))) for i in range(count)]

    def timed(run: Callable[..., object]) -> Callable[[], object]:
        def call() -> object:
            with torch.inference_mode(), compute.autocast():
                return run(net, to_input(pixels, compute.device), batch, setting)

        return call

    sampled, plain = timed(module.DESIGN.scan), timed(module.DESIGN.predict)
    seconds(sampled), seconds(plain)  # the first calls choose kernels
    pairs = [(seconds(sampled), seconds(plain)) for _ in range(turns)]
    ratio = round(median(a / b for a, b in pairs), 3)
    a, b = (median(part) * 1000 / count for part in zip(*pairs, strict=True))
    print(f"{name:10} {a:8.2f} ms an image with {samples} samples, {b:8.2f} ms without: ×{ratio}", flush=True)
    return ratio


def seconds(call: Callable[[], object]) -> float:
    """How long the call takes; predictions lie in the computer's memory when it ends."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
