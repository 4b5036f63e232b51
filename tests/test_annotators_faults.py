"""Networks and servers at their worst, in front of a real Label Studio: nothing is there twice, nothing is lost."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from alpipe.annotators import labelstudio
from alpipe.annotators.labelstudio import LabelStudioAnnotator
from alpipe.annotators.studio import client, duplicates
from alpipe.annotators.studio.server import Connection, Server
from alpipe.errors import AnnotatorError
from alpipe.types import ItemState, Task
from benchmarks import exchange_scenarios
from tests.faulty_proxy import Choose, Fault, FaultyProxy, Request, faulty_proxy
from tests.studio_server import Case, make_case

pytestmark = pytest.mark.server


@pytest.fixture
def proxy(label_studio: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Where our requests go; what is looked at afterwards goes to the server itself."""
    monkeypatch.setattr(client, "PAUSES", (0.0, 0.0, 0.0))
    url = httpx.URL(label_studio.url)
    with faulty_proxy(url.host, url.port or 80) as proxy:
        monkeypatch.setenv("LABEL_STUDIO_URL", proxy.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.token)
        yield proxy


@pytest.fixture
def pair(label_studio: Server, proxy: FaultyProxy, tmp_path: Path) -> Iterator[tuple[Case, LabelStudioAnnotator]]:
    case = make_case(tmp_path / "case", Task.DETECT, 7, tmp_path.name[:11].replace("_", ""))
    options = labelstudio.Options(files_root=label_studio.files_root, batch=4)
    yield case, labelstudio.build(options, case.context)
    case.store.close()


@pytest.fixture
def there(label_studio: Server, pair: tuple[Case, LabelStudioAnnotator]) -> Callable[[], dict[str, list[Any]]]:
    """What the server holds, asked without the proxy."""

    def look() -> dict[str, list[Any]]:
        with client.Studio(Connection(label_studio.url, label_studio.token, None)) as studio:
            number = pair[1].choice.known()["project"]
            return duplicates.by_key(studio.tasks(number, include=client.CENSUS))

    return look


def at(part: str, fault: Fault, nth: int = 1, method: str = "POST") -> Choose:
    """The fault for the nth request whose path holds the part."""
    left = [nth]

    def choose(request: Request) -> Fault:
        if part in request.path and request.method == method:
            left[0] -= 1
            return fault if left[0] == 0 else Fault.NONE
        return Fault.NONE

    return choose


def assert_each_once(found: dict[str, list[Any]], case: Case) -> None:
    assert {key: len(rows) for key, rows in found.items()} == dict.fromkeys(case.items, 1)
    shown = {request.item.key: ["m1"] if request.suggestion else [] for request in case.requests}
    assert {key: duplicates.versions(rows[0]) for key, rows in found.items()} == shown


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("fault", list(Fault)[1:])
def test_whatever_happens_to_an_import_each_item_is_asked_about_once(
    pair: tuple[Case, LabelStudioAnnotator],
    proxy: FaultyProxy,
    there: Callable[[], dict[str, list[Any]]],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    nth: int,
) -> None:
    case, annotator = pair
    proxy.choose = at("return_task_ids", fault, nth)
    with contextlib.ExitStack() as stack:
        if fault is Fault.SILENT:
            stack.enter_context(monkeypatch.context()).setattr(client, "_patience", lambda _: 1.0)
        with contextlib.suppress(AnnotatorError):
            annotator.push(case.requests)
    assert fault in {happened for _, happened in proxy.seen}
    proxy.wait_until_idle()
    proxy.choose = lambda _: Fault.NONE
    receipts = annotator.push(case.requests)
    assert_each_once(there(), case)
    assert {f"{r.item_key}" for r in receipts} == set(case.items)
    assert {int(r.external_id.split("/")[1]) for r in receipts} == {rows[0]["id"] for rows in there().values()}


def test_an_import_that_the_server_carries_out_after_we_looked_is_put_in_order_by_the_next_pull(
    pair: tuple[Case, LabelStudioAnnotator], proxy: FaultyProxy, there: Callable[[], dict[str, list[Any]]]
) -> None:
    case, annotator = pair
    case.note(annotator.push(case.requests[:4]))
    start = case.take(annotator.pull(None))
    again = [
        {"data": rows[0]["data"], "predictions": [{"model_version": "m1", "score": 0.5, "result": []}]}
        for rows in there().values()
    ]
    with annotator.studio() as studio:  # as a request does that lay in a queue
        studio.import_tasks(annotator.choice.known()["project"], again)
    assert {len(rows) for rows in there().values()} == {2}
    annotator.pull(start.watermark)
    assert {len(rows) for rows in there().values()} == {1}


def test_predictions_that_came_twice_are_put_in_order(
    pair: tuple[Case, LabelStudioAnnotator], proxy: FaultyProxy, there: Callable[[], dict[str, list[Any]]]
) -> None:
    case, annotator = pair
    case.note(annotator.push(case.requests))
    start = case.take(annotator.pull(None))
    task = there()[case.requests[1].item.key][0]["id"]
    twice = [{"task": task, "model_version": "m1", "score": 0.5, "result": []}] * 2
    with annotator.studio() as studio:
        studio.import_predictions(annotator.choice.known()["project"], twice)
    annotator.pull(start.watermark)
    assert_each_once(there(), case)


