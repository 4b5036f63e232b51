"""The built-in data: what is said of an image is what is in it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from alpipe import boxes as box_arithmetic
from alpipe import images, rle
from alpipe.datasets import digits
from alpipe.errors import ConfigError
from alpipe.types import Boxes, ImageClass, Masks, Task, is_empty

COUNT = 60


@pytest.fixture(scope="module", params=list(Task))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    task = request.param
    return task, digits.make(tmp_path_factory.mktemp(task), task=task, count=COUNT)


def _hashes(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        digits.make(tmp_path / name, count=12, seed=seed)
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
    assert not set(_hashes(tmp_path / "a")) & set(_hashes(tmp_path / "c"))


def test_a_larger_count_begins_with_the_images_of_a_smaller_one(tmp_path):
    digits.make(tmp_path / "few", count=6)
    digits.make(tmp_path / "more", count=9)
    assert _hashes(tmp_path / "more")[:6] == _hashes(tmp_path / "few")


def test_no_two_images_are_the_same(made):
    _, given = made
    assert len(set(_hashes(given[0].path.parent))) == COUNT


def test_boxes_lie_in_the_image_and_hardly_overlap(made):
    _, given = made
    for image in given:
        height, width = images.read(image.path).shape[:2]
        xyxy = image.boxes.xyxy
        assert (xyxy >= 0).all()
        assert (xyxy[:, 2:] <= (width, height)).all()
        overlaps = box_arithmetic.iou(xyxy, xyxy)
        np.fill_diagonal(overlaps, 0)
        assert (overlaps < digits.MOST_OVERLAP).all()


def test_boxes_are_tight_around_the_ink(made):
    """Each edge of a box touches ink of its class, and all ink of a class lies in the boxes of that class."""
    _, given = made
    for image in given:
        ink = {name: rle.decode(mask) > 0 for name, mask in image.masks.by_name.items()}
        assert set(ink) == set(image.boxes.names)
        covered = {name: np.zeros_like(mask) for name, mask in ink.items()}
        for (x1, y1, x2, y2), name in zip(image.boxes.xyxy.astype(int), image.boxes.names, strict=True):
            inside = ink[name][y1:y2, x1:x2]
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            covered[name][y1:y2, x1:x2] = True
        for name, mask in ink.items():
            assert not (mask & ~covered[name]).any()


def test_ink_can_be_seen(made):
    """The ink of nearly every digit differs in brightness from what is around it."""
    _, given = made
    contrasts = []
    for image in given:
        grey = images.read(image.path).mean(axis=2)
        inked = np.zeros(grey.shape, bool)
        for mask in image.masks.by_name.values():
            inked |= rle.decode(mask) > 0
        for x1, y1, x2, y2 in image.boxes.xyxy.astype(int):
            patch, ink = grey[y1:y2, x1:x2], inked[y1:y2, x1:x2]
            contrasts.append(abs(patch[ink].mean() - patch[~ink].mean()))
    assert np.mean(np.asarray(contrasts) > 10) > 0.9


def test_labels_are_of_the_task_and_name_its_classes_only(made):
    task, given = made
    kinds = {Task.DETECT: Boxes, Task.SEGMENT: Masks, Task.CLASSIFY: ImageClass}
    for image in given:
        match labels := digits.labels_for(image, task):
            case ImageClass(name=name):
                names = {name}
            case Boxes(names=box_names):
                names = set(box_names)
            case Masks(by_name=by_name):
                names = set(by_name)
        assert isinstance(labels, kinds[task])
        assert names <= set(digits.CLASSES[task])


def test_a_mask_of_the_task_is_all_ink_of_the_image(made):
    _, given = made
    for image in given:
        labels = digits.labels_for(image, Task.SEGMENT)
        areas = [rle.area(mask) for mask in image.masks.by_name.values()]
        assert sum(areas) == sum(rle.area(mask) for mask in labels.by_name.values())


def test_the_pool_has_images_without_digits_and_a_rare_class(tmp_path):
    given = digits.make(tmp_path, task=Task.DETECT, count=200)
    empty = np.mean([is_empty(image.boxes) for image in given])
    assert 0.12 < empty < 0.32
    names = [name for image in given for name in image.boxes.names]
    shares = sorted(names.count(name) / len(names) for name in digits.CLASSES[Task.DETECT])
    assert 0 < shares[0] < 0.22 < 0.4 < shares[-1]
    assert max(len(image.boxes.names) for image in given) <= 4


def test_the_holdout_has_its_share_and_its_own_digits_and_photographs(made):
    _, given = made
    assert sum(image.holdout for image in given) == COUNT // 5
    pool, holdout = digits._sources(False), digits._sources(True)
    for name in pool:
        ours = {digit.tobytes() for digit in pool[name]}
        assert not ours & {digit.tobytes() for digit in holdout[name]}
    for ours, theirs in zip(digits._photographs(False), digits._photographs(True), strict=True):
        assert ours.shape[1] + theirs.shape[1] == 640


def test_an_image_without_one_digit_has_no_class(tmp_path):
    empty = next(image for image in digits.make(tmp_path, count=20) if is_empty(image.boxes))
    with pytest.raises(ConfigError, match=empty.path.name):
        digits.labels_for(empty, Task.CLASSIFY)


@pytest.mark.parametrize("wrong", [{"count": -1}, {"size": 8}, {"holdout_share": 1.0}])
def test_a_wrong_request_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="demo data"):
        digits.make(tmp_path, **wrong)


def test_progress_is_told_of_every_image(tmp_path):
    seen = []
    digits.make(tmp_path, count=3, progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(1, 3), (2, 3), (3, 3)]
