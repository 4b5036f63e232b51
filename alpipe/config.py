"""The project's configuration: ``alpipe.yaml``, typed, validated once, with every fault reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from alpipe.errors import ConfigError
from alpipe.plugins import explain
from alpipe.types import Task

FILE = "alpipe.yaml"

DEFAULT_LEARNER = {Task.CLASSIFY: "cnn", Task.DETECT: "detector", Task.SEGMENT: "unetpp"}

DEFAULT_STRATEGY = {Task.CLASSIFY: "margin", Task.DETECT: "entropy", Task.SEGMENT: "margin"}
DEFAULT_PARTNER = {Task.CLASSIFY: "herding", Task.SEGMENT: "herding"}
"""What chooses where no strategy is named: what saved most labels in the project's own bench (docs/benchmarks.md)."""


class Choice(BaseModel):
    """A plug-in by name, with its options beside the name. A bare name is enough where the defaults will do."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Holdout(BaseModel):
    """The frozen split that models are judged on and never trained on.

    ``share`` of the images is set aside as they enter, by a hash of the key (or of the group), unless images are
    held out by hand. Of these, ``labels`` are sent to be labelled in the first round, without pre-annotation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.1, ge=0, lt=1)
    labels: int = Field(40, ge=0)


class Agreement(BaseModel):
    """What counts where several people answered one item.

    ``latest``: the newest answer. ``majority``: classes by vote, boxes and pixels that more than half of them marked.
    ``consensus``: all agree, boxes and masks by an overlap of at least ``iou``. Where they do not, and where there are
    fewer than ``minimum`` answers, the item stays a question and nothing is trained on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["latest", "majority", "consensus"] = "latest"
    minimum: int = Field(1, ge=1, le=100)
    iou: float = Field(0.5, gt=0, le=1)


class Review(BaseModel):
    """Questions to people about labels that the model contradicts, for the same budget as new images: at most ``share``
    of each batch is questions in their place; 0 asks none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.1, ge=0, le=1)


class Config(BaseModel):
    """What a project is about; see ``configs/`` for commented examples."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str = Field(min_length=3, max_length=50, description="Title of the project, also in Label Studio.")
    task: Task
    labels: tuple[str, ...] = Field(min_length=1, description="Names of the classes; their order is kept.")
    seed: int = Field(0, ge=0)
    batch: int = Field(20, ge=1, description="Images sent to be labelled each round.")
    wait_for: float = Field(1.0, gt=0, le=1, description="Share of the batch that must be answered before training.")
    suggest_above: float = Field(0.3, ge=0, le=1, description="Confidence from which a pre-annotation is shown.")
    blind: float = Field(0.1, ge=0, le=1, description="Share of the images that is shown without pre-annotation.")
    control: float = Field(0.1, ge=0, le=0.5, description="Share of a batch drawn at random, to judge the choice by.")
    budget: int | None = Field(None, ge=1, description="Labelled images of the pool at which to advise to stop.")
    agreement: Agreement = Agreement()
    review: Review = Review()
    validation_share: float = Field(0.0, ge=0, lt=1, description="Share of the labels that only chooses weights.")
    holdout: Holdout = Holdout()
    learner: Choice
    pretrain: bool = Field(False, description="Train the learner's encoder on the pool's images first, without labels.")
    autoencoder: dict[str, Any] = Field(
        default_factory=dict, description="Options of the autoencoder: for pretraining, novelty, and embeddings: vae."
    )
    embeddings: Literal["model", "vae"] = Field("model", description="Whose embeddings a strategy measures.")
    strategy: Choice
    cold_start: Choice = Field(Choice(name="random"), description="How the first batch is chosen, without a model.")
    batch_with: dict[str, Any] = Field(
        default_factory=dict, description="How a batch is made of scores: near_duplicates, noise, partner, spread."
    )
    annotator: Choice = Choice(name="labelstudio")
    mining: dict[str, Any] | bool = Field(default_factory=dict, description="Options of mining; false turns it off.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: str = Field("auto", pattern=r"^(auto|fp32|bf16|fp16)$")
    store: str | None = Field(None, description="SQLAlchemy URL; by default a SQLite file in the project.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        task = Task(values["task"]) if values.get("task") in list(Task) else Task.DETECT
        if values.get("learner") is None:
            values["learner"] = DEFAULT_LEARNER[task]
        if values.get("strategy") is None:
            values["strategy"] = DEFAULT_STRATEGY[task]
            if task in DEFAULT_PARTNER and isinstance(batch_with := values.get("batch_with") or {}, dict):
                values["batch_with"] = {"partner": DEFAULT_PARTNER[task], **batch_with}
        for kind in ("learner", "strategy", "cold_start", "annotator"):
            if isinstance(values.get(kind), str):
                values[kind] = {"name": values[kind]}
        return values

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("the same label stands twice")
        if any(not label.strip() or label != label.strip() for label in labels):
            raise ValueError("a label is empty or begins or ends with a blank")
        return labels


def parse(values: Any, source: str) -> Config:
    """The configuration from plain values. Raises ConfigError that names the source and every fault in one line."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected 'name: value' lines, found {type(values).__name__}")
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, set(Config.model_fields))}") from error
    except TypeError as error:
        raise ConfigError(f"{source}: option names must be words: {error}") from error


def read(path: Path) -> Config:
    """The configuration in a file. Raises ConfigError where it is missing, not YAML, or has faults."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"no {path.name} in {path.parent}: make a project with `alpipe init`, or choose its folder with -C"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return parse(values, str(path))


def text(config: Config) -> str:
    """The configuration as YAML: what was chosen, without the defaults."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    for kind in ("learner", "strategy", "cold_start", "annotator"):
        if kind in values and set(values[kind]) == {"name"}:
            values[kind] = values[kind]["name"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
