"""Push and pull against a real Label Studio: what people do there arrives, and nothing arrives twice."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from alpipe import plugins
from alpipe.annotators import labelstudio, robot
from alpipe.annotators.labelstudio import LabelStudioAnnotator
from alpipe.annotators.studio import client, pull, server
from alpipe.annotators.studio.client import Studio
from alpipe.annotators.studio.regions import Region
from alpipe.annotators.studio.server import Server
from alpipe.errors import AnnotatorError, DataError
from alpipe.types import Annotation, AnswerState, Boxes, ImageClass, ItemState, Progress, Pulled, Split, Task
from tests.studio_server import CLASSES, HEIGHT, WIDTH, Case, make_case, suggestion_of

pytestmark = pytest.mark.server


Make = Callable[..., tuple[Case, LabelStudioAnnotator]]


@pytest.fixture
def make(studio_server: Server, tmp_path: Path) -> Iterator[Make]:
    cases: list[Case] = []

    def made(task: Task = Task.DETECT, count: int = 6, **options: Any) -> tuple[Case, LabelStudioAnnotator]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        case = make_case(folder, task, count, tmp_path.name[:11].replace("_", ""))
        cases.append(case)
        options = {"home": studio_server.home} | options
        return case, labelstudio.build(labelstudio.Options(**options), case.context)

    yield made
    for case in cases:
        case.store.close()


def task_ids(case: Case, annotator: LabelStudioAnnotator) -> dict[str, int]:
    return case.note(annotator.push(case.requests))


def tasks(annotator: LabelStudioAnnotator, include: str = client.OPEN) -> list[dict[str, Any]]:
    with annotator.studio() as studio:
        return studio.tasks(annotator.choice.known()["project"], include=include)


def box(x: float = 10, label: str = CLASSES[0], **more: Any) -> Region:
    value = {"x": x, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return (
        {"id": "p", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value} | size | more
    )


def submit(api: httpx.Client, task: int, result: list[Region], **more: Any) -> int:
    answer = api.post(f"/api/tasks/{task}/annotations/", json={"result": result, "lead_time": 3.5} | more)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    return int(answer.json()["id"])


def by_key(pulled: Pulled) -> dict[str, Annotation]:
    return {annotation.item_key: annotation for annotation in pulled.annotations}


# ── push ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", list(Task))
def test_each_request_becomes_one_task_with_what_was_proposed(make: Make, task: Task) -> None:
    case, annotator = make(task)
    receipts = annotator.push(case.requests)
    assert [receipt.item_key for receipt in receipts] == [request.item.key for request in case.requests]
    there = {row["data"]["alpipe_key"]: row for row in tasks(annotator)}
    assert set(there) == set(case.items)
    for request in case.requests:
        row = there[request.item.key]
        assert (row["data"]["uncertainty"], row["data"]["round"]) == (request.uncertainty, 1)
        versions = [prediction["model_version"] for prediction in row["predictions"]]
        assert versions == (["m1"] if request.suggestion else []), "a blind request shows nothing"
        if request.suggestion and request.uncertainty is not None:
            assert row["predictions"][0]["score"] == pytest.approx(1 - request.uncertainty)


def test_pushing_again_adds_nothing_and_gives_the_same_receipts(make: Make) -> None:
    case, annotator = make()
    first = annotator.push(case.requests[:4])
    assert annotator.push(case.requests)[:4] == first
    assert len(tasks(annotator)) == 6
    again = labelstudio.build(annotator.options, case.context)
    assert again.push(case.requests)[:4] == first, "another process goes on with the same project"
    assert Counter(row["data"]["alpipe_key"] for row in tasks(annotator)).most_common(1)[0][1] == 1


def test_a_push_that_is_killed_between_two_batches_is_completed_by_the_next(make: Make) -> None:
    case, annotator = make(count=7, batch=3)

    def dies(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotator.push(case.requests, dies)
    assert len(tasks(annotator)) == 3
    annotator.push(case.requests)
    assert len(tasks(annotator)) == 7


def test_a_push_that_dies_before_it_notes_its_project_finds_it_again(make: Make) -> None:
    case, annotator = make()
    annotator.push(case.requests)
    known = annotator.choice.known()
    annotator.choice.note({"mark": known["mark"]})
    annotator.push(case.requests)
    assert annotator.choice.known() == known


def test_a_time_out_makes_no_duplicates(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    case, annotator = make(count=6)
    annotator.push(case.requests[:1])
    with monkeypatch.context() as patched:
        patched.setattr(client, "_patience", lambda _: 0.005)
        with contextlib.suppress(AnnotatorError):  # unless the server was done when we looked
            annotator.push(case.requests)
    for _ in range(100):  # the server goes on by itself
        if len(tasks(annotator)) == 6:
            break
    else:
        pytest.fail("the import was never carried out, so this test shows nothing")
    annotator.push(case.requests)
    assert len(tasks(annotator)) == 6


@pytest.fixture
def by_address(studio_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server that is given by its address, so that we do not know its files."""
    monkeypatch.setenv("LABEL_STUDIO_URL", studio_server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio_server.token)
    return studio_server.url


