"""What is to be compared: seeds, budgets, and arms, each of which is a project that differs in a few settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alpipe import config as configuration
from alpipe.config import Config
from alpipe.effort import TimeModel
from alpipe.errors import ConfigError
from alpipe.plugins import Kind, available, explain, load
from alpipe.project import check_plugins

Settings: TypeAlias = dict[str, Any]

RANDOM = ("random", "balanced_random")
"""The strategies that every other has to beat; those that are there are added as arms."""

FULL = "all labels"

FIXED = (
    *("name", "task", "labels", "seed", "batch", "wait_for", "holdout", "annotator", "store"),
    *("control", "blind", "budget", "review", "agreement"),
)
"""Settings that the bench makes itself, the same for every arm."""

PLAIN: Settings = {"batch_with": {"spread": False}}
"""How a random arm makes its batch: by chance alone, whatever other arms do."""

TRAINING = ("learner", "pretrain", "autoencoder", "validation_share", "mining", "device", "precision")
"""Settings that the first model of a seed depends on: arms that agree in them share it, and are compared."""


class Plan(BaseModel):
    """A comparison, as in a file of arms.

    ``settings`` are settings of alpipe.yaml for all arms; each of ``arms`` is a name with the settings in which it
    differs. ``random`` adds the random arms, ``full`` the model of all labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int = Field(5, ge=1, le=1000)
    start: int = Field(12, ge=1)
    batch: int = Field(12, ge=1)
    rounds: int = Field(6, ge=1)
    random: bool = True
    full: bool = True
    seconds: TimeModel = TimeModel()
    settings: Settings = Field(default_factory=dict)
    arms: dict[str, Settings] = Field(default_factory=dict)

    @property
    def budget(self) -> int:
        """Images labelled at the end of an arm."""
        return self.start + self.batch * self.rounds


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: ``values`` are its settings in alpipe.yaml but for the seed; ``learner`` names how it trains."""

    name: str
    role: str
    learner: str
    values: Settings

    def config(self, seed: int) -> Config:
        """The configuration of the arm's project with this seed."""
        return configuration.parse(self.values | {"seed": seed}, f"arm {self.name!r}")

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return slug(self.name)


def read(path: Path) -> Settings:
    """A file of arms as plain values. Raises ConfigError where it is missing or not YAML."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'name: value' lines, found {type(values).__name__}")
    return values


def parse(values: Mapping[str, Any], source: str) -> Plan:
    """The plan from plain values. Raises ConfigError with every fault in one line."""
    try:
        return Plan(**values)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{source}: {explain(error, set(Plan.model_fields))}") from error


def arms_of(plan: Plan, base: Config) -> list[Arm]:
    """All arms: for each way of training that an arm asks for, its random arms and its model of all labels too.

    ``base`` is the project's configuration. Every plug-in and option is checked. Raises ConfigError for a setting that
    is the bench's own, two arms that are the same, and a plan without arm; PluginError for an unknown plug-in.
    """
    if not plan.arms and not plan.random:
        raise ConfigError("no arm: name strategies with --strategies, or arms in a file with --arms")
    wanted: dict[str, Settings] = {}
    for name, changes in plan.arms.items():
        _check_keys(f"arm {name!r}", changes)
        wanted[name] = _values(base, plan, changes)
    _check_keys("settings", plan.settings)
    if not wanted:
        wanted = {"random": _values(base, plan, {"strategy": "random", **PLAIN})}
    trainings = {_training(values): _plain(base, plan, values) for values in wanted.values()}
    names = _learner_names([*trainings.values()])
    by_training = dict(zip(trainings, names, strict=True))
    whole = {training: FULL if len(trainings) == 1 else f"{FULL}, {name}" for training, name in by_training.items()}
    if plan.full and (taken := [name for name in whole.values() if name in wanted]):
        raise ConfigError(f"arm {taken[0]!r}: this name is that of the model of all labels; choose another")
    if plan.random:
        _add_random(wanted, trainings, by_training, base)
    arms = []
    for name, values in wanted.items():
        config = configuration.parse(values, f"arm {name!r}")
        check_plugins(config)
        role = "random" if config.strategy.name in RANDOM else "strategy"
        arms.append(Arm(name, role, by_training[_training(values)], values))
    if plan.full:
        for training, values in trainings.items():
            arms.append(Arm(whole[training], "ceiling", by_training[training], values))
    _check_different(arms)
    return arms


def slug(name: str) -> str:
    """A name that is safe and unique as a folder's."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def start_folder(arm: Arm) -> str:
    """The name of the folder of the first models that the arm shares with all that train as it does."""
    return f"{slug(arm.learner)}-{hashlib.sha256(_training(arm.values).encode()).hexdigest()[:6]}"


