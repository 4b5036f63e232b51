"""People answer in Label Studio: questions become pre-annotated tasks there, answers come back from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import Field, field_validator, model_validator

from alpipe.annotators.studio import images, review, server
from alpipe.annotators.studio import project as projects
from alpipe.annotators.studio.client import Studio
from alpipe.annotators.studio.config import Drawing
from alpipe.annotators.studio.lock import exclusive
from alpipe.annotators.studio.project import OpenProject, ProjectChoice
from alpipe.annotators.studio.pull import Ledger
from alpipe.annotators.studio.pull import pull as pull_answers
from alpipe.annotators.studio.push import push as push_tasks
from alpipe.errors import AnnotatorError
from alpipe.protocols import AnnotatorContext, PluginOptions, ProgressCallback, no_progress
from alpipe.types import Item, LabelRequest, Pulled, Question, Receipt, Refusal, Reply, Task

TASKS = frozenset(Task)


class Options(PluginOptions):
    """Which server and project to use, how people draw, and how they get to see the images.

    ``project_title`` names the project that alpipe makes (default: the project's own name); ``project_id`` adopts one
    that exists. ``home`` is the local server's folder, relative to the project's (default: its own); several projects
    can share one. ``batch`` is how many tasks go in one call. ``accept_deletions``: a pull goes on where most of the
    tasks are gone at once (say it once: ``alpipe pull --accept-deletions``).

    ``rotate``: boxes can be turned. ``shape``: masks are painted (``brush``) or drawn as outlines (``polygon``); by
    default whatever an adopted project offers, else the brush. ``polygon_tolerance`` is the share of a region's pixels
    that a proposed outline may miss for having fewer points. ``label_names`` gives a label's name in Label Studio where
    it is another one: ``{RBC: red cell}``.

    ``images``: ``local`` (copies in the folder that the server serves), ``upload``, ``uri`` (by ``uri_prefix`` alone),
    or ``auto``: by address where ``uri_prefix`` gives one, else local files where there is such a folder, else upload.
    ``uri_prefix`` gives the address of local folders: ``{/data/scans: s3://bucket/scans}``. ``files_root`` is the
    folder that a server given by LABEL_STUDIO_URL serves as local files, if this machine can write there; the server
    must see it under the same path.
    """

    project_title: str | None = Field(default=None, min_length=3, max_length=50)
    project_id: int | None = Field(default=None, ge=1)
    home: Path | None = None
    batch: int = Field(default=250, ge=1, le=500)
    accept_deletions: bool = False
    rotate: bool = False
    shape: Literal["brush", "polygon"] | None = None
    polygon_tolerance: float = Field(default=0.01, ge=0, le=0.2)
    label_names: dict[str, str] = Field(default_factory=dict)
    images: Literal["auto", "local", "upload", "uri"] = "auto"
    uri_prefix: dict[Path, str] = Field(default_factory=dict)
    files_root: Path | None = None

    @field_validator("uri_prefix")
    @classmethod
    def _addresses(cls, value: dict[Path, str]) -> dict[Path, str]:
        for folder, prefix in value.items():
            if not folder.expanduser().is_absolute():
                raise ValueError(f"the folder {folder} must be an absolute path")
            images.check_prefix(prefix)
        return {folder.expanduser(): prefix for folder, prefix in value.items()}

    @model_validator(mode="after")
    def _have_addresses(self) -> Options:
        if self.images == "uri" and not self.uri_prefix:
            raise ValueError("images: uri needs uri_prefix: say which folder has which address")
        return self


class LabelStudioAnnotator:
    """Pushes to and pulls from one Label Studio project, and asks about labels in one beside it. Connects at each call
    and keeps nothing open.
    """

    def __init__(self, options: Options, context: AnnotatorContext) -> None:
        self.options = options
        self.context = context
        self.home = server.home_in(context.folder, options.home)
        self.files_root = None if options.files_root is None else server.beside(context.folder, options.files_root)
        self.choice = ProjectChoice(
            options.project_title or context.project,
            options.project_id,
            context.folder / f"labelstudio{'' if options.project_id is None else f'-{options.project_id}'}.json",
            Drawing(options.rotate, options.shape, options.polygon_tolerance, options.label_names),
        )
        self.review = replace(
            self.choice,
            title=review.title(self.choice.title),
            number=None,
            state=context.folder / "labelstudio-review.json",
        )
        self.ledger = Ledger(context.folder / "labelstudio-seen.json", context.folder / "refused.jsonl")

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        if not requests:
            return []
        with exclusive(self.context.folder / "labelstudio.lock", progress), self.studio() as studio:
            project = projects.find_or_make(studio, self.choice, self.context)
            return push_tasks(
                studio,
                project,
                requests,
                lambda items: self._image_urls(studio, project, items),
                self.options.batch,
                progress,
            )

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:
        with self.studio() as studio:
            project = projects.find(studio, self.choice, self.context)
            if project is None:
                return Pulled((), since or "")
            accepted = self.options.accept_deletions
            return pull_answers(studio, project, self.context, self.ledger, since, progress, accept_deletions=accepted)

    def ask(
        self, questions: Sequence[Question], gone: Sequence[str] = (), progress: ProgressCallback = no_progress
    ) -> list[Receipt]:
        with exclusive(self.context.folder / "labelstudio.lock", progress), self.studio() as studio:
            xml = review.write(self.context.task, self.context.classes, self.choice.drawing)
            project = projects.found_or_made(studio, self.review, self.context, xml)
            studio.ensure_view(project.id, review.VIEW, review.UNANSWERED)
            images_of = partial(self._image_urls, studio, project)
            return review.ask(studio, project, questions, gone, images_of, progress)

    def replies(self, questions: Sequence[Question]) -> list[Reply | Refusal]:
        with self.studio() as studio:
            project = projects.find(studio, self.review, self.context)
            return [] if project is None else review.replies(studio, project, questions, self.context.classes)

    def where(self) -> str:
        known = {} if self.choice.number else self.choice.known()
        number = self.choice.number or known.get("project")
        url = server.connect(self.home).url
        return f"{url}/projects/{number}/data" if number else url

    @contextmanager
    def studio(self) -> Iterator[Studio]:
        """A connection to the server. Raises AnnotatorError where there is none."""
        with Studio(server.connect(self.home)) as studio:
            yield studio

    def _image_urls(self, studio: Studio, project: OpenProject, items: Sequence[Item]) -> list[str]:
        """Where the browser finds each image; see the options."""
        way = self.options.images
        urls: dict[str, str] = {}
        if way in ("auto", "uri"):
            found = {item.key: images.address(item, self.options.uri_prefix) for item in items}
            urls = {key: url for key, url in found.items() if url is not None}
        rest = [item for item in items if item.key not in urls]
        if rest and way == "uri":
            raise AnnotatorError(
                f"{rest[0].uri} has no address that a browser can show: its folder is not in uri_prefix, or the file is"
                " of a kind that browsers do not show (then say images: auto)"
            )
        urls |= zip((item.key for item in rest), self._hosted(studio, project, rest), strict=True)
        return [urls[item.key] for item in items]

    def _hosted(self, studio: Studio, project: OpenProject, items: Sequence[Item]) -> list[str]:
        """The addresses of copies on the server, as local files or uploads."""
        if not items:
            return []
        root = studio.connection.files_root or self.files_root
        if self.options.images == "local" and root is None:
            raise AnnotatorError(
                f"images: local needs the folder that {studio.url} serves: give it by files_root, or say images: upload"
            )
        if root is None or self.options.images == "upload":
            with TemporaryDirectory() as scratch:
                return studio.upload(project.id, [images.place(item, Path(scratch)) for item in items])
        folder = images.served_folder(root, projects.slug(self.context.project))
        urls = [images.url(images.place(item, folder), root) for item in items]
        studio.ensure_storage(project.id, folder)
        return urls


def build(options: Options, context: AnnotatorContext) -> LabelStudioAnnotator:
    """The annotator; it connects at the first call. Raises AnnotatorError where label_names does not fit the labels."""
    unknown = [name for name in options.label_names if name not in context.classes]
    if unknown:
        raise AnnotatorError(
            f"the option label_names speaks of {unknown[0]!r}, which is no label of this project"
            f" ({', '.join(context.classes)}): write OUR NAME: NAME IN LABEL STUDIO"
        )
    there = [options.label_names.get(name, name) for name in context.classes]
    twice = [name for name in there if there.count(name) > 1]
    if twice:
        raise AnnotatorError(f"the option label_names gives two labels the name {twice[0]!r}: they would be mixed up")
    return LabelStudioAnnotator(options, context)
