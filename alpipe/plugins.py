"""Finds learners, strategies, batch partners, annotators and formats by name.

Built-in plug-ins are the plain modules of their room (supporting code lies in sub-packages); those of third parties
join by entry point. Listing imports none of them.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import re
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from alpipe.errors import ConfigError, PluginError
from alpipe.types import Task

_TRIED = re.compile(r"^(constrained-|literal\[|int$|float$|bool$|str$|function-)")


class Kind(StrEnum):
    """A kind of plug-in; its value is the end of the entry point group ``alpipe.VALUE``."""

    LEARNER = "learners"
    STRATEGY = "strategies"
    PARTNER = "partners"
    ANNOTATOR = "annotators"
    FORMAT = "formats"

    @property
    def noun(self) -> str:
        return {"strategies": "strategy"}.get(self.value, self.value.removesuffix("s"))


ROOMS = {
    Kind.LEARNER: "alpipe.learners",
    Kind.STRATEGY: "alpipe.acquisition",
    Kind.PARTNER: "alpipe.acquisition.partners",
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


def find(kind: Kind, name: str) -> Any:
    """The plug-in's module, whether or not the packages that it needs are installed. Raises PluginError for an unknown
    name (with the nearest known ones) and for a module that cannot be imported.
    """
    known = available(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        raise PluginError(f"unknown {kind.noun} {name!r}; {hint}")
    target, _, attribute = known[name].module.partition(":")
    try:
        module: ModuleType = importlib.import_module(target)
        return getattr(module, attribute) if attribute else module
    except Exception as error:  # modules of others, and the packages that they import, raise whatever comes
        raise PluginError(f"{kind.noun} {name!r} ({known[name].origin}) cannot be loaded: {error}") from error


def missing(plugin: Any) -> dict[str, str]:
    """What the plug-in's REQUIRES names and is not installed: the package as it is imported, and what to pip install.
    Nothing is imported.
    """
    requires: dict[str, str] = getattr(plugin, "REQUIRES", {})
    return {package: install for package, install in requires.items() if importlib.util.find_spec(package) is None}


def load(kind: Kind, name: str, task: Task | None = None) -> Any:
    """The plug-in's module, ready for use. Raises PluginError as ``find`` does, where a package that it needs is not
    installed, and where it does not fit the task.
    """
    plugin = find(kind, name)
    if task is not None and task not in plugin.TASKS:
        others = [other for other in available(kind) if other != name]
        fit = [other for other in others if task in getattr(_quietly(kind, other), "TASKS", ())]
        raise PluginError(
            f"{kind.noun} {name!r} is for {', '.join(sorted(plugin.TASKS))}, not for {task};"
            f" {'use ' + ' or '.join(fit) if fit else 'there is none for it'}"
        )
    if absent := missing(plugin):
        raise PluginError(f"{kind.noun} {name!r} {advice(absent)}")
    return plugin


def advice(absent: dict[str, str]) -> str:
    """What is said of a plug-in that lacks packages."""
    installs = " ".join(f'"{install}"' for install in dict.fromkeys(absent.values()))
    return f"needs {' and '.join(absent)}, which is not installed: pip install {installs}"


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
    faults: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for fault in error.errors():
        # where one of several types is wanted, pydantic names the type it tried behind the option
        where = ".".join(str(part) for part in fault["loc"] if not _TRIED.search(str(part)))
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
            found = f"unknown option {where!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
            faults.setdefault("", []).append(found)
            continue
        message = fault["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
        faults.setdefault(where, []).append(message)
        if where and fault["type"] != "missing":
            given[where] = f" (given: {fault['input']!r})"
    lines = faults.pop("", [])
    return "; ".join([*lines, *(f"{name}: {' or '.join(said)}{given.get(name, '')}" for name, said in faults.items())])


def _quietly(kind: Kind, name: str) -> Any:
    try:
        return load(kind, name)
    except PluginError:
        return None
