"""What labelling costs: regions drawn and checked, and the seconds of the stated model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alpipe import rle
from alpipe.annotators import oracle
from alpipe.effort import Effort, TimeModel, effort, regions
from alpipe.types import Boxes, ImageClass, Labels, Masks, Suggestion, Task
from tests.studio_server import make_case


def boxes(*corners: tuple[float, float, float, float], names: str = "") -> Boxes:
    return Boxes(np.asarray(corners, np.float32), tuple(names or "a" * len(corners)))


def masks(*squares: tuple[int, int, int]) -> Masks:
    image = np.zeros((40, 40), np.uint8)
    for y, x, side in squares:
        image[y : y + side, x : x + side] = 1
    return Masks({"a": rle.encode(image)})


A, B, NEAR_A = (0.0, 0.0, 20.0, 20.0), (30.0, 30.0, 40.0, 40.0), (0.0, 0.0, 20.0, 18.0)


@pytest.mark.parametrize(
    ("truth", "shown", "expected"),
    [
        (boxes(A, B), None, Effort(2, 0)),
        (boxes(A, B), boxes(NEAR_A), Effort(1, 1)),
        (boxes(A, B), boxes(NEAR_A, B), Effort(0, 2)),
        (boxes(A), boxes(A, names="b"), Effort(1, 1)),
        (Boxes.none(), boxes(A), Effort(0, 1)),
        (boxes(A), boxes(A, NEAR_A), Effort(0, 2)),
        (masks((0, 0, 10), (20, 20, 10)), None, Effort(2, 0)),
        (masks((0, 0, 10), (20, 20, 10)), masks((0, 0, 10)), Effort(1, 1)),
        (masks((0, 0, 10)), masks((0, 0, 4), (30, 30, 5)), Effort(1, 2)),
        (Masks({}), masks((0, 0, 4)), Effort(0, 1)),
        (ImageClass("a"), ImageClass("a"), Effort(0, 1)),
        (ImageClass("a"), ImageClass("b"), Effort(1, 1)),
    ],
)
def test_effort_is_what_is_drawn_and_what_is_checked(truth: Labels, shown: Labels | None, expected: Effort) -> None:
    assert effort(truth, shown) == expected


def test_regions_count_objects() -> None:
    assert [regions(labels) for labels in (ImageClass("a"), boxes(A, B), masks((0, 0, 3), (9, 9, 3)))] == [1, 2, 2]


def test_seconds_add_up() -> None:
    assert TimeModel(image=1, drawn=10, checked=2).seconds(Effort(3, 4)) == 1 + 30 + 8


def test_the_oracle_says_how_long_a_person_would_have_worked_with_what_was_shown(tmp_path: Path) -> None:
    case = make_case(tmp_path / "case", Task.DETECT)
    truth = {request.item.key: case.truth[request.item.key] for request in case.requests}
    requests = [
        type(request)(request.item, 0, "", None, Suggestion(truth[request.item.key], (), "m") if at == 0 else None)
        for at, request in enumerate(case.requests)
    ]
    model = TimeModel(image=1, drawn=10, checked=2)
    oracle.build(oracle.Options(seconds=model), case.context).push(requests)
    pulled = oracle.build(oracle.Options(seconds=model), case.context).pull(None)  # another run, later
    for answer in pulled.annotations:
        count = regions(truth[answer.item_key])
        each = 2 if answer.item_key == requests[0].item.key else 10
        assert answer.lead_time == 1 + each * count
