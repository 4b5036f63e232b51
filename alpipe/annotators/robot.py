"""A robot that stands in for the person: it answers open tasks through Label Studio, from the labels kept aside.

It works as people do: corrects what is shown instead of drawing anew, lets small inaccuracies stand, submits images
without object empty, and skips a few. What it does with a task depends only on the seed, the item and what is shown.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from pydantic import Field

from alpipe.annotators import labelstudio
from alpipe.annotators.studio import edits
from alpipe.annotators.studio import project as projects
from alpipe.annotators.studio.client import KEYS_A_QUERY, OPEN, Filter, Row, Studio
from alpipe.annotators.studio.duplicates import KEY
from alpipe.annotators.studio.failures import UncertainError
from alpipe.annotators.studio.project import OpenProject
from alpipe.protocols import AnnotatorContext, ProgressCallback, no_progress
from alpipe.types import Item, LabelRequest, Labels, Progress, Pulled, Receipt, Refusal, Split, Task

TASKS = frozenset(Task)
WORKERS = 4
"""Requests at a time; the server computes on one core, so more would not help."""
ATTEMPTS = 5


class Options(labelstudio.Options):
    """Those of ``labelstudio``, and how the robot works.

    ``skip_share`` of the pool's tasks in [0, 1) are skipped; hold-out tasks never are. ``tolerance`` is the range of
    the IoU from which a shown region is left as it is: each task draws its own, as attention varies.
    """

    skip_share: float = Field(default=0.03, ge=0, lt=1)
    tolerance: tuple[float, float] = (0.75, 0.85)


class RobotAnnotator:
    """The Label Studio annotator, with answers given to all open tasks before each pull."""

    def __init__(self, options: Options, context: AnnotatorContext) -> None:
        self.options = options
        self.context = context
        self.person = labelstudio.build(options, context)

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        return self.person.push(requests, progress)

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:
        refused = self.answer(progress)
        pulled = self.person.pull(since, progress)
        return Pulled(pulled.annotations, pulled.watermark, pulled.withdrawn, (*pulled.refused, *refused))

    def where(self) -> str:
        return self.person.where()

    def answer(self, progress: ProgressCallback = no_progress) -> list[Refusal]:
        """Answers the open tasks; those without known truth stay open and are returned."""
        with self.person.studio() as studio:
            project = projects.find(studio, self.person.choice, self.context)
            if project is None:
                return []
            answers, refused = {}, []
            for task in _open(studio, project):
                item, truth = self._known(str(task["data"].get(KEY)))
                if item is None or truth is None:
                    where = f"{studio.url}/projects/{project.id}/data?task={task['id']}"
                    refused.append(Refusal(where, "the robot knows no truth for it (alpipe import … --as-truth)"))
                else:
                    answers[int(task["id"])] = self._answer(task, item, truth, project)
            with ThreadPoolExecutor(WORKERS) as pool:
                waiting = [pool.submit(_submit, studio, task, answer) for task, answer in answers.items()]
                for done, finished in enumerate(as_completed(waiting), 1):
                    finished.result()
                    progress(Progress("answer", done, len(waiting), "tasks by the robot"))
            return refused

    def _known(self, key: str) -> tuple[Item | None, Labels | None]:
        return self.context.item(key), self.context.truth(key)

    def _answer(self, task: Row, item: Item, truth: Labels, project: OpenProject) -> Row:
        """The body of an annotation."""
        rng = np.random.default_rng(
            int.from_bytes(hashlib.sha256(f"{self.context.seed}/{item.key}".encode()).digest()[:8], "big")
        )
        skip, tolerance = rng.random() < self.options.skip_share, rng.uniform(*self.options.tolerance)
        shown = _shown(task)
        result = shown["result"] if shown else []
        if skip and item.split is not Split.HOLDOUT:
            return {"result": result, "was_cancelled": True, "lead_time": round(float(rng.uniform(1, 4)), 2)}
        edited = edits.correct(result, truth, item, project.control, self.context.classes, float(tolerance))
        answer: Row = {"result": edited.result, "was_cancelled": False, "lead_time": edits.lead_time(edited, rng)}
        return answer | ({"parent_prediction": shown["id"]} if shown else {})


def build(options: Options, context: AnnotatorContext) -> RobotAnnotator:
    """The robot of a project; it connects at the first call."""
    return RobotAnnotator(options, context)


def _open(studio: Studio, project: OpenProject) -> list[Row]:
    """The project's tasks of ours that have no answer at all, with what they show."""
    listed = [task for task in studio.tasks(project.id) if task["data"].get(KEY)]
    keys = [task["data"][KEY] for task in listed if not task["total_annotations"] and not task["cancelled_annotations"]]
    rows: list[Row] = []
    for start in range(0, len(keys), KEYS_A_QUERY):
        part = Filter(f"data.{KEY}", "in_list", "String", keys[start : start + KEYS_A_QUERY])
        rows += studio.tasks(project.id, [part], include=OPEN)
    return [task for task in rows if not task.get("annotations")]


def _shown(task: Row) -> Row | None:
    """The prediction that a person sees: the one of the task's model."""
    fitting = [row for row in task.get("predictions") or [] if row["model_version"] == task["data"].get("model")]
    return fitting[-1] if fitting else None


def _submit(studio: Studio, task: int, answer: Row) -> None:
    """Submits once. A server on SQLite may be locked by another writer; then nothing was written, and it is asked
    again after looking.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            studio.annotate(task, answer)
            return
        except UncertainError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
            if studio.annotations(task):
                return
