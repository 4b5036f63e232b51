"""One push at a time: the next one waits, and says for whom."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from alpipe.annotators.studio.lock import exclusive
from alpipe.protocols import no_progress
from alpipe.types import Progress


def test_a_push_that_waits_says_for_whom_and_goes_on_when_that_one_ends(tmp_path: Path) -> None:
    file, said = tmp_path / "private" / "lock", []
    first = ExitStack()
    first.enter_context(exclusive(file, no_progress))

    def told(now: Progress) -> None:
        said.append(now.detail)
        first.close()  # the other push ends

    with exclusive(file, told, patience=0):
        assert said == [f"waiting for the push of process {os.getpid()} to end ({file})"]
        assert file.read_text() == str(os.getpid()), "one number, for whoever waits next"


def test_who_has_not_to_wait_says_nothing(tmp_path: Path) -> None:
    said: list[Progress] = []
    for _ in range(2):
        with exclusive(tmp_path / "lock", said.append):
            pass
    assert said == []
