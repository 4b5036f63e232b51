"""What hard negatives and images without object do to a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpipe.learners.classification import objective as classification
from alpipe.learners.detection.negatives import focus
from alpipe.learners.detection.regions import Drawing, draw
from alpipe.learners.segmentation.labelled import gather
from alpipe.learners.segmentation.objective import MapObjective
from alpipe.learners.segmentation.sampling import PartSampler
from alpipe.learners.training.augment import Augmentation, Augmenter
from alpipe.learners.training.negatives import MORE_OFTEN, chances, is_hard
from alpipe.types import Negative, Task
from tests.test_learners import CLASSES, Bench

CPU = torch.device("cpu")


@given(
    st.lists(st.tuples(st.floats(0.5, 3), st.booleans(), st.booleans()), min_size=1, max_size=12),
    st.one_of(st.just("auto"), st.floats(0, 0.9)),
)
def test_images_without_object_have_their_share_and_the_rest_keep_their_proportions(images, share):
    factors, hard, empty = (np.array(column) for column in zip(*images, strict=True))
    made = chances(factors.astype(float), hard.astype(bool), empty.astype(bool), share)
    assert made.sum() == pytest.approx(1)
    plain = factors * np.where(hard, MORE_OFTEN, 1)
    for side in (empty, ~empty):
        if side.any() and made[side].sum() > 0:
            np.testing.assert_allclose(made[side] / made[side].sum(), plain[side] / plain[side].sum())
    if share != "auto" and empty.any() and not empty.all():
        assert made[empty].sum() == pytest.approx(share)
    else:
        np.testing.assert_allclose(made, plain / plain.sum())


def test_places_in_a_hard_negative_weigh_more_but_those_that_learn_an_object_in_it():
    centres = torch.tensor([[5.0, 5.0], [15.0, 5.0], [25.0, 5.0]])
    negatives = torch.tensor([[0.0, 0.0, 20.0, 10.0]])
    weights = focus(centres, negatives, torch.tensor([False, True, False]), 3.0)
    assert weights.tolist() == [3, 1, 1]
    assert focus(centres, torch.zeros(0, 4), torch.zeros(3, dtype=torch.bool), 3.0).tolist() == [1, 1, 1]


def test_of_a_false_region_of_a_mask_only_the_background_weighs_more(tmp_path: Path):
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    example = bench.example(0, "red", (64, 48))
    whole = Negative(example.item.key, (0, 0, 64, 48), "blue", 0.9, 0.0)
    labelled, none = gather([example], [whole], CLASSES, 512), gather([], [], CLASSES, 512)
    sampler, augmenter = PartSampler(labelled, 2, 64, 0.0), Augmenter(Augmentation(), (48, 64))
    batch = MapObjective(sampler, augmenter, none, 64, 4, 2, 3.0, CPU).batch(np.random.default_rng(0))
    assert (batch.maps > 0).any()
    np.testing.assert_array_equal(batch.focus, np.where(batch.maps == 0, 3, 1))


def test_of_a_large_image_a_quarter_of_the_parts_show_a_hard_negative(tmp_path: Path):
    bench = Bench("unetpp", Task.SEGMENT, tmp_path)
    example = bench.example(0, None, (800, 600))
    negative = Negative(example.item.key, (700, 500, 720, 520), "red", 0.9, 0.0)
    sampler = PartSampler(gather([example], [negative], CLASSES, 1000), 2, 50, 0.0)
    rng = np.random.default_rng(0)
    shown = np.mean([len(sampler.draw(rng)[2]) for _ in range(400)])
    assert shown == pytest.approx(0.25, abs=0.07)


def test_images_that_were_taken_for_another_class_are_drawn_more_often_and_classes_as_often_as_before(tmp_path: Path):
    bench = Bench("cnn", Task.CLASSIFY, tmp_path)
    examples = [bench.example(number, "red", (16, 16)) for number in range(4)]
    examples += [bench.example(9, "blue", (16, 16))]
    wrong = Negative(examples[0].item.key, (0, 0, 16, 16), "blue", 0.9, 0.0)
    hard = is_hard([one.item for one in examples], [wrong])
    assert hard.tolist() == [True, False, False, False, False]
    labelled, none = classification.gather(examples, CLASSES, 16), classification.gather([], CLASSES, 16)
    made = classification.ClassObjective(labelled, none, Augmentation(), 2, 16, 0.0, CPU, hard, 3.0)
    np.testing.assert_allclose(made._chances, [0.25, 1 / 12, 1 / 12, 1 / 12, 0.5])


def test_the_regions_of_the_bank_are_what_the_sliding_classifier_learns_as_background():
    """As in the tutorial: a region that overlaps a true box by 0.5 is an object, whatever it is in the bank."""
    true = np.array([[0, 0, 20, 20]], np.float32)
    bank = np.array([[60, 40, 80, 60]], np.float32)
    how = Drawing(np.array([[20, 20]], np.float32), 0.5, 1.0, np.ones(1, np.float32))
    for negatives, expected in ((bank, 0), (true, 1)):
        regions = draw(true, np.zeros(1, np.int64), negatives, (96, 72), 16, how, np.random.default_rng(0))
        assert (regions.class_index == expected).all()
