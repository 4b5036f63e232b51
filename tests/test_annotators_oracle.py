"""The oracle answers at once and honestly: the truth, or that there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alpipe.annotators import oracle
from alpipe.types import AnswerState, Task
from tests.studio_server import make_case


@pytest.mark.parametrize("task", list(Task))
def test_every_open_item_is_answered_with_its_truth(task: Task, tmp_path: Path) -> None:
    case = make_case(tmp_path / "case", task)
    case.answered.add(case.requests[0].item.key)
    asked = oracle.build(oracle.Options(), case.context)
    asked.push(case.requests)
    pulled = asked.pull(None)
    assert {answer.item_key for answer in pulled.annotations} == set(case.items) - case.answered
    for answer in pulled.annotations:
        assert answer.labels == case.truth[answer.item_key]
        assert answer.state in (AnswerState.LABELLED, AnswerState.EMPTY)
    assert pulled.refused == ()


def test_an_item_without_truth_stays_open_and_is_counted(tmp_path: Path) -> None:
    case = make_case(tmp_path / "case", Task.DETECT)
    missing = case.items[case.requests[2].item.key]
    del case.truth[missing.key]
    pulled = oracle.build(oracle.Options(), case.context).pull(None)
    assert missing.key not in {answer.item_key for answer in pulled.annotations}
    assert [refusal.source for refusal in pulled.refused] == [missing.uri]


def test_the_oracle_needs_no_label_studio() -> None:
    code = "import sys, alpipe.annotators.oracle; sys.exit('label_studio_sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
