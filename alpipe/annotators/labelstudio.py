"""People answer in Label Studio: questions become pre-annotated tasks there, answers come back from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field

from alpipe.annotators.studio import images, server
from alpipe.annotators.studio import project as projects
from alpipe.annotators.studio.client import Studio
from alpipe.annotators.studio.lock import exclusive
from alpipe.annotators.studio.project import OpenProject, ProjectChoice
from alpipe.annotators.studio.pull import Ledger
from alpipe.annotators.studio.pull import pull as pull_answers
from alpipe.annotators.studio.push import push as push_tasks
from alpipe.protocols import AnnotatorContext, PluginOptions, ProgressCallback, no_progress
from alpipe.types import Item, LabelRequest, Pulled, Receipt, Task

TASKS = frozenset(Task)


class Options(PluginOptions):
    """Which server and project to use.

    ``project_title`` names the project that alpipe makes (default: the project's own name); ``project_id`` adopts one
    that exists. ``home`` is the local server's folder (default: the project's own). ``files_root`` is the folder
    that a server given by LABEL_STUDIO_URL serves as local files, if this machine can write there; without it, images
    are uploaded. ``batch`` is how many tasks go in one call.
    """

    project_title: str | None = Field(default=None, min_length=3, max_length=50)
    project_id: int | None = Field(default=None, ge=1)
    home: Path | None = None
    files_root: Path | None = None
    batch: int = Field(default=250, ge=1, le=500)


class LabelStudioAnnotator:
    """Pushes to and pulls from one Label Studio project. Connects at each call and keeps nothing open."""

    def __init__(self, options: Options, context: AnnotatorContext) -> None:
        self.options = options
        self.context = context
        self.home = options.home or context.folder / "labelstudio"
        self.choice = ProjectChoice(
            options.project_title or context.project, options.project_id, context.folder / "labelstudio.json"
        )
        self.ledger = Ledger(context.folder / "labelstudio-seen.json", context.folder / "refused.jsonl")

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        if not requests:
            return []
        with exclusive(self.context.folder / "labelstudio.lock"), self.studio() as studio:
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
            return pull_answers(studio, project, self.context, self.ledger, since, progress)

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
        root = studio.connection.files_root or self.options.files_root
        if root is None:
            with TemporaryDirectory() as scratch:
                return studio.upload(project.id, [images.place(item, Path(scratch)) for item in items])
        folder = root / projects.slug(self.context.project)
        urls = [images.url(images.place(item, folder), root) for item in items]
        studio.ensure_storage(project.id, folder)
        return urls


def build(options: Options, context: AnnotatorContext) -> LabelStudioAnnotator:
    """The annotator; it connects at the first call."""
    return LabelStudioAnnotator(options, context)
