"""What a plug-in has to be. Each kind is one module (or entry point) that has what its protocol names.

Learners, strategies, annotators and formats are modules: the module's name is the name in the configuration. The
module-level protocols (``…Plugin``) say what the module must hold, the others what it builds.

A module that needs packages which not everyone has imports them only when it builds, and names them in ``REQUIRES``
(``{"torchvision": "alpipe[torchvision]"}``: what is imported, and what to pip install): choosing it where one is absent
is then refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from alpipe.types import (
    Example,
    Item,
    LabelRequest,
    Labels,
    Negative,
    Prediction,
    Progress,
    Pulled,
    Receipt,
    Refusal,
    Score,
    Task,
)

ProgressCallback: TypeAlias = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """Shows nothing."""


class PluginOptions(BaseModel):
    """Typed options of a plug-in: frozen, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ── learners ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LearnerContext:
    """What a learner must know of its project: the task, the names of the classes in order, and where to compute.

    ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``precision`` is ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    ``encoder`` is a file of weights, made by the learner's own ``pretrain``, from which the encoder starts instead of
    from random ones. ``logs`` is a folder for TensorBoard's event files.
    """

    task: Task
    classes: tuple[str, ...]
    device: str = "auto"
    precision: str = "auto"
    encoder: Path | None = None
    logs: Path | None = None


class Model(Protocol):
    """A fitted model; there is no other kind."""

    @property
    def task(self) -> Task: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def predict(self, items: Iterable[Item]) -> Iterator[Prediction]:
        """One prediction an item, in the order of the items; reads the images in batches as it goes."""

    def scan(self, items: Iterable[Item]) -> Iterator[Prediction]:
        """As ``predict``, for scoring a large pool: it may be coarser and quicker, and is where the members of an
        ensemble are given. A model that has neither returns what ``predict`` does.
        """

    def embed(self, items: Iterable[Item]) -> npt.NDArray[np.float32]:
        """(N, D) float32, one row an item in the order given."""

    def save(self, folder: Path) -> None:
        """Writes tensors (safetensors) and a JSON description into the folder; nothing that needs unpickling."""


class Learner(Protocol):
    """Settings that can be fitted. It stores them and does nothing else before ``fit``."""

    def fit(
        self,
        train: Sequence[Example],
        validation: Sequence[Example],
        negatives: Sequence[Negative],
        *,
        seed: int,
        progress: ProgressCallback = no_progress,
        resume_from: Path | None = None,
    ) -> Model:
        """Trains from scratch and returns the model.

        ``validation`` (may be empty) chooses the best weights; ``negatives`` are regions of the training items that
        hold no object; ``resume_from`` is a folder: training goes on from the checkpoint in it, if there is one, and
        leaves checkpoints there. The same seed on the same CPU gives the same model; on a GPU, up to the rounding of
        kernels of which there is no deterministic form.
        Raises TrainingError where nothing can be learnt (no example).
        """


class LearnerPlugin(Protocol):
    """A module in ``alpipe/learners/`` or an entry point of ``alpipe.learners``."""

    TASKS: frozenset[Task]
    Options: type[PluginOptions]

    def build(self, options: Any, context: LearnerContext) -> Learner: ...

    def load(self, folder: Path, context: LearnerContext) -> Model:
        """The model that was saved there. Raises DataError where the files are damaged or of another kind."""


class Pretrainable(Protocol):
    """What a learner's module holds besides, where its encoder can be trained on images without labels."""

    def pretrain(
        self,
        options: Any,
        context: LearnerContext,
        items: Sequence[Item],
        file: Path,
        *,
        settings: Any,
        seed: int,
        progress: ProgressCallback = no_progress,
        resume_from: Path | None = None,
    ) -> None:
        """Writes the encoder's weights into the file (safetensors), for ``LearnerContext.encoder``. ``settings`` are
        the project's options of the autoencoder that trains it.
        """


class Inspectable(Protocol):
    """What a learner's module holds besides, where `alpipe plugins show` is to count weights and multiply-adds."""

    def network(self, options: Any, classes: int, image_size: int) -> Any:
        """The learner's network (a ``torch.nn.Module``), not trained, for images of that longer side in pixels."""


