"""Nobody is asked: what was pushed is answered at once from the labels kept aside as the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from alpipe.effort import Effort, TimeModel, effort
from alpipe.protocols import AnnotatorContext, PluginOptions, ProgressCallback, no_progress
from alpipe.types import Annotation, AnswerState, LabelRequest, Progress, Pulled, Receipt, Refusal, Task, is_empty

TASKS = frozenset(Task)

SHOWN = "oracle-effort.json"


class Options(PluginOptions):
    """With ``seconds`` an answer tells how long a person would have worked, by that model; without, nothing."""

    seconds: TimeModel | None = None


class OracleAnnotator:
    """Answers every open item from the truth; an item without truth stays open and is counted as refused."""

    def __init__(self, options: Options, context: AnnotatorContext) -> None:
        self.options = options
        self.context = context

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        if self.options.seconds is not None:
            self._note_effort(requests)
        progress(Progress("push", len(requests), len(requests), "to the oracle"))
        return [Receipt(request.item.key, request.item.key) for request in requests]

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:  # noqa: ARG002  # no clock here
        annotations, refused = [], []
        items = self.context.open_items()
        noted = self._noted() if self.options.seconds is not None else {}
        for item in items:
            truth = self.context.truth(item.key)
            if truth is None:
                refused.append(Refusal(item.uri, "no labels are kept aside for it (alpipe import … --as-truth)"))
                continue
            state = AnswerState.EMPTY if is_empty(truth) else AnswerState.LABELLED
            seconds = None
            if self.options.seconds is not None:
                seconds = self.options.seconds.seconds(noted.get(item.key) or effort(truth, None))
            annotations.append(Annotation(item.key, state, truth, "oracle", item.key, lead_time=seconds))
        progress(Progress("pull", len(items), len(items), f"{len(annotations)} answers"))
        return Pulled(tuple(annotations), "", (), tuple(refused))

    def where(self) -> str:
        return "the oracle answers from the labels kept aside; nobody is asked"

    def _note_effort(self, requests: Sequence[LabelRequest]) -> None:
        """What is shown is known only here, and the answers may be asked for by a later run: a file keeps it."""
        noted = self._noted()
        for request in requests:
            truth = self.context.truth(request.item.key)
            if truth is not None:
                shown = None if request.suggestion is None else request.suggestion.labels
                noted[request.item.key] = effort(truth, shown)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(f".{SHOWN}.new")
        temporary.write_text(json.dumps(noted), encoding="utf-8")
        temporary.replace(self._file)

    def _noted(self) -> dict[str, Effort]:
        if not self._file.is_file():
            return {}
        return {key: Effort(*counts) for key, counts in json.loads(self._file.read_text(encoding="utf-8")).items()}

    @property
    def _file(self) -> Path:
        return self.context.folder / SHOWN


def build(options: Options, context: AnnotatorContext) -> OracleAnnotator:
    """The oracle of a project."""
    return OracleAnnotator(options, context)
