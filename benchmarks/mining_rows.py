"""What was measured, one JSON object a line, and the banks from which a stopped run goes on; part of
``benchmarks.mining``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpipe.pool.bank import key_of
from alpipe.types import BankEntry, Negative, NegativeState


def known(given: argparse.Namespace, arm: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured of this arm before, with the ``entries`` of its bank where it has one."""
    if given.quick or not given.results.exists():
        return None
    same = [row for row in lines(given.results) if arm.items() <= row.items()]
    if not same or arm["what"] != "rounds":
        return same[-1] if same else None
    banks = [row for row in lines(banks_of(given.results)) if arm.items() <= row.items()]
    return same[-1] | {"entries": banks[-1]["entries"]} if banks else None


def keep(given: argparse.Namespace, row: dict[str, Any], bank: list[list[Any]] | None = None) -> None:
    """Adds the row to the results. The bank, which is large, and from which a stopped run goes on, lies beside them."""
    if given.quick:
        return
    given.results.parent.mkdir(parents=True, exist_ok=True)
    if bank is not None:
        with banks_of(given.results).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row | {"entries": bank}) + "\n")
    with given.results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def banks_of(results: Path) -> Path:
    return results.with_suffix(".banks.jsonl")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line] if path.exists() else []


def plain(bank: Sequence[BankEntry]) -> list[list[Any]]:
    return [
        [
            e.round,
            e.negative.item_key,
            [round(s, 2) for s in e.negative.box],
            e.negative.name,
            round(e.negative.score, 4),
            round(e.negative.iou, 4),
        ]
        for e in bank
    ]


def entries(rows: Sequence[Sequence[Any]]) -> list[BankEntry]:
    made = [(number, Negative(key, tuple(box), name, score, iou)) for number, key, box, name, score, iou in rows]
    return [
        BankEntry(key_of(number, one), one, number, "", NegativeState.HARD, one.score, number) for number, one in made
    ]
