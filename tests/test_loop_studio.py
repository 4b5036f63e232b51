"""The loop through a real Label Studio: a robot answers, or nobody does."""

from __future__ import annotations

import pytest

from alpipe.annotators.studio.server import Server
from alpipe.loop import advance, single
from alpipe.steps.labelling import labelling
from alpipe.steps.summary import round_rows, status
from alpipe.types import ItemState, Split, Task
from tests.conftest import MakeProject

pytestmark = pytest.mark.server


@pytest.mark.parametrize("task", list(Task))
def test_two_rounds_answered_by_the_robot(
    make_project: MakeProject,
    label_studio: Server,
    task: Task,
) -> None:
    project = make_project(
        task, name=f"robot {task}", annotator={"name": "robot", "home": str(label_studio.home), "skip_share": 0.0}
    )
    result = advance(project, rounds=2)
    assert result.waiting_for is None
    assert [row["answered"] for row in round_rows(project)] == [4, 4, 0]
    assert round_rows(project)[-1]["labelled"] == 8
    for answer in project.store.annotations.latest(split=Split.POOL).values():
        assert answer.annotator.startswith("labelstudio")
        assert answer.lead_time is not None
    cost = labelling(project)
    assert (cost["answers"], cost["timed"], cost["skipped"]) == (8, 8, 0)
    assert sum(row["answers"] for row in cost["rounds"]) == 8
    assert all(row["unknown"] == 0 for row in cost["rounds"])


def test_people_are_waited_for_and_nothing_is_sent_twice(
    make_project: MakeProject,
    label_studio: Server,
) -> None:
    project = make_project(
        Task.DETECT, name="people", annotator={"name": "labelstudio", "home": str(label_studio.home)}
    )
    first = advance(project)
    assert f"{label_studio.url}/projects/" in str(first.waiting_for)
    sent = {item.key: project.store.tasks.get(item.key) for item in project.store.items.list(states=ItemState.PUSHED)}
    assert len(sent) == 4
    assert "4 tasks pushed" in single(project, "push")
    again = advance(project)
    assert again.done == ()
    assert again.waiting_for == first.waiting_for == status(project)["waiting_for"]
    for key, task in sent.items():
        now = project.store.tasks.get(key)
        assert now is not None
        assert task is not None
        assert now.external_id == task.external_id
