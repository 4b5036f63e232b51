"""A project: a folder with its configuration, its pool store and its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import ValidationError

from alpipe import config as configuration
from alpipe import plugins
from alpipe.config import Config
from alpipe.errors import ConfigError, DataError, PluginError
from alpipe.plugins import Kind
from alpipe.pool.agreement import Rule
from alpipe.pool.store import PoolStore
from alpipe.protocols import Annotator, AnnotatorContext, Choosing, Learner, LearnerContext, Model, Scanner, Strategy

if TYPE_CHECKING:
    from alpipe.acquisition.batch.options import BatchOptions

PRIVATE = ".alpipe"


class Batching(NamedTuple):
    """How a batch is made of scores: the options of ``batch_with``, the partner, and whether it needs embeddings."""

    options: BatchOptions
    partner: Choosing
    needs_embeddings: bool


class ChosenStrategy(NamedTuple):
    """A strategy, whether it needs embeddings, and what scans the pool for it."""

    strategy: Strategy
    needs_embeddings: bool
    scanner: Scanner


class Project:
    """Opens what the configuration names, each when it is first asked for."""

    def __init__(self, root: Path, config: Config) -> None:
        self.root = root
        self.config = config
        self.folder = root / PRIVATE
        rule = Rule(**config.agreement.model_dump())
        self.store = PoolStore.open(config.store or f"sqlite:///{self.folder / 'pool.db'}", rule)
        self._model: tuple[str, Model] | None = None

    @classmethod
    def create(cls, root: Path, config: Config) -> Project:
        """A new project in a folder that has none. Raises ConfigError where there is one or the names do not fit."""
        root = root.absolute()
        if (root / configuration.FILE).exists():
            raise ConfigError(f"{root} already holds a project ({configuration.FILE}); choose another folder")
        check_plugins(config)
        try:
            (root / PRIVATE).mkdir(parents=True, exist_ok=True)
            (root / PRIVATE).chmod(0o700)
            temporary = root / f"{configuration.FILE}.new"
            temporary.write_text(configuration.text(config), encoding="utf-8")
            project = cls(root, config)
            temporary.replace(root / configuration.FILE)
        except OSError as error:
            raise ConfigError(f"cannot make a project in {root}: {error}") from error
        return project

    @classmethod
    def open(cls, root: Path) -> Project:
        """The project in a folder. Raises ConfigError where there is none or its configuration has faults."""
        root = root.absolute()
        config = configuration.read(root / configuration.FILE)
        try:
            (root / PRIVATE).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{root / PRIVATE} cannot be made: {error.strerror}") from error
        return cls(root, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.store.close()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.config.labels

    @property
    def learner_context(self) -> LearnerContext:
        return LearnerContext(self.config.task, self.classes, self.config.device, self.config.precision)

    def learner(self, *, encoder: Path | None = None, logs: Path | None = None) -> Learner:
        """The learner, with the weights that its encoder starts from and the folder for its curves, if any."""
        plugin, options = self._plugin(Kind.LEARNER, self.config.learner)
        learner: Learner = plugin.build(options, replace(self.learner_context, encoder=encoder, logs=logs))
        return learner

    def learner_plugin(self) -> tuple[Any, Any]:
        """The learner's module and its options."""
        return self._plugin(Kind.LEARNER, self.config.learner)

    def strategy(self) -> ChosenStrategy:
        plugin, options = self._plugin(Kind.STRATEGY, self.config.strategy)
        return ChosenStrategy(
            plugin.build(options), bool(plugin.NEEDS_EMBEDDINGS), scanner_of(plugin, self.config.strategy.name)
        )

    def cold_start(self) -> ChosenStrategy:
        """What chooses before there is a model."""
        plugin, options = self._plugin(Kind.STRATEGY, self.config.cold_start)
        return ChosenStrategy(plugin.build(options), bool(plugin.NEEDS_EMBEDDINGS), Scanner.MODEL)

    def batching(self) -> Batching:
        return batching(self.config)

    def annotator(self, **more: Any) -> Annotator:
        """The annotator, with ``more`` options than the configuration says."""
        choice = self.config.annotator
        plugin, options = self._plugin(Kind.ANNOTATOR, choice.model_copy(update=more))
        context = AnnotatorContext(
            project=self.config.name,
            task=self.config.task,
            classes=self.classes,
            folder=self.folder,
            truth=self.store.truth.get,
            open_items=lambda: self.store.tasks.open_items(self.config.annotator.name),
            item=self.store.items.get,
            seed=self.config.seed,
            asked=lambda: self.store.tasks.asked(self.config.annotator.name),
            standing=self.store.annotations.standing,
            people=self.config.agreement.minimum,
        )
        annotator: Annotator = plugin.build(options, context)
        return annotator

    def model(self, name: str) -> Model:
        """A model of this project; the one used last stays in memory. Raises DataError where it is gone."""
        if self._model is None or self._model[0] != name:
            row = self.store.models.get(name)
            if row is None:
                raise DataError(f"no model {name!r} in this project; see `alpipe status` for those there are")
            plugin = plugins.load(Kind.LEARNER, row.learner, self.config.task)
            model: Model = plugin.load(self.models / name, self.learner_context)
            if model.classes != self.classes[: len(model.classes)]:
                raise ConfigError(
                    f"model {name} knows the labels {', '.join(model.classes)}, alpipe.yaml says"
                    f" {', '.join(self.classes)}: put them back in that order; new ones go to the end"
                )
            self._model = (name, model)
        return self._model[1]

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def _plugin(self, kind: Kind, choice: configuration.Choice) -> tuple[Any, Any]:
        plugin = plugins.load(kind, choice.name, self.config.task)
        return plugin, plugins.options(kind, choice.name, plugin, choice.options)


