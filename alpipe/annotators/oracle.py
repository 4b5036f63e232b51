"""Nobody is asked: what was pushed is answered at once from the labels kept aside as the truth."""

from __future__ import annotations

from collections.abc import Sequence

from alpipe.protocols import AnnotatorContext, PluginOptions, ProgressCallback, no_progress
from alpipe.types import Annotation, AnswerState, LabelRequest, Progress, Pulled, Receipt, Refusal, Task, is_empty

TASKS = frozenset(Task)


class Options(PluginOptions):
    """The oracle has none."""


class OracleAnnotator:
    """Answers every open item from the truth; an item without truth stays open and is counted as refused."""

    def __init__(self, context: AnnotatorContext) -> None:
        self.context = context

    def push(self, requests: Sequence[LabelRequest], progress: ProgressCallback = no_progress) -> list[Receipt]:
        progress(Progress("push", len(requests), len(requests), "to the oracle"))
        return [Receipt(request.item.key, request.item.key) for request in requests]

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:  # noqa: ARG002  # no clock here
        annotations, refused = [], []
        items = self.context.open_items()
        for item in items:
            truth = self.context.truth(item.key)
            if truth is None:
                refused.append(Refusal(item.uri, "no labels are kept aside for it (alpipe import … --as-truth)"))
                continue
            state = AnswerState.EMPTY if is_empty(truth) else AnswerState.LABELLED
            annotations.append(Annotation(item.key, state, truth, "oracle", item.key))
        progress(Progress("pull", len(items), len(items), f"{len(annotations)} answers"))
        return Pulled(tuple(annotations), "", (), tuple(refused))

    def where(self) -> str:
        return "the oracle answers from the labels kept aside; nobody is asked"


def build(options: Options, context: AnnotatorContext) -> OracleAnnotator:  # noqa: ARG001  # there are none
    """The oracle of a project."""
    return OracleAnnotator(context)