def _values(base: Config, plan: Plan, changes: Settings) -> Settings:
    """The arm's settings, whole and in one form: what is equal is written alike."""
    values = base.model_dump(mode="json", exclude_defaults=True) | plan.settings | changes
    values |= {
        "name": "bench",
        "seed": 0,
        "batch": plan.batch,
        "wait_for": 1.0,
        "control": 0.0,
        "blind": 0.0,
        "review": {"share": 0.0},
        "budget": None,
        "agreement": {},  # one oracle answers
        "holdout": {"share": 0.0, "labels": 0},
        "annotator": {"name": "oracle", "seconds": plan.seconds.model_dump()},
        "store": None,
        "batch_with": _batch_with(values.get("batch_with"), plan.settings | changes),
    }
    whole: Settings = configuration.parse(values, "arm").model_dump(mode="json")
    return whole


def _plain(base: Config, plan: Plan, values: Settings) -> Settings:
    """What trains as ``values`` and chooses by pure chance, whatever else the arm says: so it stays the same when arms
    come or go.
    """
    training = {name: values[name] for name in TRAINING}
    return _values(base, plan, training | {"strategy": {"name": "random"}, **PLAIN})


def _batch_with(batch_with: Any, said: Settings) -> Any:
    """How batches are made. Spread over groups only where the plan says so, since that would bend a random arm too;
    and the project's partner is its strategy's: an arm that names a strategy names its partner, or has none.
    """
    if not isinstance(batch_with or {}, dict):
        return batch_with
    own = said.get("batch_with") or {}
    made = dict(batch_with or {})
    if "strategy" in said and "partner" not in own:
        made.pop("partner", None)
    return made if "spread" in own else {**made, "spread": False}


def _check_keys(what: str, changes: Any) -> None:
    if not isinstance(changes, dict):
        raise ConfigError(f"{what}: expected settings of alpipe.yaml, as in {{strategy: entropy}}; found {changes!r}")
    if own := [name for name in changes if name in FIXED]:
        raise ConfigError(f"{what}: {', '.join(own)} is the same for every arm and set by the bench: leave it out")


def _add_random(
    wanted: dict[str, Settings], trainings: Mapping[str, Settings], names: Mapping[str, str], base: Config
) -> None:
    there = {(_training(values), values["strategy"]["name"]) for values in wanted.values()}
    for strategy in RANDOM:
        if strategy not in available(Kind.STRATEGY) or base.task not in load(Kind.STRATEGY, strategy).TASKS:
            continue
        for training, values in trainings.items():
            if (training, strategy) not in there:
                name = strategy if len(trainings) == 1 else f"{strategy}, {names[training]}"
                if name in wanted:
                    raise ConfigError(f"arm {name!r}: this name is that of the random arm; choose another")
                wanted[name] = values | {"strategy": {"name": strategy}}


def _training(values: Mapping[str, Any]) -> str:
    """What decides the first model, as text."""
    relevant = {name: values.get(name) for name in TRAINING}
    if not relevant["pretrain"]:
        relevant.pop("autoencoder")
    return json.dumps(relevant, sort_keys=True)


def _learner_names(all_values: list[Settings]) -> list[str]:
    """A short name for each way of training: the learner, with what differs between the ways."""
    parts = []
    for values in all_values:
        learner = values["learner"]
        part = {name: value for name, value in learner.items() if name != "name"}
        part |= {name: values[name] for name in TRAINING if name not in ("learner", "device", "precision")}
        parts.append((learner["name"], part))
    keys = list(dict.fromkeys(name for _, part in parts for name in part))
    absent = object()
    differ = [key for key in keys if any(part.get(key, absent) != parts[0][1].get(key, absent) for _, part in parts)]
    names = []
    for name, part in parts:
        said = [f"{key}={part[key]}" for key in differ if key in part]
        names.append(f"{name} ({', '.join(said)})" if said else name)
    return [name if names.count(name) == 1 else f"{name} #{at}" for at, name in enumerate(names, 1)]


def _check_different(arms: Iterable[Arm]) -> None:
    seen: dict[str, str] = {}
    for arm in arms:
        key = json.dumps([arm.values, arm.role == "ceiling"], sort_keys=True)
        if (other := seen.setdefault(key, arm.name)) != arm.name:
            raise ConfigError(f"arms {other!r} and {arm.name!r} are the same: leave one out")