# ── strategies ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Strategy(Protocol):
    """How to choose what is worth labelling, in two steps."""

    def score(self, prediction: Any) -> float:
        """Finite; larger is more worth labelling. Called while the scan of the pool streams, with a ``Prediction``, or
        an ``ImageFit`` where the module's SCANNER is the autoencoder.
        """

    def choose(
        self,
        scores: Sequence[Score],
        embeddings: npt.NDArray[np.float32] | None,
        labelled: npt.NDArray[np.float32] | None,
        k: int,
        rng: np.random.Generator,
    ) -> list[str]:
        """k keys out of the scores. ``embeddings`` has a row a score, ``labelled`` a row a labelled item; both are
        None where the module's NEEDS_EMBEDDINGS is false. Raises ValueError for k beyond the pool and for a score that
        is not finite.
        """


class Scanner(StrEnum):
    """What looks at each image of the pool for a strategy: the round's model, by its ``scan``; or the autoencoder,
    trained on the labelled images, which says how badly the image fits them.
    """

    MODEL = "model"
    VAE = "vae"


class StrategyPlugin(Protocol):
    """A module in ``alpipe/acquisition/`` or an entry point of ``alpipe.strategies``. It may hold ``SCANNER``, a
    ``Scanner``; without it the round's model scans the pool. ``NEEDS_MEMBERS`` says that it compares an ensemble's.
    """

    TASKS: frozenset[Task]
    NEEDS_EMBEDDINGS: bool
    Options: type[PluginOptions]

    def build(self, options: Any) -> Strategy: ...


# ── annotators ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AnnotatorContext:
    """What an annotator must know of its project.

    ``folder`` is the project's private folder, where an annotator may keep state of its own. ``truth`` gives the
    labels kept aside for an item (None where there are none): robots answer from it. ``open_items`` lists the items
    that were pushed and have no answer yet. ``asked`` gives the annotator's id of each question that was pushed, by
    item key; ``standing`` the external ids of the answers in the store that were not withdrawn, for some keys.
    """

    project: str
    task: Task
    classes: tuple[str, ...]
    folder: Path
    truth: Callable[[str], Labels | None]
    open_items: Callable[[], Sequence[Item]]
    item: Callable[[str], Item | None]
    seed: int = 0
    asked: Callable[[], Mapping[str, str]] = dict
    standing: Callable[[Sequence[str]], Mapping[str, Sequence[str]]] = lambda _: {}


class Annotator(Protocol):
    """Where questions go and answers come from. Both calls are idempotent; neither waits for people."""

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        """One receipt a request; a request that arrived before is not repeated but gets its receipt again."""

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:
        """The answers that are new or changed since a watermark (None: all)."""

    def where(self) -> str:
        """Where a person finds the questions (a URL), or in words who answers."""


class AnnotatorPlugin(Protocol):
    """A module in ``alpipe/annotators/`` or an entry point of ``alpipe.annotators``."""

    TASKS: frozenset[Task]
    Options: type[PluginOptions]

    def build(self, options: Any, context: AnnotatorContext) -> Annotator: ...


# ── formats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What to read: the task, the names of the project's labels in order, and one split of the set, if any.

    ``colours`` maps a label's name to its (R, G, B) in colour-coded masks.
    """

    task: Task
    classes: tuple[str, ...]
    subset: str | None = None
    colours: tuple[tuple[str, tuple[int, int, int]], ...] = ()


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image of a labelled set. ``labels`` is None where the set has the image but says nothing of it; ``size`` is
    the (width, height) that the labels are drawn for, where the set states it; ``source`` names the file and entry.
    """

    image: Path
    labels: Labels | None
    source: str
    size: tuple[int, int] | None = None


class FormatPlugin(Protocol):
    """A module in ``alpipe/formats/`` or an entry point of ``alpipe.formats``. It may hold ``KEEPS_ROTATION``, which
    says that boxes which people turned are written with their corners; others get the upright boxes around them.
    """

    TASKS: frozenset[Task]

    def read(self, path: Path, request: ReadRequest) -> Iterator[LabelledFile | Refusal]:
        """The set's images with labels, and what had to be refused. Raises DataError where nothing can be read."""

    def write(self, examples: Iterable[Example], path: Path, task: Task, classes: tuple[str, ...]) -> int:
        """Writes the examples, images included, in the format's usual layout into a new or empty folder; returns how
        many. Reviewed-empty images are written too.
        """