def scanner_of(plugin: Any, name: str) -> Scanner:
    """What scans the pool for a strategy's module. Raises PluginError where it asks for something else."""
    value = getattr(plugin, "SCANNER", Scanner.MODEL)
    if value not in list(Scanner):
        raise PluginError(f"strategy {name!r}: SCANNER is {value!r}; it may be {' or '.join(Scanner)}")
    return Scanner(value)


def check_plugins(config: Config) -> None:
    """Loads every plug-in that a configuration names and checks its options. Raises PluginError or ConfigError."""
    for kind, choice in (
        (Kind.LEARNER, config.learner),
        (Kind.STRATEGY, config.strategy),
        (Kind.ANNOTATOR, config.annotator),
    ):
        plugin = plugins.load(kind, choice.name, config.task)
        plugins.options(kind, choice.name, plugin, choice.options)
        if kind is Kind.STRATEGY:
            scanner_of(plugin, choice.name)
    _check_choice(config)
    _check_members(config)
    if config.pretrain and not hasattr(plugins.load(Kind.LEARNER, config.learner.name, config.task), "pretrain"):
        raise ConfigError(f"learner {config.learner.name!r} has no encoder to pretrain; set pretrain: false")
    autoencoder_options(config)
    if isinstance(config.mining, dict):
        mining_options(config)


def _check_choice(config: Config) -> None:
    """Raises ConfigError where a strategy that chooses by itself is given a partner to choose in its place, and where
    the first batch is to be chosen by a strategy that needs a model.
    """
    name, partner = config.strategy.name, batching(config).options.partner["name"]
    plugin = plugins.load(Kind.STRATEGY, name, config.task)
    strategy = plugin.build(plugins.options(Kind.STRATEGY, name, plugin, config.strategy.options))
    if partner != "top" and isinstance(strategy, Choosing):
        raise ConfigError(f"strategy {name!r} makes its batch by itself; leave out batch_with: partner: {partner}")
    first = config.cold_start.name
    plugin = plugins.load(Kind.STRATEGY, first, config.task)
    plugins.options(Kind.STRATEGY, first, plugin, config.cold_start.options)
    if not getattr(plugin, "COLD_START", False):
        known = plugins.available(Kind.STRATEGY)
        fit = [other for other in known if getattr(_found(other), "COLD_START", False)]
        raise ConfigError(f"cold_start: strategy {first!r} needs a model's predictions; use {' or '.join(fit)}")


def _found(strategy: str) -> Any:
    try:
        return plugins.load(Kind.STRATEGY, strategy)
    except PluginError:
        return None


def batching(config: Config) -> Batching:
    """The options of ``batch_with`` and the partner they name. Raises ConfigError or PluginError."""
    from alpipe.acquisition.batch.options import BatchOptions

    try:
        options = BatchOptions(**config.batch_with)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"batch_with: {plugins.explain(error, set(BatchOptions.model_fields))}") from error
    values = dict(options.partner)
    name = values.pop("name")
    plugin = plugins.load(Kind.PARTNER, name, config.task)
    partner: Choosing = plugin.build(plugins.options(Kind.PARTNER, name, plugin, values))
    return Batching(options, partner, bool(plugin.NEEDS_EMBEDDINGS))


def _check_members(config: Config) -> None:
    """Raises ConfigError where the strategy compares the members of an ensemble and the learner is known to have none:
    better now than when the first model scans the pool.
    """
    learner, strategy = (
        plugins.load(kind, choice.name, config.task)
        for kind, choice in ((Kind.LEARNER, config.learner), (Kind.STRATEGY, config.strategy))
    )
    options = plugins.options(Kind.LEARNER, config.learner.name, learner, config.learner.options)
    gives: Callable[[], bool] = getattr(options, "gives_members", lambda: True)
    if getattr(strategy, "NEEDS_MEMBERS", False) and not gives():
        advice = "set its option samples to 20" if hasattr(options, "samples") else "choose another learner"
        raise ConfigError(
            f"strategy {config.strategy.name!r} compares the members of an ensemble, and learner"
            f" {config.learner.name!r} has none: {advice}"
        )


def autoencoder_options(config: Config) -> Any:
    """The options of the autoencoder. Raises ConfigError."""
    from alpipe.learners.autoencoder.options import AutoencoderOptions  # only those who need it pay for its imports

    try:
        return AutoencoderOptions(**config.autoencoder)
    except ValidationError as error:
        raise ConfigError(f"autoencoder: {plugins.explain(error, set(AutoencoderOptions.model_fields))}") from error


def mining_options(config: Config) -> Any:
    """The options of mining, or None where it is turned off. Raises ConfigError."""
    from alpipe.mining.options import MiningOptions  # only those who mine pay for its imports

    if config.mining is False:
        return None
    try:
        return MiningOptions(**(config.mining if isinstance(config.mining, dict) else {}))
    except ValidationError as error:
        raise ConfigError(f"mining: {plugins.explain(error, set(MiningOptions.model_fields))}") from error