def test_of_two_tasks_none_that_people_answered_or_began_is_deleted(
    pair: tuple[Case, LabelStudioAnnotator],
    label_studio: Server,
    proxy: FaultyProxy,
    there: Callable[[], dict[str, list[Any]]],
) -> None:
    case, annotator = pair
    case.note(annotator.push(case.requests[:3]))
    keys = [request.item.key for request in case.requests[:3]]
    again = [{"data": there()[key][0]["data"]} for key in keys]
    with annotator.studio() as studio:
        answered, begun, _ = studio.import_tasks(annotator.choice.known()["project"], again)
    headers = {"Authorization": f"Token {label_studio.token}"}
    with httpx.Client(base_url=label_studio.url, headers=headers, trust_env=False, timeout=30) as api:
        api.post(f"/api/tasks/{answered}/annotations/", json={"result": []}).raise_for_status()
        api.post(f"/api/tasks/{begun}/drafts", json={"result": []}).raise_for_status()
    pulled = case.take(annotator.pull(None))
    assert case.state(keys[0]) is ItemState.EMPTY
    assert pulled.gone == ()
    found = there()
    assert [row["id"] for row in found[keys[0]]] == [answered]
    assert begun in [row["id"] for row in found[keys[1]]]
    assert len(found[keys[2]]) == 1


def test_two_pushes_at_once_from_stores_of_their_own_leave_each_task_once(
    pair: tuple[Case, LabelStudioAnnotator],
    label_studio: Server,
    proxy: FaultyProxy,
    there: Callable[[], dict[str, list[Any]]],
    tmp_path: Path,
) -> None:
    case, annotator = pair
    annotator.push(case.requests[:1])
    other_case = make_case(tmp_path / "other", Task.DETECT, 7, tmp_path.name[:11].replace("_", ""))
    number = annotator.choice.known()["project"]
    options = labelstudio.Options(files_root=label_studio.files_root, batch=4, project_id=number)
    other = labelstudio.build(options, other_case.context)
    both = threading.Barrier(2)

    def meet(request: Request) -> Fault:  # the first imports of both reach the server together
        if "return_task_ids" in request.path:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(timeout=20)
        return Fault.NONE

    proxy.choose = meet
    threads = [threading.Thread(target=one.push, args=(case.requests,)) for one in (annotator, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other_case.store.close()
    imports = Counter(request.path for request, _ in proxy.seen if "return_task_ids" in request.path)
    assert sum(imports.values()) >= 3, "they did not meet, so this test shows nothing"
    assert_each_once(there(), case)


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("/api/projects/", Fault.CUT_BEFORE),
        ("/api/projects/", Fault.ERROR_BEFORE),
        ("/api/tasks/", Fault.CUT_AFTER),
        ("/api/tasks/", Fault.CUT_IN_ANSWER),
        ("/api/tasks/", Fault.ERROR_AFTER),
    ],
)
def test_what_only_reads_is_asked_again(
    pair: tuple[Case, LabelStudioAnnotator], proxy: FaultyProxy, part: str, fault: Fault
) -> None:
    case, annotator = pair
    annotator.push(case.requests)
    proxy.choose = at(part, fault, method="GET")
    assert len(annotator.pull(None).refused) == 0
    assert fault in {happened for _, happened in proxy.seen}


def test_a_server_that_stays_broken_is_one_line_and_nothing_is_lost(
    pair: tuple[Case, LabelStudioAnnotator], proxy: FaultyProxy, there: Callable[[], dict[str, list[Any]]]
) -> None:
    case, annotator = pair
    annotator.push(case.requests[:2])
    for fault in (Fault.CUT_BEFORE, Fault.ERROR_BEFORE):
        proxy.choose = lambda _, fault=fault: fault  # type: ignore[misc]
        for call in (lambda: annotator.push(case.requests), lambda: annotator.pull(None)):
            with pytest.raises(AnnotatorError) as failure:
                call()
            assert "\n" not in str(failure.value)
            assert "<script>" not in str(failure.value)
    proxy.choose = lambda _: Fault.NONE
    annotator.push(case.requests)
    assert_each_once(there(), case)


def test_a_slow_server_is_one_line(
    pair: tuple[Case, LabelStudioAnnotator], proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, annotator = pair
    annotator.push(case.requests[:1])
    monkeypatch.setattr(client, "TIMEOUT", 1.0)
    proxy.choose = at("/api/tasks/", Fault.SILENT, method="GET")
    with pytest.raises(AnnotatorError, match="did not answer in time while listing the tasks"):
        annotator.pull(None)


@pytest.mark.slow
def test_kills_and_faults_at_random_points_leave_nothing_twice_and_nothing_lost(
    label_studio: Server,
    tmp_path: Path,
) -> None:
    tally = exchange_scenarios.run(label_studio, tmp_path, points=20, items=60, seed=1)
    assert tally.points == 20
    assert (tally.twice, tally.lost, tally.differing, tally.crashes) == (0, 0, 0, 0), tally.happened