def test_a_server_given_by_address_gets_the_images_uploaded(by_address: str, make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=2)
    annotator.push(case.requests)
    for row in tasks(annotator):
        served = api.get(row["data"]["image"])
        assert served.content == case.items[row["data"]["alpipe_key"]].path.read_bytes()


def test_a_newer_model_replaces_what_open_tasks_show_and_leaves_answered_ones(make: Make, api: httpx.Client) -> None:
    case, annotator = make()
    ids = task_ids(case, annotator)
    answered = case.requests[1].item.key
    submit(api, ids[answered], [box()])
    newer = [
        dataclasses.replace(request, round=2, suggestion=suggestion_of(Task.DETECT, 3, "m2"))
        for request in case.requests
    ]
    for _ in range(2):
        annotator.push(newer)
    for row in tasks(annotator):
        versions = [prediction["model_version"] for prediction in row["predictions"]]
        if row["data"]["alpipe_key"] == answered:
            assert (versions, row["data"]["model"]) == (["m1"], "m1")
        else:
            assert versions.count("m2") == 1
            assert (row["data"]["model"], row["data"]["round"]) == ("m2", 2)
    project = api.get(f"/api/projects/{annotator.choice.known()['project']}/").json()
    assert project["model_version"] == "m2", "or the label stream would still show the old ones"


def test_the_answer_tells_which_model_was_shown_when_it_was_begun(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=4)
    ids = task_ids(case, annotator)
    begun, later, blind = (request.item.key for request in case.requests[1:])
    before = {row["data"]["alpipe_key"]: row["predictions"][0] for row in tasks(annotator) if row["predictions"]}
    newer = [
        dataclasses.replace(request, round=2, suggestion=suggestion_of(Task.DETECT, 3, "m2"))
        for request in case.requests[:3]
    ]
    annotator.push([*newer, dataclasses.replace(case.requests[3], blind=True)])
    after = {row["data"]["alpipe_key"]: row["predictions"] for row in tasks(annotator)}
    submit(api, ids[begun], [box()], parent_prediction=before[begun]["id"])
    newest = next(row for row in after[later] if row["model_version"] == "m2")
    submit(api, ids[later], [box()], parent_prediction=newest["id"])
    submit(api, ids[blind], [box()])
    answers = by_key(annotator.pull(None))
    assert {key: (answer.model, answer.blind) for key, answer in answers.items()} == {
        begun: ("m1", False),
        later: ("m2", False),
        blind: (None, True),
    }


