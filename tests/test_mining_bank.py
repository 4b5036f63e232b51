"""What becomes of the bank when a new model looks at the labelled images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpipe import rle
from alpipe.mining.hard import MiningOptions, mine, still_negative
from alpipe.types import BankEntry, Boxes, ClassPrediction, Example, ImageClass, Masks, Negative, NegativeState, Task
from tests.test_mining import CLASSES, example, map_of, predicted, true_boxes, truths

MANY = MiningOptions(ratio=1000, per_image=1000, patience=1)
HARD, QUESTION, CONFIRMED, OBJECT = (
    NegativeState.HARD,
    NegativeState.QUESTION,
    NegativeState.CONFIRMED,
    NegativeState.OBJECT,
)


def entry(left: float, name: str = "cat", state: NegativeState = HARD, key: str = "a", score: float = 0.9) -> BankEntry:
    box = (left, 0.0, left + 10.0, 10.0)
    return BankEntry(f"{left:g}", Negative(key, box, name, score, 0.0), 1, "m1", state, score, 1)


def found(*rows: tuple[float, float, int]):
    """A prediction of boxes 10 pixels wide at (left, score, class)."""
    xyxy = [[left, 0, left + 10, 10] for left, _, _ in rows]
    return predicted("a", xyxy, [score for _, score, _ in rows], [index for _, _, index in rows])


EMPTY = truths(example("a", Boxes.none()))


def test_what_the_new_model_no_longer_falls_for_is_evicted_and_the_rest_scored_anew():
    bank = [entry(0), entry(20), entry(40)]
    mined = mine(Task.DETECT, [found((1, 0.8, 0), (20, 0.2, 0))], EMPTY, CLASSES, MANY, bank, 2)
    assert mined.new == []
    assert mined.scores == {"0": pytest.approx(0.8), "20": pytest.approx(0.2), "40": 0}
    assert mined.evicted == ["20", "40"]


def test_a_region_of_the_bank_is_not_found_again_but_another_class_there_is():
    mined = mine(Task.DETECT, [found((1, 0.8, 0))], EMPTY, CLASSES, MANY, [entry(0)], 2)
    assert mined.new == []
    mined = mine(Task.DETECT, [found((1, 0.8, 1))], EMPTY, CLASSES, MANY, [entry(0)], 2)
    assert ([one.name for one in mined.new], mined.evicted) == (["dog"], ["0"])


@pytest.mark.parametrize("state", [QUESTION, CONFIRMED, OBJECT])
def test_a_region_that_people_were_asked_about_is_never_found_again_whatever_the_class(state: NegativeState):
    mined = mine(Task.DETECT, [found((1, 0.8, 1), (50, 0.9, 1))], EMPTY, CLASSES, MANY, [entry(0, state=state)])
    assert [one.box[0] for one in mined.new] == [50]
    assert mined.evicted == []


def test_harder_ones_take_the_place_of_easier_ones_and_what_a_person_confirmed_stays():
    bank = [entry(0, score=0.5), entry(20, score=0.4), entry(40, state=CONFIRMED)]
    options = MiningOptions(per_image=2)
    prediction = found((0, 0.5, 0), (20, 0.4, 0), (40, 0.0, 0), (60, 0.7, 0), (80, 0.45, 0))
    mined = mine(Task.DETECT, [prediction], EMPTY, CLASSES, options, bank, 2)
    assert [one.box[0] for one in mined.new] == [60]
    assert mined.evicted == ["0", "20"]


def test_what_was_hard_keeps_its_place_as_it_is_easy_because_the_model_learnt_it():
    """Else the next model, which does not learn it, falls for it again."""
    options = MiningOptions(per_image=1, patience=3)
    learnt = mine(Task.DETECT, [found((0, 0.05, 0), (60, 0.7, 0))], EMPTY, CLASSES, options, [entry(0, score=0.9)], 2)
    assert (learnt.new, learnt.evicted) == ([], [])
    assert learnt.scores == {"0": pytest.approx(0.05)}


def test_a_class_has_room_of_its_own():
    prediction = found((0, 0.9, 0), (20, 0.8, 0), (40, 0.5, 1))
    mined = mine(Task.DETECT, [prediction], EMPTY, CLASSES, MiningOptions(per_class=1), [])
    assert [(one.name, one.box[0]) for one in mined.new] == [("cat", 0), ("dog", 40)]


def test_an_image_whose_class_is_right_by_now_is_easy():
    known = BankEntry("w", Negative("a", (0, 0, 100, 80), "dog", 0.9, 0.0), 1, "m", HARD, 0.9, 1)
    given_truths = truths(example("a", ImageClass("cat")))
    for probs, evicted in (((0.9, 0.1), ["w"]), ((0.3, 0.7), [])):
        prediction = ClassPrediction("a", np.array(probs, np.float32))
        mined = mine(Task.CLASSIFY, [prediction], given_truths, CLASSES, MANY, [known], 2)
        assert (mined.new, mined.evicted) == ([], evicted)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1, width=32), st.integers(0, 1)), max_size=8), st.integers(0, 99)
)
def test_mining_again_with_the_same_model_finds_nothing_new_and_evicts_nothing(rows, seed):
    prediction = found(*((place * 11.0, score, index) for place, score, index in rows))
    options = MiningOptions(per_image=3)
    first = mine(Task.DETECT, [prediction], EMPTY, CLASSES, options, [])
    bank = [BankEntry(str(at), one, 1, "m", HARD, one.score, 1) for at, one in enumerate(first.new)]
    again = mine(Task.DETECT, [prediction], EMPTY, CLASSES, options, bank, 2)
    assert again.new == []
    assert again.evicted == []
    assert all(again.scores[known.key] >= known.score for known in bank)


def test_it_is_let_go_after_so_many_models_in_a_row_that_no_longer_fall_for_it():
    options = MiningOptions(patience=3)
    nothing, again = found((0, 0.1, 0)), found((0, 0.8, 0))
    for round_, prediction, evicted in ((2, nothing, []), (3, nothing, []), (4, nothing, ["0"]), (4, again, [])):
        mined = mine(Task.DETECT, [prediction], EMPTY, CLASSES, options, [entry(0)], round_)
        assert (mined.evicted, mined.still_hard) == (evicted, ["0"] if prediction is again else [])


def boxed(key: str, box: tuple[float, float, float, float]) -> Negative:
    return Negative(key, box, "cat", 0.9, 0.0)


def test_what_the_labels_contradict_by_now_is_no_negative():
    mask = np.zeros((80, 100), np.uint8)
    mask[:20, :20] = 1
    examples: list[Example] = [
        example("boxes", true_boxes((0, 0, 20, 20))),
        example("masks", Masks({"cat": rle.encode(mask)})),
        example("class", ImageClass("cat")),
        example("empty", Boxes.none()),
    ]
    on, off = (1.0, 1.0, 19.0, 19.0), (40.0, 40.0, 60.0, 60.0)
    given_negatives = [boxed(key, box) for key in ("boxes", "masks", "empty", "gone") for box in (on, off)]
    given_negatives += [boxed("class", on), Negative("class", on, "dog", 0.9, 0.0)]
    kept = still_negative(given_negatives, examples, MANY)
    assert [(one.item_key, one.box == on) for one in kept] == [
        ("boxes", False),
        ("masks", False),
        ("empty", True),
        ("empty", False),
        ("class", True),
    ]
    assert kept[-1].name == "dog"


def test_what_may_be_an_object_takes_no_room_from_others():
    """Three surer ones are doubted: the room of three goes to what is in the bank and to the next of the new ones."""
    bank = [entry(0, score=0.5), entry(20, score=0.4)]
    scene = found((0, 0.5, 0), (20, 0.4, 0), (40, 0.9, 0), (60, 0.9, 0), (80, 0.9, 0), (100, 0.6, 0), (120, 0.5, 0))
    options = MiningOptions(per_image=3, ratio=1000)

    def guard(candidates, sure):
        return {one: "why" for one in candidates if one.score > 0.8}

    mined = mine(Task.DETECT, [scene], EMPTY, CLASSES, options, bank, 2, guard=guard)
    assert [one.box[0] for one in mined.doubts] == [40, 60, 80]
    assert [one.box[0] for one in mined.new] == [100, 120]
    assert mined.evicted == ["20"]
    assert not set(mined.new) & set(mined.doubts)


@pytest.mark.parametrize(("patience", "gone"), [(1, True), (2, True), (3, False)])
def test_patience_counts_the_rounds_that_were_mined(patience: int, gone: bool):
    """Mined in rounds 1 and 4, nothing between: two models no longer fell for it when round 5's does not."""
    options = MiningOptions(patience=patience)
    mined = mine(Task.DETECT, [found()], EMPTY, CLASSES, options, [entry(0)], 5, mined_in=[1, 4, 5])
    assert (mined.evicted == ["0"]) == gone


def test_a_ring_around_an_object_is_none_as_the_box_around_it_holds_the_object():
    """What is trained on is a box: a negative that no training could use would only take room."""
    guess, truth = np.zeros((80, 100), np.uint8), np.zeros((80, 100), np.uint8)
    guess[10:70, 10:90], truth[18:62, 18:82] = 1, 1
    guess[16:64, 16:84] = 0
    guess[72:78, 2:20] = 1
    labelled = example("a", rle.from_class_map(truth, CLASSES))
    mined = mine(Task.SEGMENT, [map_of("a", guess)], truths(labelled), CLASSES, MANY)
    assert [one.box for one in mined.new] == [(2, 72, 20, 78)]
    assert still_negative(mined.new, [labelled], MANY) == mined.new
