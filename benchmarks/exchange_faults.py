"""Kills and faults at random points of push and pull: is anything there twice, is anything lost?

    python -m benchmarks.exchange_faults             200 points, 500 items
    python -m benchmarks.exchange_faults --quick     20 points, 60 items
    python -m benchmarks.exchange_faults --minutes 30 --seed 1     as many points as there is time for

A real Label Studio behind a proxy that cuts, delays, repeats and answers 500; real processes that are killed by SIGKILL
at random moments; and pushes by two processes with stores of their own at once. Each scenario is a project of its own:
push (5 points), people answer, pull (2), push of a newer model for what is open (2), people edit and delete answers and
tasks, pull (1). After the points of each step it is done once more without a fault; at the end what the server holds is
compared with what was sent and with what the store holds. Prints a row a scenario, and as its last line one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

from alpipe.annotators.studio import server
from benchmarks.exchange_scenarios import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="20 points, 60 items")
    parser.add_argument("--minutes", type=float, help="end after the scenario in which so many have passed")
    given = parser.parse_args()
    points, items = (20, 60) if given.quick else (given.points, given.items)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "labelstudio"
        running = server.up(home, timeout=400)
        try:
            ends = None if given.minutes is None else time.monotonic() + 60 * given.minutes
            tally = run(running, Path(temporary), points=points, items=items, seed=given.seed, ends=ends)
        finally:
            server.down(home)
    result = {
        "name": f"exchange: {tally.points} kill and fault points, {items} items",
        "value": tally.faults(),
        "goal": 0,
        "metric": "tasks, predictions or answers that were there twice, lost or different; ends without a clear line",
        "twice": tally.twice,
        "lost": tally.lost,
        "differing": tally.differing,
        "crashes": tally.crashes,
        "happened": dict(sorted(tally.happened.items())),
        "seconds": round(time.monotonic() - started),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
