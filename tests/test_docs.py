"""What the documentation tells people to type is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from alpipe import config as configuration
from alpipe import rle
from alpipe.bench import plan
from alpipe.protocols import LearnerContext
from alpipe.types import ClassPrediction, Example, Item, Masks, Task
from tests.conftest import Ran

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

COMMAND = re.compile(
    r"alpipe (?:-C \S+ )?([a-z-]+)"
    r"(?: (ls|show|top|stats|gallery|hard-negatives|questions|up|status|down)\b)?([^`#\n|]*)"
)


def commands() -> list[tuple[str, ...]]:
    """Every command that stands in a code block or in backquotes, with its long options."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`(alpipe [^`]+)`", text))
        for command, sub, rest in COMMAND.findall(code):
            found.add((command, sub, *sorted(re.findall(r"--[a-z-]+", rest))))
    return sorted(found)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_each_documented_command_and_option_is_there(alpipe: Callable[..., Ran], command: tuple[str, ...]) -> None:
    name, sub, *options = command
    ran = alpipe(*filter(None, (name, sub)), "--help")
    assert ran.status == 0
    assert all(option in ran.out for option in options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert all((page.parent / link).exists() for link in links), links


def plugin_of_the_guide(number: int) -> dict[str, Any]:
    codes = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), re.DOTALL)
    module: dict[str, Any] = {"__name__": "plugins.md"}
    exec(compile(codes[number], "plugins.md", "exec"), module)  # noqa: S102  # our own page
    return module


def test_the_file_of_arms_in_the_bench_guide_is_one() -> None:
    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    (values,) = (yaml.safe_load(code) for code in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    wanted = plan.parse(values, "bench.md")
    base = configuration.parse({"name": "cells", "task": "detect", "labels": ["a"], "annotator": "oracle"}, "test")
    assert {arm.name for arm in plan.arms_of(wanted, base)} > set(values["arms"])


def test_the_strategy_in_the_plug_in_guide_runs() -> None:
    module = plugin_of_the_guide(0)
    strategy = module["build"](module["Options"]())
    sure, unsure = (strategy.score(ClassPrediction("key", np.array([p, 1 - p], np.float32))) for p in (0.99, 0.5))
    assert sure < unsure


def test_the_learner_in_the_plug_in_guide_learns(tmp_path: Path) -> None:
    module = plugin_of_the_guide(1)
    item = grey_item(tmp_path)
    context = LearnerContext(Task.SEGMENT, ("dark",), "cpu", "fp32")
    learner = module["build"](module["Options"](steps=2, batch_size=2, width=4), context)
    inside = np.zeros((item.height, item.width), bool)
    inside[4:20, 8:24] = True
    learner.fit([Example(item, Masks({"dark": rle.encode(inside)}))], [], [], seed=0).save(tmp_path / "model")
    (prediction,) = module["load"](tmp_path / "model", context).predict([item])
    assert prediction.probs.shape == (2, item.height, item.width)


def grey_item(folder: Path) -> Item:
    Image.fromarray(np.full((40, 56, 3), 90, np.uint8)).save(folder / "grey.png")
    return Item("grey", str(folder / "grey.png"), 56, 40)
