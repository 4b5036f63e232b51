"""Finds learners, strategies, annotators and formats by name.

Built-in plug-ins are the plain modules of their room (supporting code lies in sub-packages); those of third parties
join by entry point. Listing imports none of them.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from alpipe.errors import ConfigError, PluginError
from alpipe.types import Task


class Kind(StrEnum):
    """A kind of plug-in; its value is the end of the entry point group ``alpipe.VALUE``."""

    LEARNER = "learners"
    STRATEGY = "strategies"
    ANNOTATOR = "annotators"
    FORMAT = "formats"

    @property
    def noun(self) -> str:
        return {"strategies": "strategy"}.get(self.value, self.value.removesuffix("s"))


ROOMS = {
    Kind.LEARNER: "alpipe.learners",
    Kind.STRATEGY: "alpipe.acquisition",
    Kind.ANNOTATOR: "alpipe.annotators",
    Kind.FORMAT: "alpipe.formats",
}


class Plugin(NamedTuple):
    """A plug-in that was found, not yet imported. ``origin`` is ``built in`` or the package it comes from."""

    kind: Kind
    name: str
    module: str
    origin: str


@cache
def available(kind: Kind) -> dict[str, Plugin]:
    """All plug-ins of a kind by name; a built-in one is not replaced by an entry point of the same name."""
    found = {}
    for point in entry_points(group=f"alpipe.{kind.value}"):
        origin = point.dist.name if point.dist else "entry point"
        found[point.name] = Plugin(kind, point.name, point.value, origin)
    room = importlib.import_module(ROOMS[kind])
    for module in pkgutil.iter_modules(room.__path__):
        if not module.ispkg and not module.name.startswith("_"):
            found[module.name] = Plugin(kind, module.name, f"{room.__name__}.{module.name}", "built in")
    return dict(sorted(found.items()))


def load(kind: Kind, name: str, task: Task | None = None) -> Any:
    """The plug-in's module. Raises PluginError for an unknown name (with the nearest known ones), a module that
    cannot be imported, or one that does not fit the task.
    """
    known = available(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        raise PluginError(f"unknown {kind.noun} {name!r}; {hint}")
    target, _, attribute = known[name].module.partition(":")
    try:
        module: ModuleType = importlib.import_module(target)
        plugin: Any = getattr(module, attribute) if attribute else module
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{kind.noun} {name!r} ({known[name].origin}) cannot be loaded: {error}") from error
    if task is not None and task not in plugin.TASKS:
        fit = [other for other in known if other != name and task in getattr(_quietly(kind, other), "TASKS", ())]
        raise PluginError(
            f"{kind.noun} {name!r} is for {', '.join(sorted(plugin.TASKS))}, not for {task}; use {' or '.join(fit)}"
        )
    return plugin


def nowhere(name: str) -> NoReturn:
    """Raises PluginError for a name that no plug-in of any kind has, with the nearest known ones."""
    known = [known for kind in Kind for known in available(kind)]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`alpipe plugins` lists them"
    raise PluginError(f"unknown plug-in {name!r}; {hint}")


def options(kind: Kind, name: str, plugin: Any, values: dict[str, Any]) -> Any:
    """The plug-in's options from the configuration. Raises ConfigError that names every fault in one line."""
    try:
        return plugin.Options(**values)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{kind.noun} {name!r}: {explain(error, set(plugin.Options.model_fields))}") from error


def explain(error: Exception, known: set[str]) -> str:
    """All faults of a validation in one line, with the nearest known name for an unknown one."""
    if not isinstance(error, ValidationError):
        return str(error)
    faults = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
            faults.append(f"unknown option {where!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        else:
            given = f" (given: {fault['input']!r})" if fault["type"] != "missing" else ""
            faults.append(f"{where}: {fault['msg']}{given}" if where else f"{fault['msg']}")
    return "; ".join(faults)


def _quietly(kind: Kind, name: str) -> Any:
    try:
        return load(kind, name)
    except PluginError:
        return None