def test_the_hold_out_gets_no_pre_annotation_not_even_later(make: Make) -> None:
    case, annotator = make(count=3)
    held_out = [
        dataclasses.replace(request, item=dataclasses.replace(request.item, split=Split.HOLDOUT))
        for request in case.requests
    ]
    annotator.push(held_out)
    newer = suggestion_of(Task.DETECT, 3, "m2")
    annotator.push([dataclasses.replace(request, suggestion=newer) for request in held_out])
    assert [row["predictions"] for row in tasks(annotator)] == [[], [], []]
    assert {row["data"]["model"] for row in tasks(annotator)} == {""}


def test_a_question_asked_again_says_why_and_comes_first(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=3)
    key, task = list(task_ids(case, annotator).items())[1]
    submit(api, task, [box()])
    again = dataclasses.replace(case.requests[1], reason="people disagree: a 1, b 1", uncertainty=1.0, again=True)
    for _ in range(2):
        annotator.push([again])
    row = next(row for row in tasks(annotator) if row["data"]["alpipe_key"] == key)
    assert (row["data"]["reason"], row["data"]["uncertainty"]) == ("people disagree: a 1, b 1", 1.0)
    assert (row["data"]["model"], len(row["annotations"])) == ("m1", 1), "what was said and shown stays"


def test_a_newer_model_of_which_no_open_task_is_left_to_show_does_not_stop_the_push(
    make: Make, api: httpx.Client
) -> None:
    case, annotator = make(count=2)
    first = [dataclasses.replace(request, suggestion=None) for request in case.requests]
    for receipt in annotator.push(first):
        submit(api, int(receipt.external_id.partition("/")[2]), [box()])
    assert len(annotator.push(case.requests)) == len(case.requests)


def test_the_tab_is_made_again_where_people_deleted_it(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=2)
    annotator.push(case.requests)
    number = annotator.choice.known()["project"]
    for view in api.get("/api/dm/views/", params={"project": number}).json():
        api.delete(f"/api/dm/views/{view['id']}/").raise_for_status()
    annotator.push(case.requests)
    [view] = api.get("/api/dm/views/", params={"project": number}).json()
    assert view["data"]["title"] == "Hardest first"


def test_people_find_the_hardest_first(make: Make, api: httpx.Client) -> None:
    case, annotator = make()
    annotator.push(case.requests)
    annotator.push(case.requests)
    number = annotator.choice.known()["project"]
    views = [
        v for v in api.get("/api/dm/views/", params={"project": number}).json() if v["data"]["title"] == "Hardest first"
    ]
    assert len(views) == 1
    shown = api.get("/api/tasks/", params={"view": views[0]["id"], "fields": "all"}).json()["tasks"]
    uncertain = [task["data"]["uncertainty"] for task in shown if task["data"]["uncertainty"] is not None]
    assert uncertain == sorted(uncertain, reverse=True)
    assert annotator.where().endswith(f"/projects/{number}/data")


def test_images_are_served_to_those_who_are_logged_in_only(
    make: Make, api: httpx.Client, studio_server: Server
) -> None:
    case, annotator = make()
    annotator.push(case.requests)
    row = tasks(annotator)[0]
    assert api.get(row["data"]["image"]).content == case.items[row["data"]["alpipe_key"]].path.read_bytes()
    assert httpx.get(studio_server.url + row["data"]["image"], trust_env=False).status_code == httpx.codes.UNAUTHORIZED


def test_an_image_that_is_gone_is_named_and_no_task_is_made_of_it(make: Make) -> None:
    case, annotator = make()
    case.requests[0].item.path.unlink()
    with pytest.raises(DataError, match=r"0\.png: there is no such file"):
        annotator.push(case.requests)
    assert tasks(annotator) == []


def test_a_faulty_pre_annotation_stops_the_push_before_anything_is_sent(make: Make) -> None:
    case, annotator = make()
    strange = dataclasses.replace(suggestion_of(Task.DETECT, 1, "m1"), scores=(2.0, 2.0))
    with pytest.raises(AnnotatorError, match=r"pre-annotation of .*score 2"):
        annotator.push([*case.requests[:2], dataclasses.replace(case.requests[2], suggestion=strange)])
    assert tasks(annotator) == []


