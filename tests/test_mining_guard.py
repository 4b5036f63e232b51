"""The guard: which mistakes may be objects that nobody marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alpipe import images, rle
from alpipe.errors import DataError
from alpipe.mining.guard import back, doubtful, shown, sure_from
from alpipe.mining.options import MiningOptions, View
from alpipe.types import Boxes, BoxPrediction, Example, Item, MapPrediction, Masks, Negative, Prediction, Task
from tests.test_mining import CLASSES, predicted

OPTIONS = MiningOptions()
TRUE = ((10, 10, 30, 30), (60, 40, 82, 60))


def labelled(folder: Path, *true: tuple[float, ...]) -> Example:
    """An image of 100×80, black but for a white square at (40, 20) that nobody marked."""
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:40, 40:60] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    labels = Boxes(np.array(true, np.float32).reshape(-1, 4), ("cat",) * len(true))
    return Example(Item("a", str(folder / "a.png"), 100, 80), labels)


def see_white(items: Sequence[Item], name: int = 0, score: float = 0.9) -> list[Prediction]:
    """A model that finds what is white, wherever it is."""
    made: list[Prediction] = []
    for item in items:
        rows, columns = np.nonzero(images.read(item.path)[..., 0] > 128)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        made.append(predicted(item.key, [box], [score], [name]))
    return made


WHITE = Negative("a", (40.0, 20.0, 60.0, 40.0), "cat", 0.9, 0.0)


SURE = 0.5


def doubts(folder: Path, negative: Negative = WHITE, *, true=TRUE, options=OPTIONS, view=View.FLIP, see=see_white):
    truths = {"a": labelled(folder, *true)}
    return doubtful(Task.DETECT, [negative], truths, see, CLASSES, options, view, SURE)


@pytest.mark.parametrize("view", list(View))
def test_what_is_found_again_in_the_other_view_is_asked_about_with_the_reason(tmp_path: Path, view: View) -> None:
    how = {"flip": "mirrored", "shrink": "smaller"}[view]
    assert doubts(tmp_path, view=view) == {
        WHITE: f"sure of it (0.90), again in the {how} image (0.90), and of the size of a cat"
    }


def test_each_condition_alone_is_not_enough(tmp_path: Path) -> None:
    assert doubts(tmp_path, replace(WHITE, score=0.4)) == {}
    assert doubts(tmp_path, replace(WHITE, box=(40.0, 20.0, 48.0, 28.0))) == {}  # smaller than any true one
    assert doubts(tmp_path, replace(WHITE, name="dog")) == {}  # there is no true dog to compare with
    assert doubts(tmp_path, replace(WHITE, box=(0.0, 60.0, 20.0, 80.0))) == {}  # not found again
    assert doubts(tmp_path, see=lambda items: see_white(items, name=1)) == {}
    assert doubts(tmp_path, see=lambda items: see_white(items, score=0.4)) == {}


def test_how_sure_is_sure_is_told_by_the_labels_unless_the_options_say_it(tmp_path: Path) -> None:
    faint, at = replace(WHITE, score=0.35), MiningOptions(guard_score=0.3)
    assert doubts(tmp_path, faint, see=lambda items: see_white(items, score=0.35)) == {}
    assert list(doubts(tmp_path, faint, options=at, see=lambda items: see_white(items, score=0.35))) == [faint]
    assert sure_from(at, 0.9) == 0.3
    assert sure_from(MiningOptions(), 0.9) == 0.9


def test_exhaustive_labels_and_images_that_a_person_found_empty_raise_no_question(tmp_path: Path) -> None:
    assert doubts(tmp_path, options=MiningOptions(exhaustive=True)) == {}
    assert doubts(tmp_path, true=()) == {}


def test_only_images_with_a_candidate_are_looked_at_again(tmp_path: Path) -> None:
    asked: list[Item] = []

    def see(items: Sequence[Item]) -> list[Prediction]:
        asked.extend(items)
        return see_white(items)

    doubts(tmp_path, replace(WHITE, score=0.4), see=see)
    assert asked == []
    doubts(tmp_path, see=see)
    assert [item.key for item in asked] == ["a"]
    assert not Path(asked[0].uri).exists()  # the other view is gone again


def test_regions_of_masks_are_asked_about_too(tmp_path: Path) -> None:
    item = labelled(tmp_path).item
    mask = np.zeros((80, 100), np.uint8)
    mask[50:70, 5:25] = 1

    def see(items: Sequence[Item]) -> list[Prediction]:
        made: list[Prediction] = []
        for other in items:
            white = (images.read(other.path)[..., 0] > 128).astype(np.float32) * 0.9
            probs = np.stack([1 - white, white, np.zeros_like(white)])
            made.append(MapPrediction(other.key, probs, (other.width, other.height)))
        return made

    truths = {"a": Example(item, Masks({"cat": rle.encode(mask)}))}
    assert list(doubtful(Task.SEGMENT, [WHITE], truths, see, CLASSES, OPTIONS, View.FLIP, SURE)) == [WHITE]


@given(st.integers(5, 400), st.integers(5, 400), st.sampled_from(list(View)), st.integers(0, 99))
def test_boxes_come_back_to_where_they_are_in_the_image(width: int, height: int, view: View, seed: int) -> None:
    item = Item("a", "a.png", width, height)
    corners = np.sort(np.random.default_rng(seed).uniform(0, [[width, height]] * 2, (2, 2)), axis=0)
    box = np.hstack(corners)[None].astype(np.float32)
    if view is View.FLIP:
        there = np.array([[width - box[0, 2], box[0, 1], width - box[0, 0], box[0, 3]]], np.float32)
    else:
        there = box * np.array([round(width * 0.8) / width, round(height * 0.8) / height] * 2, np.float32)
    np.testing.assert_allclose(back(there, item, view), box, atol=1e-3)


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    item = replace(labelled(tmp_path).item, uri=str(tmp_path / "gone.png"))
    with pytest.raises(DataError, match=r"gone\.png"):
        shown(item, View.FLIP, tmp_path)


def test_the_other_view_is_the_image_itself_turned_over(tmp_path: Path) -> None:
    item = labelled(tmp_path).item
    (tmp_path / "views").mkdir()
    other = shown(item, View.FLIP, tmp_path / "views")
    assert np.array_equal(images.read(other.path), images.read(item.path)[:, ::-1])
    assert isinstance(see_white([other])[0], BoxPrediction)


def test_the_smaller_view_is_smaller_for_a_network_that_scales_all_images_to_one_size(tmp_path: Path) -> None:
    """The image keeps its size and what is in it shrinks, towards the upper left; around it is the mean colour."""
    item = labelled(tmp_path).item
    other = shown(item, View.SHRINK, tmp_path)
    assert (other.width, other.height) == (item.width, item.height)
    pixels = images.read(other.path)
    assert pixels.shape == (80, 100, 3)
    rows, columns = np.nonzero(pixels[..., 0] > 128)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (32, 16, 48, 32)
    assert (pixels[64:] == round(255 * 400 / 8000)).all()


def test_views_of_large_images_lie_on_disk_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alpipe.mining.guard.PIXELS_AT_ONCE", 20_000)
    truths = {}
    for key in "abcde":
        (tmp_path / key).mkdir()
        one = labelled(tmp_path / key, *TRUE)
        truths[key] = replace(one, item=replace(one.item, key=key))
    together: list[int] = []

    def see(items: Sequence[Item]) -> list[Prediction]:
        together.append(len(list(Path(items[0].uri).parent.iterdir())))
        return see_white(items)

    negatives = [replace(WHITE, item_key=key) for key in truths]
    found = doubtful(Task.DETECT, negatives, truths, see, CLASSES, OPTIONS, View.FLIP, SURE)
    assert [one.item_key for one in found] == [*"abcde"]
    assert together == [2, 2, 1]
