"""Our project on a server: found again by its number or its mark, made where there is none."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpipe.annotators.studio import config
from alpipe.annotators.studio.client import Studio, StudioProject
from alpipe.annotators.studio.config import Control
from alpipe.errors import AnnotatorError
from alpipe.protocols import AnnotatorContext

VIEW = "Hardest first"
TITLE_LENGTH = (3, 50)


@dataclass(frozen=True, slots=True)
class OpenProject:
    """A project that was found and fits the task."""

    id: int
    control: Control
    label_config: str
    model_version: str
    tasks: int
    url: str

    @property
    def name(self) -> str:
        return f"Label Studio project {self.id}"


@dataclass(frozen=True, slots=True)
class ProjectChoice:
    """Which project to use: a number (adopted as it is), or one of our own under a title."""

    title: str
    number: int | None
    state: Path

    def known(self) -> dict[str, Any]:
        """What an earlier run noted of our own project: ``mark``, and ``project`` and ``url`` once it was made."""
        try:
            value = json.loads(self.state.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise AnnotatorError(f"{self.state}: cannot be read ({error}); put it back or delete it") from error
        return value if isinstance(value, dict) else {}

    def note(self, value: dict[str, Any]) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.state.with_suffix(".new")
        temporary.write_text(json.dumps(value, indent=1), "utf-8")
        temporary.replace(self.state)


def find(studio: Studio, choice: ProjectChoice, context: AnnotatorContext) -> OpenProject | None:
    """The project, or None where none was made yet. Raises AnnotatorError where it is gone or does not fit."""
    if choice.number is not None:
        adopted = studio.project(choice.number)
        if adopted is None:
            raise AnnotatorError(f"{studio.url} has no project {choice.number}: correct the option project_id")
        return _fitting(studio, adopted, context)
    known = choice.known()
    if "mark" not in known:
        return None
    if "project" not in known:  # a run ended between making the project and noting its number
        marked = [found for found in studio.projects_titled(_title(choice.title)) if known["mark"] in found.description]
        if not marked:
            return None
        choice.note(known | {"project": marked[0].id, "url": studio.url})
        return _own(studio, marked[0], context)
    found = studio.project(known["project"])
    if found is None or (known["mark"] not in found.description and known.get("url") != studio.url):
        raise AnnotatorError(
            f"project {known['project']} of {context.project!r} is not on {studio.url}"
            f" (it was made on {known.get('url')}): use that server, or delete {choice.state} to start a new project"
        )
    return _own(studio, found, context)


def find_or_make(studio: Studio, choice: ProjectChoice, context: AnnotatorContext) -> OpenProject:
    """The project, made if there is none yet; a run that is killed in between leaves no second one behind."""
    found = find(studio, choice, context)
    if found is None:
        mark = choice.known().get("mark") or f"alpipe:{uuid.uuid4().hex}"
        choice.note({"mark": mark})
        description = f"Made by alpipe for {context.project!r}. Keep this mark: {mark}"
        number = studio.create_project(
            _title(choice.title), config.write(context.task, context.classes), description=description
        )
        choice.note({"mark": mark, "project": number, "url": studio.url})
        found = find(studio, choice, context)
        if found is None:
            raise AnnotatorError(f"{studio.url} lost project {number} right after making it; try again")
    studio.ensure_view(found.id, VIEW)
    return found


def slug(name: str) -> str:
    """A folder's name for a project's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "project"


def _own(studio: Studio, project: StudioProject, context: AnnotatorContext) -> OpenProject:
    """Our own project follows the configuration: a new class becomes a new label, unless people changed the setup."""
    control = config.read(project.label_config, context.task, f"{studio.url}/projects/{project.id}")
    new = config.missing(control, context.classes)
    if new and project.label_config == config.write(context.task, control.labels):
        project.label_config = config.write(context.task, (*control.labels, *new))
        studio.update_project(project.id, label_config=project.label_config)
    return _fitting(studio, project, context)


def _fitting(studio: Studio, project: StudioProject, context: AnnotatorContext) -> OpenProject:
    url = f"{studio.url}/projects/{project.id}"
    control = config.read(project.label_config, context.task, url)
    new = config.missing(control, context.classes)
    if new:
        raise AnnotatorError(
            f"{url} does not offer the labels {', '.join(new)}: add them in its settings under Labeling Interface"
        )
    return OpenProject(project.id, control, project.label_config, project.model_version, project.tasks, f"{url}/data")


def _title(wanted: str) -> str:
    title = " ".join(wanted.split())[: TITLE_LENGTH[1]]
    return title if len(title) >= TITLE_LENGTH[0] else f"{title} images"
