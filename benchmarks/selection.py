"""How long it takes to choose 1,000 of 1,000,000 images, and how much memory.

    python -m benchmarks.selection
    python -m benchmarks.selection --images 100000 --only herding kmedoids

Scores and embeddings are made up (a mixture of 2,000 normal clouds; a tenth of the hashes are copies of others with up
to four bits flipped). What is measured is the choice alone, from scores and embeddings in memory, each way in a process
of its own: seconds on the wall and of the processor, and the largest memory of the process, data included. Prints a
table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from typing import NamedTuple

import numpy as np

from alpipe import plugins
from alpipe.acquisition.batch.duplicates import distinct
from alpipe.acquisition.batch.options import BatchOptions
from alpipe.acquisition.batch.selection import Copies, choose_batch
from alpipe.plugins import Kind
from alpipe.protocols import Candidates, Labelled
from alpipe.types import Item

GOAL_SECONDS, GOAL_GB = 120, 4
LABELLED = 2000
RADIUS = 4

WAYS = {
    "top": ("entropy", {}),
    "noise": ("entropy", {"noise": {}}),
    "stochastic": ("entropy", {"partner": "stochastic"}),
    "herding": ("entropy", {"partner": "herding"}),
    "kmedoids": ("entropy", {"partner": "kmedoids"}),
    "coreset": ("coreset", {}),
    "typiclust": ("typiclust", {}),
    "badge": ("badge", {}),
    "near-duplicates": None,
    "all together": ("entropy", {"partner": "herding", "near_duplicates": RADIUS, "noise": {}, "spread": {}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=sorted(WAYS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="10,000 images, to see that it works")
    given = parser.parse_args()
    images = 10_000 if given.quick else given.images
    found = {}
    print(f"{given.batch} of {images} images, {given.dimensions} dimensions")
    print(f"{'way':16} {'seconds':>8} {'CPU s':>8} {'peak GB':>8}")
    for way in given.only or WAYS:
        # a process of its own: its peak is that of this way alone
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[way] = pool.apply(measured, (way, images, given.batch, given.dimensions))
        one = found[way]
        print(f"{way:16} {one['seconds']:8.1f} {one['cpu_seconds']:8.1f} {one['peak_gb']:8.2f}", flush=True)
    result = {
        "name": f"selection {given.batch} of {images}",
        "value": max(one["seconds"] for one in found.values()),
        "goal": GOAL_SECONDS,
        "metric": "seconds of the slowest way",
        "cpu_seconds": max(one["cpu_seconds"] for one in found.values()),
        "peak_gb": max(one["peak_gb"] for one in found.values()),
        "peak_gb_goal": GOAL_GB,
        "ways": found,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads",
    }
    print(json.dumps(result))


def measured(way: str, images: int, batch: int, dimensions: int) -> dict[str, float]:
    """Seconds of the choice, and the largest memory of the process, data and all."""
    rng = np.random.default_rng(0)
    hashes = make_hashes(rng, images)
    if WAYS[way] is None:
        started = Clock.now()
        stays = distinct(hashes, rng.permutation(images), RADIUS, hashes[:LABELLED])
        return {**outcome(started), "stay": int(stays.sum())}
    name, options = WAYS[way]
    plugin = plugins.load(Kind.STRATEGY, name)
    settings = BatchOptions(**{"spread": False, **options})
    partner = plugins.load(Kind.PARTNER, settings.partner["name"])
    candidates = make_candidates(rng, images, dimensions, features=name == "badge")
    started = Clock.now()
    chosen = choose_batch(
        plugin.build(plugin.Options()),
        partner.build(partner.Options()),
        candidates,
        batch,
        rng,
        options=settings,
        copies=Copies(hashes, hashes[:LABELLED]),
    )
    assert len(set(chosen.keys)) == batch
    return outcome(started)


class Clock(NamedTuple):
    """Seconds on the wall, and of the processor in all threads."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())


def outcome(started: Clock) -> dict[str, float]:
    now = Clock.now()
    return {
        "seconds": round(now.wall - started.wall, 1),
        "cpu_seconds": round(now.cpu - started.cpu, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def make_candidates(rng: np.random.Generator, images: int, dimensions: int, features: bool) -> Candidates:
    """Images of 500 videos, and labelled ones."""
    clouds = rng.normal(size=(2000, dimensions)).astype(np.float32) * 2

    def points(count: int) -> np.ndarray:
        made = rng.standard_normal((count, dimensions), dtype=np.float32)
        made += clouds[rng.integers(len(clouds), size=count)]
        return made

    items = [
        Item(f"{n:020d}", f"/pool/{n % 500}/frame{n // 500:06d}.jpg", 640, 480, str(n % 500)) for n in range(images)
    ]
    said = rng.dirichlet(np.ones(10), images).astype(np.float32) if features else None
    return Candidates(items, rng.beta(1, 5, images), said, points(images), Labelled(embeddings=points(LABELLED)))


def make_hashes(rng: np.random.Generator, images: int) -> np.ndarray:
    """Hashes of which a tenth differ from another in up to four bits."""
    hashes = rng.integers(0, 2**64, images, dtype=np.uint64)
    copies = rng.permutation(images)[: images // 10]
    hashes[copies] = hashes[rng.integers(images, size=len(copies))]
    for _ in range(4):
        hashes[copies] ^= np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64)
    return hashes


if __name__ == "__main__":
    main()
