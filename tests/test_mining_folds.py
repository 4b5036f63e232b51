"""Parts of the labelled images, of which each is judged by a model trained on the others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpipe.errors import DataError
from alpipe.mining import folds
from alpipe.types import Boxes, Example, ImageClass, Item

GROUPS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["cat", "dog"])), min_size=30, max_size=60)


def example(at: int, name: str, group: str | None = None) -> Example:
    return Example(Item(f"{at:04d}", "/x.png", 8, 8, group=group), ImageClass(name))


@given(GROUPS, st.integers(0, 3))
def test_every_image_is_in_one_part_and_groups_are_whole(drawn: list[tuple[str, str]], seed: int) -> None:
    examples = [example(at, name, group) for at, (group, name) in enumerate(drawn)]
    count = min(3, len({group for group, _ in drawn}))
    parts = folds.split(examples, count, seed)
    assert len(parts) == count
    assert all(parts)
    assert Counter(one.item.key for part in parts for one in part) == Counter(one.item.key for one in examples)
    held = [{one.item.group for one in part} for part in parts]
    assert sum(map(len, held)) == len(set().union(*held))


def test_the_same_seed_gives_the_same_parts_in_whatever_order_the_images_come() -> None:
    examples = [example(at, "cat") for at in range(20)]
    keys = [[one.item.key for one in part] for part in folds.split(examples, 4, 0)]
    assert keys == [[one.item.key for one in part] for part in folds.split(examples[::-1], 4, 0)]
    assert keys != [[one.item.key for one in part] for part in folds.split(examples, 4, 1)]


def test_parts_are_of_about_equal_size_and_a_rare_class_is_in_each() -> None:
    examples = [example(at, "rare" if at < 3 else "cat") for at in range(40)]
    parts = folds.split(examples, 3, 0)
    assert [sum(folds.names_of(one) == ("rare",) for one in part) for part in parts] == [1, 1, 1]
    assert {len(part) for part in parts} <= {13, 14}


def test_images_without_an_object_are_spread_too() -> None:
    examples = [Example(Item(f"{at:04d}", "/x.png", 8, 8), Boxes.none()) for at in range(6)]
    box = np.array([[0, 0, 4, 4]], np.float32)
    examples += [Example(Item(f"{at:04d}", "/x.png", 8, 8), Boxes(box, ("cat",))) for at in range(6, 12)]
    parts = folds.split(examples, 3, 0)
    assert [sum(not folds.names_of(one) for one in part) for part in parts] == [2, 2, 2]


def test_fewer_groups_than_folds_are_refused() -> None:
    with pytest.raises(DataError, match="2 labelled groups, which are kept whole: too few for 3 folds"):
        folds.split([example(at, "cat", "ab"[at % 2]) for at in range(8)], 3, 0)
    with pytest.raises(DataError, match="2 labelled images: too few"):
        folds.split([example(at, "cat") for at in range(2)], 3, 0)
