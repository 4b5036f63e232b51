"""Packages that some learners need: the real ones where they are installed, else stand-ins of the same interface."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alpipe import plugins
from alpipe.plugins import Kind

STANDINS = Path(__file__).parent / "standins"


def absent(learner: str) -> dict[str, str]:
    """The packages that a learner needs and that are not installed."""
    return plugins.missing(plugins.find(Kind.LEARNER, learner))


@contextmanager
def provided(*learners: str) -> Iterator[None]:
    """Stand-ins for what the learners lack can be imported within the block."""
    lacking = {package for learner in learners for package in absent(learner)}
    if not lacking:
        yield
        return
    sys.path.append(str(STANDINS))  # last: what is installed comes first
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(STANDINS))
        for name in [name for name in sys.modules if name.partition(".")[0] in lacking]:
            del sys.modules[name]
