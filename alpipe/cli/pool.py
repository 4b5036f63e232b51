"""Commands that inspect the pool: ls, show, top, stats, gallery, hard-negatives, questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alpipe.cli.negatives import hard_negatives
from alpipe.cli.questions import questions

if TYPE_CHECKING:
    from alpipe.project import Project
    from alpipe.types import Item

app = typer.Typer(help="Inspect the pool: what is in it, in which state, and what is hardest.", no_args_is_help=True)
app.command("hard-negatives")(hard_negatives)
app.command()(questions)

JSON = typer.Option(False, "--json", help="Print JSON, for scripts.")
STATE = typer.Option(None, help="Only this state: unlabelled, selected, pushed, labelled, empty, skipped, quarantined.")
HOLDOUT = typer.Option(None, "--holdout/--pool", help="Only the hold-out, or only the pool.")


@app.command()
def ls(
    context: typer.Context,
    state: str | None = STATE,
    holdout: bool | None = HOLDOUT,
    limit: int = typer.Option(50, min=0, help="At most so many; 0 for all."),
    json: bool = JSON,
) -> None:
    """List images.

    Example: alpipe pool ls --state skipped
    """
    from alpipe.cli.display import as_json, say, table
    from alpipe.project import Project

    with Project.open(context.obj) as project:
        items = _chosen(project, state, holdout)
        shown = items[: limit or None]
        rows = [_row(item) for item in shown]
    if json:
        as_json(rows)
        return
    table(rows)
    if len(shown) < len(items):
        say(f"{len(shown)} of {len(items)}; --limit 0 shows all")


@app.command()
def show(
    context: typer.Context, key: str = typer.Argument(..., help="Key, or its first letters."), json: bool = JSON
) -> None:
    """Show all that is known of one image: file, state, answers, scores.

    Example: alpipe pool show 3f2a
    """
    from alpipe import labels
    from alpipe.cli.display import as_json, say
    from alpipe.project import Project
    from alpipe.steps.summary import latest_scan

    with Project.open(context.obj) as project:
        item = _one(project, key)
        store = project.store
        answer = store.annotations.latest(keys=[item.key]).get(item.key)
        facts: dict[str, Any] = {
            **_row(item),
            "paths": store.items.paths(item.key),
            "answer": None
            if answer is None
            else {
                "state": str(answer.state),
                "by": answer.annotator,
                "at": answer.at.isoformat(),
                "lead_time": answer.lead_time,
                "round": answer.round,
                "labels": None if answer.labels is None else labels.to_json(answer.labels),
            },
            "score": None
            if (scan := latest_scan(project)) is None
            else dict(store.scores.of(scan, [item.key])).get(item.key),
        }
    if json:
        as_json(facts)
        return
    for name, value in facts.items():
        say(f"{name}: {value}")


@app.command()
def top(
    context: typer.Context, count: int = typer.Option(20, "-n", min=1, help="How many."), json: bool = JSON
) -> None:
    """List the hardest unlabelled images by the latest scores.

    Example: alpipe pool top -n 10
    """
    from alpipe.cli.display import as_json, say, table
    from alpipe.project import Project
    from alpipe.steps.summary import latest_scan

    with Project.open(context.obj) as project:
        scan = latest_scan(project)
        scores = [] if scan is None else project.store.scores.top(scan, count)
        items = {item.key: item for item in project.store.items.list(keys=[score.key for score in scores])}
        rows = [{"key": s.key, "score": round(s.value, 4), "file": items[s.key].uri} for s in scores]
    if json:
        as_json(rows)
    elif scan is None:
        say("nothing is scored yet: `alpipe run` scores the pool once some images are labelled")
    else:
        table(rows, title=f"by {scan}")


@app.command()
def stats(context: typer.Context, json: bool = JSON) -> None:
    """Count images by state and labels by class; sum up sizes, groups, what labelling cost and what choosing brought.

    Example: alpipe pool stats
    """
    from alpipe.cli.display import as_json, say, table
    from alpipe.project import Project
    from alpipe.steps.summary import pool_stats

    with Project.open(context.obj) as project:
        facts = pool_stats(project)
    if json:
        as_json(facts)
        return
    table([{"split": s, **states} for s, states in facts["states"].items()])
    say("")
    table([{"label": name, **counts} for name, counts in facts["labels"].items()])
    say("")
    for name in ("sizes", "groups"):
        say(f"{name}: {facts[name]}")
    _show_labelling(facts["labelling"])
    if facts["audit"]["rounds"]:
        say("")
        table(facts["audit"]["rounds"], title="errors on chosen and on control images")
        say(facts["audit"]["says"])


@app.command()
def gallery(
    context: typer.Context,
    output: Path = typer.Option(Path("gallery.html"), "-o", "--output", help="HTML file to write."),
    state: str | None = STATE,
    holdout: bool | None = HOLDOUT,
    limit: int = typer.Option(100, min=1, help="At most so many images."),
) -> None:
    """Write an HTML page of thumbnails with their labels.

    Example: alpipe pool gallery --state labelled
    """
    from alpipe.cli.display import say
    from alpipe.project import Project
    from alpipe.steps.reporting import write_gallery

    with Project.open(context.obj) as project:
        items = _chosen(project, state, holdout)[:limit]
        say(f"{len(items)} images drawn in {write_gallery(project, output, items)}")


def _show_labelling(facts: dict[str, Any]) -> None:
    from alpipe.cli.display import say, table

    if facts["rounds"]:
        say("")
        total = [{"round": "all", **row} for row in facts["total"]]
        table(
            [_cost_row(row, "round", "shown") for row in [*facts["rounds"], *total]],
            title="what labelling cost, by round",
        )
    if facts["classes"]:
        say("")
        table([_cost_row(row, "class", "shown") for row in facts["classes"]], title="and by class, of all rounds")
    say("")
    for note in facts["notes"]:
        say(note)


def _cost_row(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Counts with their share of what was suggested."""
    shares = {
        name: f"{row[name]} ({row[name] / row['suggested']:.0%})" if row["suggested"] else "–"
        for name in ("accepted", "moved", "relabelled", "deleted")
    }
    plain = {name: row[name] for name in (*names, "answers", "skipped")}
    times = {"s/image": f"{row['seconds']:.1f}" if row["seconds"] is not None else "–"}
    objects = {"objects/image": f"{row['objects']:.2f}" if row["objects"] is not None else "–"}
    return plain | times | objects | {"suggested": row["suggested"]} | shares | {"added": row["added"]}


def _chosen(project: Project, state: str | None, holdout: bool | None) -> list[Item]:
    from alpipe.errors import ConfigError
    from alpipe.types import ItemState, Split

    if state is not None and state not in list(ItemState):
        raise ConfigError(f"unknown state {state!r}; the states are {', '.join(ItemState)}")
    split = None if holdout is None else Split.HOLDOUT if holdout else Split.POOL
    return project.store.items.list(states=None if state is None else [ItemState(state)], split=split)


def _row(item: Item) -> dict[str, Any]:
    return {
        "key": item.key,
        "state": str(item.state),
        "split": str(item.split),
        "size": f"{item.width}×{item.height}",
        "group": item.group,
        "file": item.uri,
    }


def _one(project: Project, start: str) -> Item:
    """The item whose key begins so. Raises DataError for none or several."""
    from alpipe.errors import DataError

    found = [item for item in project.store.items.iterate() if item.key.startswith(start)]
    if len(found) != 1:
        known = "no image" if not found else f"{len(found)} images"
        raise DataError(f"{known} with a key that begins with {start!r}; `alpipe pool ls` lists the keys")
    return found[0]
