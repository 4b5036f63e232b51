"""Questions about labels: `alpipe check-labels` finds them, `alpipe pool questions` lists them."""

from __future__ import annotations

import typer

JSON = typer.Option(False, "--json", help="Print JSON, for scripts.")


def check_labels(
    context: typer.Context,
    folds: int = typer.Option(
        3, min=2, help="Models to train, each on all labelled images but one part, which it then judges."
    ),
) -> None:
    """Find labels that are likely wrong, by cross-validation: each is judged by a model that has not seen it.

    Costs about as many trainings as there are folds; stopped, the same command goes on. What it finds is put to people.

    Example: alpipe check-labels --folds 5   (then `alpipe pool questions`; `alpipe run` puts them to people)
    """
    from alpipe.cli.display import progress, say
    from alpipe.project import Project, check_plugins
    from alpipe.steps.label_check import check_labels as check

    with Project.open(context.obj) as project, progress() as show:
        check_plugins(project.config)
        say(check(project, folds, show))


def questions(
    context: typer.Context,
    state: str | None = typer.Option(
        None, help="Only this state: open, asked, right, wrong, unsure, stale. Default: open and asked."
    ),
    limit: int = typer.Option(50, min=0, help="At most so many in the table; 0 for all."),
    json: bool = JSON,
) -> None:
    """List labels that the model contradicts, the likeliest errors first, and what people said to them.

    Example: alpipe pool questions --state wrong
    """
    from alpipe.cli.display import as_json, say, table
    from alpipe.errors import ConfigError
    from alpipe.project import Project
    from alpipe.steps import review
    from alpipe.types import QuestionState

    if state is not None and state not in list(QuestionState):
        raise ConfigError(f"unknown state {state!r}; the states are {', '.join(QuestionState)}")
    waiting = [QuestionState.OPEN, QuestionState.ASKED]
    with Project.open(context.obj) as project:
        project.store.questions.outdate()
        rows = review.rows(project.store.questions.list(waiting if state is None else [QuestionState(state)]))
    if json:
        as_json(rows)
        return
    shown = rows[: limit or None]
    table([{name: row[name] for name in ("key", "kind", "score", "state", "reason", "file")} for row in shown])
    if len(shown) < len(rows):
        say(f"{len(shown)} of {len(rows)}; --limit 0 shows all")
