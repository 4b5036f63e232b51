"""Which questions are asked, and that they share the batch's budget with new images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from alpipe import loop
from alpipe.annotators import oracle
from alpipe.loop import advance
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps import exchange, review
from alpipe.types import (
    OUT_OF_SAMPLE,
    Annotation,
    AnswerState,
    Boxes,
    Example,
    ImageClass,
    NegativeState,
    Pulled,
    Question,
    QuestionKind,
    QuestionState,
    Receipt,
    Refusal,
    Reply,
    Split,
    Task,
)
from tests.conftest import MakeProject, Ran


class People(oracle.OracleAnnotator):
    """An oracle that can be asked about labels, and says what it is told."""

    said: tuple[Reply | Refusal, ...] = ()
    asked: list[str]
    gone: list[str]
    begun: frozenset[str] | set[str] = frozenset()

    def ask(
        self, questions: Sequence[Question], gone: Sequence[str] = (), progress: ProgressCallback = no_progress
    ) -> list[Receipt]:
        before = getattr(self, "asked", [])
        self.asked = [*before, *(question.key for question in questions if question.key not in before)]
        self.gone = [*getattr(self, "gone", []), *gone]
        keys = [*(question.key for question in questions), *self.begun.intersection(gone)]
        return [Receipt(key, f"9/{key}") for key in keys]

    def replies(self, questions: Sequence[Question]) -> list[Reply | Refusal]:
        return list(self.said)

    def pull(self, since: str | None, progress: ProgressCallback = no_progress) -> Pulled:
        return Pulled((), "w")


def with_people(project: Project, monkeypatch: pytest.MonkeyPatch) -> People:
    plain = project.annotator()
    assert isinstance(plain, oracle.OracleAnnotator)
    people = People(plain.options, plain.context)
    monkeypatch.setattr(Project, "annotator", lambda _: people)
    return people


def label(project: Project, count: int, name: str, at: int = 0) -> list[Example]:
    items = project.store.items.list(split=Split.POOL)[:count]
    labels = ImageClass(name)
    moment = datetime(2026, 1, 1 + at, tzinfo=UTC)
    project.store.annotations.upsert(
        [Annotation(i.key, AnswerState.LABELLED, labels, "test:1", f"{i.key}/1", at=moment) for i in items]
    )
    return [Example(item, labels) for item in items]


def doubt(example: Example, score: float, seen: str, key: str | None = None) -> Question:
    assert isinstance(example.labels, ImageClass)
    key = key or f"q{example.item.key[:10]}"
    given = example.labels.name
    return Question(key, example.item, QuestionKind.SWAPPED, example.labels, None, given, seen, score, 1, "m", "why")


def with_one_asked(project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[People, Example]:
    """Somebody is asked whether one image, labelled with the first class, is of the second."""
    people = with_people(project, monkeypatch)
    first, second, *_ = project.classes
    [example] = label(project, 1, first)
    project.store.questions.replace([doubt(example, 0.9, second)])
    review.push(project, 0, people, no_progress)
    return people, example


def test_the_likeliest_errors_come_first_and_one_an_image_at_a_time(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY)
    a, b, *_ = project.classes
    one, two = label(project, 2, a)
    found = [doubt(one, 0.6, b, "low"), doubt(one, 0.9, b, "high"), doubt(two, 0.7, b, "other")]
    assert project.store.questions.replace(found) == 3
    assert [question.key for question in project.store.questions.next()] == ["high", "other"]
    project.store.questions.asked([Receipt("high", "1/1")], 1)
    assert [question.key for question in project.store.questions.next()] == ["other"], "the other waits for the answer"
    assert project.store.questions.replace([doubt(two, 0.8, b, "other")]) == 1, "what nobody was asked is replaced"
    assert project.store.questions.replace(found) == 2
    project.store.questions.settle("high", QuestionState.RIGHT, "1/a1", "labelstudio:1")
    assert [question.key for question in project.store.questions.next()] == ["other", "low"]


def test_questions_take_the_place_of_new_images_within_the_batch(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.CLASSIFY, review={"share": 0.5}, mining=False)
    people = with_people(project, monkeypatch)
    a, b, *_ = project.classes
    examples = label(project, 5, a)
    project.store.questions.replace([doubt(example, 0.6 + at / 100, b) for at, example in enumerate(examples)])
    while loop.current_round(project).step != "collect":
        loop.perform(project, loop.current_round(project))
    best = [doubt(example, 0, b).key for example in reversed(examples)]
    assert people.asked == best[:2]
    assert len(project.store.rounds.selected(0)) == 2
    counts = project.store.rounds.list()[0].counts
    assert (counts["selected"], counts["questions_asked"]) == (2, 2)
    assert "2 questions about labels" in loop.single(project, "push")
    assert people.asked == best[:2], "a round's share is asked once"


def test_questions_have_the_batch_for_themselves_where_no_image_is_left(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.CLASSIFY, mining=False)
    people = with_people(project, monkeypatch)
    a, b, *_ = project.classes
    examples = label(project, 100, a)
    waiting_for = str(advance(project).waiting_for)
    assert "questions" not in waiting_for
    project.store.questions.replace([doubt(example, 0.9, b) for example in examples])
    assert "4 questions about labels wait" in str(advance(project).waiting_for)
    assert len(people.asked) == 4
    at = datetime.now(UTC)
    people.said = (Reply(people.asked[0], None, None, "labelstudio:1", "9/q/a1", at),)
    assert "4 questions about labels wait" in str(advance(project).waiting_for)
    assert len(people.asked) == 5, "one was answered, and another follows"


def test_a_share_of_nothing_asks_nothing(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(Task.CLASSIFY, review={"share": 0.0})
    people = with_people(project, monkeypatch)
    a, b, *_ = project.classes
    project.store.questions.replace([doubt(example, 0.9, b) for example in label(project, 3, a)])
    assert review.room(project, 0) == review.push(project, 0, people, no_progress) == 0


def test_an_annotator_that_cannot_be_asked_gets_the_whole_batch(make_project: MakeProject) -> None:
    project = make_project(Task.CLASSIFY, review={"share": 1.0})
    a, b, *_ = project.classes
    project.store.questions.replace([doubt(example, 0.9, b) for example in label(project, 3, a)])
    advance(project)
    assert project.store.rounds.list()[0].counts["selected"] == 4


def test_a_question_about_labels_that_have_changed_is_taken_back(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.CLASSIFY, review={"share": 1.0})
    people = with_people(project, monkeypatch)
    a, b, *_ = project.classes
    [example] = label(project, 1, a)
    project.store.questions.replace([doubt(example, 0.9, b)])
    assert review.push(project, 0, people, no_progress) == 1
    label(project, 1, b, at=1)
    people.begun = {*people.asked}
    review.push(project, 0, people, no_progress)
    assert people.gone == people.asked
    people.said = (Reply(people.asked[0], False, ImageClass(a), "labelstudio:1", "9/q/a1", datetime.now(UTC)),)
    got = exchange.pull(project, people, no_progress)
    assert (got.answers, got.refused) == (1, 0), "it was answered all the same: the labels were found right"
    assert project.store.annotations.latest()[example.item.key].labels == ImageClass(b), "newer labels stay"


def test_a_correction_of_labels_that_were_changed_elsewhere_meanwhile_is_refused(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.CLASSIFY, review={"share": 1.0})
    people, example = with_one_asked(project, monkeypatch)
    _, b, c, *_ = project.classes
    label(project, 1, c, at=1)
    people.said = (Reply(people.asked[0], False, ImageClass(b), "labelstudio:1", "9/q/a1", datetime.now(UTC)),)
    got = exchange.pull(project, people, no_progress)
    assert got.refused == 1
    assert "were changed while it was answered" in (project.folder / exchange.REFUSED).read_text()
    assert project.store.annotations.latest()[example.item.key].labels == ImageClass(c)


def missed_by_both(project: Project, name: str, box: tuple[float, float, float, float]) -> Question:
    """An object that nobody marked, found out of sample: the bank does not know it."""
    [item, *_] = project.store.items.list(split=Split.POOL)
    labels = Boxes(np.array([[0, 0, 9, 9]], np.float32), (name,))
    project.store.annotations.upsert([Annotation(item.key, AnswerState.LABELLED, labels, "test:1", f"{item.key}/1")])
    return Question("q", item, QuestionKind.MISSED, labels, box, None, name, 0.9, 1, OUT_OF_SAMPLE, "why")


def test_an_unmarked_object_that_is_not_in_the_bank_is_added_once_a_person_says_that_it_is_one(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.DETECT, review={"share": 1.0})
    people = with_people(project, monkeypatch)
    missed = (20.0, 20.0, 30.0, 30.0)
    question = missed_by_both(project, project.classes[0], missed)
    project.store.questions.replace([question])
    review.push(project, 0, people, no_progress)
    people.said = (Reply("q", True, None, "labelstudio:1", "9/q/a1", datetime.now(UTC)),)
    assert exchange.pull(project, people, no_progress).refused == 0
    now = project.store.annotations.latest()[question.item.key].labels
    assert isinstance(now, Boxes)
    assert now.xyxy.tolist() == [[0, 0, 9, 9], list(missed)]


def test_what_a_person_calls_no_object_is_a_negative_for_good_though_no_mining_found_it(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.DETECT, review={"share": 1.0})
    people = with_people(project, monkeypatch)
    question = missed_by_both(project, project.classes[0], (20.0, 20.0, 30.0, 30.0))
    project.store.questions.replace([question])
    review.push(project, 0, people, no_progress)
    answers = ((False, NegativeState.CONFIRMED), (True, NegativeState.OBJECT), (None, NegativeState.QUESTION))
    for at, (model_is_right, state) in enumerate(answers, 1):
        moment = datetime(2026, 1, at, tzinfo=UTC)
        people.said = (Reply("q", model_is_right, None, "labelstudio:1", "9/q/a1", moment),)
        exchange.pull(project, people, no_progress)
        [entry] = project.store.negatives.entries()
        assert (entry.state, entry.negative.box) == (state, question.box)
        assert entry.settled_by == (None if model_is_right is None else "labelstudio:1")
        assert project.store.negatives.newest_round() is None, "no mining has looked at it"


@pytest.mark.parametrize("begun", [False, True])
def test_a_question_whose_labels_changed_is_asked_anew_once_it_lies_before_nobody(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """While somebody is at it, with the former labels before them, the question stays about those."""
    project = make_project(Task.CLASSIFY, review={"share": 1.0})
    people, example = with_one_asked(project, monkeypatch)
    a, b, c, *_ = project.classes
    [again] = label(project, 1, c, at=1)
    assert project.store.questions.outdate() == 1
    assert project.store.questions.replace([doubt(again, 0.8, b)]) == 0, "its task is not taken back yet"
    people.begun = {*people.asked} if begun else set()
    review.push(project, 1, people, no_progress)
    assert people.gone == people.asked
    assert project.store.questions.replace([doubt(again, 0.8, b)]) == (0 if begun else 1)
    review.push(project, 2, people, no_progress)
    [now] = project.store.questions.list()
    assert (now.state, now.question.labels) == (
        (QuestionState.STALE, ImageClass(a)) if begun else (QuestionState.ASKED, ImageClass(c))
    )
    people.said = (Reply(now.question.key, False, ImageClass(a), "labelstudio:1", "9/q/a1", datetime.now(UTC)),)
    exchange.pull(project, people, no_progress)
    left = project.store.annotations.latest()[example.item.key].labels
    assert left == ImageClass(c if begun else a), "an answer to the former labels does not replace the newer ones"


def test_a_correction_that_others_outvote_is_listed(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(
        Task.CLASSIFY, review={"share": 1.0}, agreement={"policy": "majority", "minimum": 2}, mining=False
    )
    people = with_people(project, monkeypatch)
    a, b, *_ = project.classes
    label(project, 1, a)
    item = project.store.items.list(split=Split.POOL)[0]
    second = Annotation(item.key, AnswerState.LABELLED, ImageClass(a), "test:2", f"{item.key}/2")
    project.store.annotations.upsert([second])
    project.store.questions.replace([doubt(Example(item, ImageClass(a)), 0.9, b)])
    review.push(project, 0, people, no_progress)
    people.said = (Reply(people.asked[0], True, None, "labelstudio:3", "9/q/a1", datetime.now(UTC)),)
    assert exchange.pull(project, people, no_progress).refused == 1
    assert "another answer counts" in (project.folder / exchange.REFUSED).read_text()
    assert project.store.annotations.latest()[item.key].labels == ImageClass(a)


def test_a_correction_by_which_people_come_to_disagree_opens_the_image_again(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(Task.CLASSIFY, review={"share": 1.0}, agreement={"policy": "majority"}, mining=False)
    people, example = with_one_asked(project, monkeypatch)
    people.said = (Reply(people.asked[0], True, None, "labelstudio:3", "9/q/a1", datetime.now(UTC)),)
    assert exchange.pull(project, people, no_progress).refused == 1
    assert "people disagree" in (project.folder / exchange.REFUSED).read_text()
    assert example.item.key not in project.store.annotations.latest()
    assert project.store.questions.counts()[QuestionState.WRONG] == 1


def test_questions_are_listed(make_project: MakeProject, alpipe: object) -> None:
    project = make_project(Task.CLASSIFY)
    a, b, *_ = project.classes
    [example] = label(project, 1, a)
    project.store.questions.replace([doubt(example, 0.9, b)])
    run = alpipe
    assert callable(run)
    ran: Ran = run("-C", project.root, "pool", "questions", "--json")
    assert ran.status == 0
    assert '"kind": "swapped"' in ran.out
    assert '"state": "open"' in ran.out
    assert "unknown state" in run("-C", project.root, "pool", "questions", "--state", "no").err


def test_mining_files_what_the_model_contradicts(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(Task.DETECT)
    advance(project)
    advance(project)
    wrong = np.array([[0, 0, 9, 9]], np.float32)
    found = [
        Question("x", item, QuestionKind.UNFOUNDED, Boxes(wrong, (project.classes[0],)), (0, 0, 9, 9),
                 project.classes[0], None, 0.9, 1, "m", "why")
        for item in project.store.items.list(split=Split.POOL)[:1]
    ]  # fmt: skip
    monkeypatch.setattr("alpipe.mining.label_errors.LabelErrors.questions", lambda *_: found)
    loop.single(project, "mine")
    assert [one.question.key for one in project.store.questions.list()] == ["x"]
