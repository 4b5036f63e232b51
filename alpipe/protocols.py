"""What a plug-in has to be. Each kind is one module (or entry point) that has what its protocol names.

Learners, strategies, batch partners, annotators and formats are modules: the module's name is the name in the
configuration. The module-level protocols (``…Plugin``) say what the module must hold, the others what it builds.

A module that needs packages which not everyone has imports them only when it builds, and names them in ``REQUIRES``
(``{"torchvision": "alpipe[torchvision]"}``: what is imported, and what to pip install): choosing it where one is absent
is then refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

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
    Question,
    Receipt,
    Refusal,
    Reply,
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


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """What is known of the labelled images when a batch is chosen.

    ``examples`` are those of the pool, ``embeddings`` (M, D) float32 has a row an example, or is None where none were
    asked for; ``seconds`` is how long people worked on items, by key, where that was measured. ``scan`` has the round's
    model predict the examples, one after another, in their order; nothing is computed before it is called.
    """

    examples: Sequence[Example] = ()
    embeddings: npt.NDArray[np.float32] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    scan: Callable[[], Iterator[Prediction]] = lambda: iter(())


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The images of which a batch is chosen: a row an image, in ascending order of their keys.

    ``scores`` (N,) float64, finite; ``features`` (N, F) float32, what the strategy's ``describe`` said of each, or
    None; ``embeddings`` (N, D) float32, or None where none were asked for. Raises ValueError for lengths that differ,
    keys out of order or twice, and values that are not finite, with the item's key.
    """

    items: Sequence[Item]
    scores: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32] | None = None
    embeddings: npt.NDArray[np.float32] | None = None
    labelled: Labelled = field(default_factory=Labelled)

    def __post_init__(self) -> None:
        for before, item in pairwise(self.items):
            if before.key >= item.key:
                raise ValueError(f"item {item.key} is scored twice or stands out of order")
        for what, values in (("score", self.scores), ("description", self.features), ("embedding", self.embeddings)):
            if values is None:
                continue
            if len(values) != len(self.items):
                raise ValueError(f"the pool has {len(self.items)} images, but {len(values)} {what}s were given")
            finite = np.isfinite(values)
            if not finite.all():
                at = int(np.argmin(finite.reshape(len(values), -1).all(axis=1)))
                raise ValueError(f"the {what} of item {self.items[at].key} is not finite: {values[at]}")

    def __len__(self) -> int:
        return len(self.items)

    def at(self, rows: npt.NDArray[np.intp]) -> Candidates:
        """Those in ascending ``rows`` alone."""

        def part(values: Any) -> Any:
            return None if values is None else values[rows]

        some = [self.items[row] for row in rows.tolist()]
        return Candidates(some, self.scores[rows], part(self.features), part(self.embeddings), self.labelled)


class Strategy(Protocol):
    """What makes an image worth labelling. Beside ``score`` it may have the methods of ``Describing``, ``Rescoring``
    and ``Choosing``; a strategy without ``choose`` leaves the choice to the project's batch partner.
    """

    def score(self, prediction: Any) -> float:
        """Finite; larger is more worth labelling. Called while the scan of the pool streams, with a ``Prediction``, or
        with an ``ImageFit`` or ``Mirrored`` where the module's SCANNER says so.
        """


@runtime_checkable
class Describing(Protocol):
    """A strategy that needs more of each prediction than one number, when all are scored."""

    def describe(self, prediction: Any) -> npt.NDArray[np.float32]:
        """(F,) float32, finite, the same F for all images of a model. It is kept beside the score in the store, so F
        times 4 bytes an image.
        """


@runtime_checkable
class Rescoring(Protocol):
    """A strategy whose scores depend on what is known only when all are scored."""

    def rescore(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        """(N,) finite scores in place of those of ``candidates``."""


@runtime_checkable
class Choosing(Protocol):
    """What has a choice of its own, beyond the largest scores: some strategies, and every batch partner."""

    def choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> list[str]:
        """k different keys, the most wanted first. Raises ValueError for k beyond the candidates. The same candidates
        and the same state of the generator give the same keys.
        """


class Scanner(StrEnum):
    """What looks at each image of the pool for a strategy: the round's model, by its ``scan``; that model twice, at the
    image and at its mirror image (``Mirrored``); or the autoencoder, trained on the labelled images, which says how
    badly the image fits them (``ImageFit``).
    """

    MODEL = "model"
    FLIP = "flip"
    VAE = "vae"


class StrategyPlugin(Protocol):
    """A module in ``alpipe/acquisition/`` or an entry point of ``alpipe.strategies``. It may hold ``SCANNER``, a
    ``Scanner``; without it the round's model scans the pool. ``NEEDS_MEMBERS`` says that it compares an ensemble's;
    ``COLD_START`` that it looks at no prediction and so can choose before there is a model.
    """

    TASKS: frozenset[Task]
    NEEDS_EMBEDDINGS: bool
    Options: type[PluginOptions]

    def build(self, options: Any) -> Strategy: ...


class PartnerPlugin(Protocol):
    """A module in ``alpipe/acquisition/partners/`` or an entry point of ``alpipe.partners``: how a batch is made of the
    scores of any strategy that has no choice of its own.
    """

    TASKS: frozenset[Task]
    NEEDS_EMBEDDINGS: bool
    Options: type[PluginOptions]

    def build(self, options: Any) -> Choosing: ...


# ── annotators ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AnnotatorContext:
    """What an annotator must know of its project.

    ``folder`` is the project's private folder, where an annotator may keep state of its own. ``truth`` gives the
    labels kept aside for an item (None where there are none): robots answer from it. ``open_items`` lists the items
    that were pushed and have no answer yet. ``asked`` gives the annotator's id of each question that was pushed, by
    item key; ``standing`` the external ids of the answers in the store that were not withdrawn, for some keys.
    ``people`` is how many people at least are to answer each item.
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
    people: int = 1


class Annotator(Protocol):
    """Where questions go and answers come from. Both calls are idempotent; neither waits for people."""

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        """One receipt a request; a request that arrived before is not repeated but gets its receipt again."""

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:
        """The answers that are new or changed since a watermark (None: all)."""

    def where(self) -> str:
        """Where a person finds the questions (a URL), or in words who answers."""


@runtime_checkable
class Reviewer(Protocol):
    """What an annotator has besides, where people can be asked about labels that stand."""

    def ask(
        self, questions: Sequence[Question], gone: Sequence[str] = (), progress: ProgressCallback = no_progress
    ) -> list[Receipt]:
        """One receipt a question, by its key; a question that arrived before is not repeated. Questions of the keys in
        ``gone``, none of which is asked, are taken back, unless somebody has answered or begun them: of these there is
        a receipt too.
        """

    def replies(self, questions: Sequence[Question]) -> list[Reply | Refusal]:
        """The newest reply to each of these that has one, and replies that cannot be understood."""


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