# ── pull ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_five_answers_stay_apart(make: Make, api: httpx.Client) -> None:
    case, annotator = make()
    ids = list(task_ids(case, annotator).values())
    submit(api, ids[0], [box()])
    submit(api, ids[1], [])
    submit(api, ids[2], [box()], was_cancelled=True)
    assert api.post(f"/api/tasks/{ids[3]}/drafts", json={"result": [box()], "lead_time": 2}).status_code == 201
    answers = by_key(annotator.pull(None))
    keys = list(case.items)
    assert {key: answer.state for key, answer in answers.items()} == {
        keys[0]: AnswerState.LABELLED,
        keys[1]: AnswerState.EMPTY,
        keys[2]: AnswerState.SKIPPED,
        keys[3]: AnswerState.DRAFT,
    }
    labelled = answers[keys[0]]
    assert isinstance(labelled.labels, Boxes)
    np.testing.assert_allclose(labelled.labels.xyxy, [[6.1, 4.7, 18.3, 14.1]], atol=1e-4)
    assert (labelled.lead_time, labelled.round, labelled.model) == (3.5, 1, None), "the first request was blind"
    assert answers[keys[1]].labels == Boxes.none()
    assert answers[keys[1]].model == "m1"
    assert answers[keys[2]].labels is None


def test_a_pull_brings_only_what_changed_since_the_last(make: Make, api: httpx.Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(pull, "OVERLAP", timedelta(0))
    case, annotator = make()
    keys, ids = list(case.items), list(task_ids(case, annotator).values())
    assert annotator.pull(None).annotations == ()
    first, second = submit(api, ids[0], [box()]), submit(api, ids[1], [])
    start = case.take(annotator.pull(None))
    assert set(by_key(start)) == set(keys[:2])

    api.patch(f"/api/annotations/{first}/", json={"result": [box(30, CLASSES[1])], "lead_time": 9})
    edited = annotator.pull(start.watermark)
    assert by_key(edited)[keys[0]].external_id == by_key(start)[keys[0]].external_id, "an edit is the same answer"
    assert by_key(edited)[keys[0]].labels.names == (CLASSES[1],)  # type: ignore[union-attr]

    api.delete(f"/api/annotations/{second}/")
    deleted = annotator.pull(edited.watermark)
    assert deleted.withdrawn == (by_key(start)[keys[1]].external_id,)
    assert annotator.pull(edited.watermark).withdrawn == deleted.withdrawn, "a pull that got lost can be repeated"
    case.take(deleted)

    submit(api, ids[1], [box()])
    again = annotator.pull(deleted.watermark)
    assert by_key(again)[keys[1]].state is AnswerState.LABELLED

    quiet = annotator.pull(again.watermark)
    assert quiet.watermark == again.watermark
    assert set(by_key(quiet)) <= {keys[1]}


def test_of_several_answers_the_latest_counts(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=2)
    key, task = next(iter(task_ids(case, annotator).items()))
    older, newer = submit(api, task, [box()]), submit(api, task, [])
    assert len(case.take(annotator.pull(None)).annotations) == 2, "all are kept"
    assert case.state(key) is ItemState.EMPTY
    api.patch(f"/api/annotations/{older}/", json={"result": [box(), box(40, id="q")]})
    case.take(annotator.pull(None))
    assert len(case.store.annotations.latest()[key].labels.names) == 2  # type: ignore[union-attr,arg-type]
    api.delete(f"/api/annotations/{older}/")
    pulled = annotator.pull(None)
    assert by_key(pulled)[key].external_id.endswith(f"a{newer}")
    assert [ref.rpartition("/")[2] for ref in pulled.withdrawn] == [f"a{older}"]


def test_the_answers_of_a_deleted_task_are_withdrawn_and_the_item_can_be_asked_again(
    make: Make, api: httpx.Client
) -> None:
    case, annotator = make(count=3)
    ids = task_ids(case, annotator)
    for task in ids.values():
        submit(api, task, [box()])
    start = case.take(annotator.pull(None))
    key = next(iter(ids))
    api.delete(f"/api/tasks/{ids[key]}/")
    pulled = case.take(annotator.pull(start.watermark))
    assert (pulled.withdrawn, pulled.gone) == ((by_key(start)[key].external_id,), (key,))
    assert case.state(key) is ItemState.UNLABELLED
    task_ids(case, annotator)
    assert len(tasks(annotator)) == 3
    assert key not in by_key(annotator.pull(start.watermark))
    assert case.state(key) is ItemState.PUSHED


def test_a_deleted_task_is_noticed_though_another_was_added(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=4)
    ids = case.note(annotator.push(case.requests[:3]))
    start = case.take(annotator.pull(None))
    api.delete(f"/api/tasks/{ids[case.requests[0].item.key]}/")
    case.note(annotator.push(case.requests[3:]))
    pulled = case.take(annotator.pull(start.watermark))
    assert pulled.gone == (case.requests[0].item.key,)
    assert annotator.pull(pulled.watermark).gone == ()


def test_a_task_deleted_before_the_first_pull_is_noticed(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=2)
    key, task = next(iter(task_ids(case, annotator).items()))
    api.delete(f"/api/tasks/{task}/")
    assert case.take(annotator.pull(None)).gone == (key,)
    assert case.state(key) is ItemState.UNLABELLED


def test_an_answer_edited_into_something_unknown_does_not_count_as_it_was(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=1)
    key, task = next(iter(task_ids(case, annotator).items()))
    answer = submit(api, task, [box()])
    start = case.take(annotator.pull(None))
    assert case.state(key) is ItemState.LABELLED
    api.patch(f"/api/annotations/{answer}/", json={"result": [box(label="unicorn")]})
    pulled = case.take(annotator.pull(start.watermark))
    assert (len(pulled.refused), len(pulled.withdrawn)) == (1, 1)
    assert case.state(key) is ItemState.PUSHED


@pytest.mark.parametrize(
    ("strange", "reason"),
    [(box(label="unicorn"), "unknown label 'unicorn'"), (box(type="keypointlabels"), "'keypointlabels' is no")],
)
def test_an_answer_that_cannot_be_understood_is_refused_and_kept(
    make: Make, api: httpx.Client, strange: Region, reason: str
) -> None:
    case, annotator = make(count=2)
    ids = list(task_ids(case, annotator).values())
    submit(api, ids[0], [strange, box()])
    submit(api, ids[1], [box()])
    pulled = annotator.pull(None)
    annotator.pull(None)
    assert set(by_key(pulled)) == {list(case.items)[1]}
    assert len(pulled.refused) == 1
    assert reason in pulled.refused[0].reason
    assert str(ids[0]) in pulled.refused[0].source
    assert len((case.context.folder / "refused.jsonl").read_text().splitlines()) == 1


def test_tasks_that_are_not_ours_are_counted_not_taken(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=2)
    annotator.push(case.requests)
    number = annotator.choice.known()["project"]
    added = api.post(
        f"/api/projects/{number}/import?return_task_ids=true", json=[{"data": {"image": "x", "reason": ""}}]
    )
    submit(api, added.json()["task_ids"][0], [box()])
    pulled = annotator.pull(None)
    assert pulled.annotations == ()
    assert "1 answered tasks were not made by alpipe" in pulled.refused[0].reason


# ── projects ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pull_before_any_push_brings_nothing(make: Make) -> None:
    assert make()[1].pull(None).annotations == ()


def test_a_project_that_was_deleted_is_a_stated_failure(make: Make, api: httpx.Client) -> None:
    case, annotator = make(count=2)
    annotator.push(case.requests)
    api.delete(f"/api/projects/{annotator.choice.known()['project']}/")
    for call in (lambda: annotator.push(case.requests), lambda: annotator.pull(None)):
        with pytest.raises(AnnotatorError, match=r"labelstudio\.json to start a new project"):
            call()


def test_an_existing_project_is_adopted_if_it_fits(make: Make, api: httpx.Client) -> None:
    labels = "".join(f'<Label value="{name}"/>' for name in ("cat", "dög &lt;&amp;&quot;'&gt;", "more"))
    config = (
        f'<View><Image name="pic" value="$photo"/><RectangleLabels name="thing" toName="pic">{labels}</RectangleLabels>'
    )
    number = api.post("/api/projects/", json={"title": "theirs", "label_config": config + "</View>"}).json()["id"]
    case, annotator = make(project_id=number)
    receipts = annotator.push(case.requests)
    task = int(receipts[1].external_id.partition("/")[2])
    shown = api.get(f"/api/tasks/{task}/").json()
    assert "photo" in shown["data"]
    assert {region["from_name"] for region in shown["predictions"][0]["result"]} == {"thing"}
    submit(api, task, shown["predictions"][0]["result"])
    assert by_key(annotator.pull(None))[receipts[1].item_key].state is AnswerState.LABELLED

    poor = config.replace(labels, '<Label value="cat"/>') + "</View>"
    number = api.post("/api/projects/", json={"title": "poor", "label_config": poor}).json()["id"]
    with pytest.raises(AnnotatorError, match="does not offer the label 'dög"):
        make(project_id=number)[1].push(case.requests)
    with pytest.raises(AnnotatorError, match="has no project 99999"):
        make(project_id=99999)[1].pull(None)


def test_a_new_class_becomes_a_new_label(make: Make) -> None:
    case, annotator = make(count=2)
    annotator.push(case.requests)
    wider = dataclasses.replace(case.context, classes=(*CLASSES, "bird"))
    labelstudio.build(annotator.options, wider).push(case.requests)
    with annotator.studio() as studio:
        project = studio.project(annotator.choice.known()["project"])
    assert project is not None
    assert '"bird"' in project.label_config


# ── failures ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "token", "reason"),
    [
        (None, "wrong", "refuses the token"),
        (None, "eyJhbGciOiJIUzI1NiJ9.e30.x", "token|unexpected"),
        ("http://127.0.0.1:1", "any", "no Label Studio can be reached"),
        ("no-address", "any", "no-address is no address"),
        ("http://127.0.0.1:1", "", "LABEL_STUDIO_API_KEY"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(
    make: Make, studio_server: Server, monkeypatch: pytest.MonkeyPatch, url: str | None, token: str, reason: str
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", url or studio_server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    case, annotator = make(count=2)
    with pytest.raises(AnnotatorError, match=reason) as failure:
        annotator.push(case.requests)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 400
    if token:
        assert token not in str(failure.value) or len(token) < 4


def test_something_else_than_label_studio_is_one_line(by_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", by_address + "/elsewhere")
    with (
        Studio(server.connect(Path("unused"))) as studio,
        pytest.raises(AnnotatorError, match=r"answered|nothing there"),
    ):
        studio.projects_titled("x")


def test_a_stranger_cannot_sign_up(studio_server: Server) -> None:
    with httpx.Client(base_url=studio_server.url, trust_env=False) as stranger:
        stranger.get("/user/login/")
        token = stranger.cookies["csrftoken"]
        fields = {"email": "a@b.c", "password": "long-enough-1", "csrfmiddlewaretoken": token}
        answer = stranger.post("/user/signup/", data=fields, headers={"X-CSRFToken": token})
    assert answer.status_code == httpx.codes.FORBIDDEN


def test_the_person_can_log_in(studio_server: Server) -> None:
    with httpx.Client(base_url=studio_server.url, trust_env=False) as browser:
        browser.get("/user/login/")
        fields = {"email": studio_server.username, "password": studio_server.password}
        fields["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        answer = browser.post("/user/login/", data=fields, headers={"Referer": studio_server.url})
        assert answer.status_code == httpx.codes.FOUND
        assert browser.get("/api/current-user/whoami").json()["email"] == studio_server.username


# ── the robot ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", list(Task))
def test_the_robot_answers_every_open_task_in_agreement_with_the_truth(make: Make, task: Task) -> None:
    case, annotator = make(task, 7)
    machine = robot.build(robot.Options(**dict(annotator.options), skip_share=0.3), case.context)
    machine.push(case.requests)
    pulled = machine.pull(None)
    answers = by_key(pulled)
    assert set(answers) == set(case.items)
    assert pulled.refused == ()
    states = Counter(answer.state for answer in answers.values())
    assert states[AnswerState.SKIPPED] > 0
    assert states[AnswerState.LABELLED] > 0
    for key, answer in answers.items():
        truth = case.truth[key]
        if answer.state is AnswerState.SKIPPED:
            continue
        assert answer.lead_time is not None
        assert answer.lead_time > 0
        if isinstance(truth, Boxes) and isinstance(answer.labels, Boxes):
            assert sorted(answer.labels.names) == sorted(truth.names)
            assert (answer.state is AnswerState.EMPTY) == (not truth.names)
        if isinstance(truth, ImageClass):
            assert answer.labels == truth
    before = tasks(annotator)
    machine.pull(None)
    assert tasks(annotator) == before, "there is nothing left to answer"


def test_the_robot_does_the_same_again_and_never_skips_the_hold_out(make: Make) -> None:
    said = []
    for split in (Split.POOL, Split.POOL, Split.HOLDOUT):
        case, annotator = make(Task.DETECT, 4)
        items = {key: dataclasses.replace(item, split=split) for key, item in case.items.items()}
        context = dataclasses.replace(case.context, item=items.get)
        machine = robot.build(robot.Options(**dict(annotator.options), skip_share=0.5), context)
        machine.push(case.requests)
        said.append({key: (a.state, a.labels, a.lead_time) for key, a in by_key(machine.pull(None)).items()})
    assert said[0] == said[1]
    assert AnswerState.SKIPPED in {state for state, _, _ in said[0].values()}
    assert AnswerState.SKIPPED not in {state for state, _, _ in said[2].values()}


def test_the_robot_leaves_open_what_it_knows_no_truth_for(make: Make) -> None:
    case, annotator = make(count=3)
    key = next(iter(case.items))
    del case.truth[key]
    machine = robot.build(robot.Options(**dict(annotator.options)), case.context)
    machine.push(case.requests)
    pulled = machine.pull(None)
    assert key not in by_key(pulled)
    assert "no truth" in pulled.refused[0].reason


# ── what every annotator must do ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", list(plugins.available(plugins.Kind.ANNOTATOR)))
@pytest.mark.parametrize("task", list(Task))
def test_every_annotator_keeps_the_contract(name: str, task: Task, studio_server: Server, tmp_path: Path) -> None:
    plugin = plugins.load(plugins.Kind.ANNOTATOR, name, task)
    case = make_case(tmp_path / "case", task, 3)
    values = {"home": studio_server.home} if "home" in plugin.Options.model_fields else {}
    options = plugins.options(plugins.Kind.ANNOTATOR, name, plugin, values)
    assert options.model_config["extra"] == "forbid"
    annotator = plugin.build(options, case.context)
    assert annotator.push([]) == []
    receipts = annotator.push(case.requests)
    assert [receipt.item_key for receipt in receipts] == [request.item.key for request in case.requests]
    assert len({receipt.external_id for receipt in receipts}) == len(receipts)
    assert annotator.push(case.requests) == receipts
    first = annotator.pull(None)
    assert {answer.item_key for answer in first.annotations} <= set(case.items)
    again = annotator.pull(None)
    said = [[(a.item_key, a.external_id, a.state, a.labels) for a in pulled.annotations] for pulled in (first, again)]
    assert said[0] == said[1]
    assert again.watermark == first.watermark
    assert annotator.where()
