"""Our project on a server: found again by its number or its mark, made where there is none."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpipe.annotators.studio import config
from alpipe.annotators.studio.client import Studio, StudioProject
from alpipe.annotators.studio.config import PLAIN, Control, Drawing
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
    shows_predictions: bool = True

    @property
    def name(self) -> str:
        return f"Label Studio project {self.id}"


@dataclass(frozen=True, slots=True)
class ProjectChoice:
    """Which project to use: a number (adopted as it is), or one of our own under a title. ``state`` is the file that
    tells it from others of the same number.
    """

    title: str
    number: int | None
    state: Path
    drawing: Drawing = PLAIN

    def known(self) -> dict[str, Any]:
        """What an earlier run noted: of our own project ``mark``, and ``project``, ``url`` and ``created`` once it was
        made; of an adopted one the last three.
        """
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
        return _adopted(studio, choice.number, choice, context)
    known = choice.known()
    if "mark" not in known:
        return None
    if "project" not in known:  # a run ended between making the project and noting its number
        marked = [found for found in studio.projects_titled(_title(choice.title)) if known["mark"] in found.description]
        if not marked:
            return None
        choice.note(known | {"project": marked[0].id, "url": studio.url, "created": marked[0].created})
        return _own(studio, marked[0], choice, context)
    found = studio.project(known["project"])
    if found is None or not _is_ours(found, known, studio.url):
        raise AnnotatorError(
            f"project {known['project']} of {context.project!r} is not on {studio.url} (it was made on"
            f" {known.get('url')}; its description held the mark {known['mark']}): use that server, or delete"
            f" {choice.state} to start a new project"
        )
    if known.get("created") != found.created:
        choice.note(known | {"created": found.created})
    return _own(studio, found, choice, context)


def find_or_make(studio: Studio, choice: ProjectChoice, context: AnnotatorContext) -> OpenProject:
    """The project with its tab, made if there is none yet; a run that is killed in between leaves no second one."""
    found = found_or_made(studio, choice, context, config.write(context.task, context.classes, choice.drawing))
    studio.ensure_view(found.id, VIEW)
    return found


def found_or_made(studio: Studio, choice: ProjectChoice, context: AnnotatorContext, xml: str) -> OpenProject:
    """The project, made with this labelling configuration if there is none yet."""
    found = find(studio, choice, context)
    if found is None:
        mark = choice.known().get("mark") or f"alpipe:{uuid.uuid4().hex}"
        choice.note({"mark": mark})
        description = f"Made by alpipe for {context.project!r}. Keep this mark: {mark}"
        number = studio.create_project(_title(choice.title), xml, description, context.people)
        choice.note({"mark": mark, "project": number, "url": studio.url})
        found = find(studio, choice, context)
        if found is None:
            raise AnnotatorError(f"{studio.url} lost project {number} right after making it; try again")
    return found


def slug(name: str) -> str:
    """A folder's name for a project's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "project"


def _adopted(studio: Studio, number: int, choice: ProjectChoice, context: AnnotatorContext) -> OpenProject:
    """The project of this number, if it is the very one that was adopted first: by the moment it was made, since the
    address of a server may change. On another server all our tasks would seem deleted, and their answers with them.
    """
    known, adopted = choice.known(), studio.project(number)
    before = f"the project {number} that was adopted was made on {known.get('url')} at {known.get('created')}"
    otherwise = f"use that server, or delete {choice.state} to adopt this one's"
    if adopted is None:
        what = f"{before}: {otherwise}" if known else "correct the option project_id"
        raise AnnotatorError(f"{studio.url} has no project {number}; {what}")
    if known.get("created", adopted.created) != adopted.created:
        raise AnnotatorError(
            f"project {number} on {studio.url} is another one, made at {adopted.created}; {before}: {otherwise}"
        )
    opened = _opened(studio, adopted, choice, context)
    noted = {"project": number, "url": studio.url, "created": adopted.created}
    if known != noted:
        choice.note(noted)
    return opened


def _is_ours(project: StudioProject, known: dict[str, Any], url: str) -> bool:
    """Whether it is the project that we made: by its mark, or where people removed that by the moment it was made. A
    server that was set up anew gives the same numbers again.
    """
    if known["mark"] in project.description:
        return True
    return known["created"] == project.created if "created" in known else known.get("url") == url


def _own(studio: Studio, project: StudioProject, choice: ProjectChoice, context: AnnotatorContext) -> OpenProject:
    """Our own project follows the configuration: a new label is added to it, whatever else people changed there; a
    label that was renamed on either side is never taken for a new one.
    """
    where = f"{studio.url}/projects/{project.id}"
    control = config.read(project.label_config, context.task, where, choice.drawing)
    wanted = [choice.drawing.there(name) for name in context.classes]
    noted = choice.known().get("labels") or []
    gone = [name for name in noted if name in wanted and name not in control.labels]
    if gone:
        raise AnnotatorError(
            f"{where} does not offer {_listed(gone)} any more, which alpipe put there (it offers"
            f" {_listed(control.labels)}): if it was renamed, say so by the option label_names, else add it again"
        )
    dropped = [name for name in noted if name not in wanted and name in control.labels]
    if dropped:
        _check_unused(studio, project, dropped, where)
    new = config.missing(control, context.classes)
    if new:
        project.label_config = config.add(project.label_config, control, new)
        studio.update_project(project.id, label_config=project.label_config)
    if sorted(noted) != sorted(wanted):
        choice.note(choice.known() | {"labels": wanted})
    return _opened(studio, project, choice, context)


def _check_unused(studio: Studio, project: StudioProject, dropped: list[str], where: str) -> None:
    uses = studio.label_uses(project.id)
    used = [f"{name!r} (in {uses[name]} answers)" for name in dropped if uses.get(name)]
    if used:
        raise AnnotatorError(
            f"{where}: people have used {', '.join(used)}, which is not among the labels of this project any more:"
            " put it back, or if it was renamed, map the new name to the old one by the option label_names"
        )


def _opened(studio: Studio, project: StudioProject, choice: ProjectChoice, context: AnnotatorContext) -> OpenProject:
    """Raises AnnotatorError with all that does not fit."""
    url = f"{studio.url}/projects/{project.id}"
    control = config.read(project.label_config, context.task, url, choice.drawing, context.classes)
    return OpenProject(
        project.id,
        control,
        project.label_config,
        project.model_version,
        project.tasks,
        f"{url}/data",
        project.shows_predictions,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _title(wanted: str) -> str:
    title = " ".join(wanted.split())[: TITLE_LENGTH[1]]
    return title if len(title) >= TITLE_LENGTH[0] else f"{title} images"
