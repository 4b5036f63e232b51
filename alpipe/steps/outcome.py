"""How a step ends: done, with facts for the ledger, or waiting for somebody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Done:
    """The step did what could be done; ``message`` says it in a few words, ``facts`` go into the round's ledger."""

    message: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The step can do nothing until somebody acts: ``reason`` says who and what."""

    reason: str


Outcome: TypeAlias = Done | Waiting
