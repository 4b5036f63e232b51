"""What we ask of a Label Studio server, over its SDK; every failure is an AnnotatorError of one line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from alpipe.annotators.studio.failures import NotThereError, UncertainError, may_pass, stated
from alpipe.annotators.studio.server import Connection
from alpipe.errors import AnnotatorError

Row: TypeAlias = dict[str, Any]
T = TypeVar("T")
TIMEOUT = 60.0
PAUSES = (0.2, 0.6, 1.5)
"""Seconds before each repetition of a request that may be repeated."""

ONCE: Any = {"max_retries": 0}
"""We repeat by ourselves what may be repeated."""

PAGE = 500
LISTINGS = 4
KEYS_A_QUERY = 500
"""Keys in one filter: queries over about 64 KB fail."""

LOOKUP = "id,data,is_labeled,total_annotations,cancelled_annotations,predictions_model_versions"
ANSWERS = (
    "id,data,created_at,updated_at,annotations,drafts,result,completed_by,was_cancelled,lead_time,parent_prediction,"
    "predictions_model_versions,user"
)
CENSUS = "id,data,predictions_model_versions"
DETAILS = "id,data,total_annotations,cancelled_annotations,annotations,parent_prediction,drafts,predictions"
SHOWN = "id,data,predictions,model_version,result"
OPEN = "id,data,is_labeled,annotations,predictions,model_version,result"


HIDDEN = [
    f"tasks:{column}"
    for column in (
        "inner_id", "annotations_results", "annotations_ids", "predictions_score", "predictions_results",
        "predictions_model_versions", "file_upload", "storage_filename", "created_at", "updated_at", "updated_by",
        "draft_exists", "completed_at", "avg_lead_time", "data.kind", "data.item", "data.alpipe_key", "data.blind",
    )
]  # fmt: skip
"""Columns that tell people nothing, and hide the image, the reason and the uncertainty behind them."""


class Counts(NamedTuple):
    """How many tasks and predictions a project has."""

    tasks: int
    predictions: int


class StudioProject:
    """The parts of a project that matter here."""

    def __init__(self, raw: Any) -> None:
        self.id: int = raw.id
        self.title: str = raw.title or ""
        self.description: str = raw.description or ""
        self.created: str = str(raw.created_at or "")
        self.label_config: str = raw.label_config or ""
        self.model_version: str = raw.model_version or ""
        self.shows_predictions: bool = raw.show_collab_predictions is not False
        self.tasks: int = raw.task_number or 0
        self.predictions: int = raw.total_predictions_number or 0


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on tasks, in the words of Label Studio's data manager."""

    column: str
    operator: str
    kind: str
    value: Any

    def row(self) -> Row:
        return {
            "filter": f"filter:tasks:{self.column}", "operator": self.operator, "type": self.kind, "value": self.value,
        }  # fmt: skip


class Studio:
    """An open connection; use it in a ``with``. The token goes to this server only, in a header."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.url = connection.url
        self._storages: set[tuple[int, Path]] = set()
        if not connection.token:
            raise AnnotatorError("the access token for Label Studio is empty: set LABEL_STUDIO_API_KEY")
        with self._stated("connecting"):
            own = httpx.URL(connection.url).host in ("127.0.0.1", "localhost", "::1")
            # Its built-in web server answers in two small packets, and on a connection that is kept the second one
            # waits 40 ms for our acknowledgement: a new connection a request is three times faster on one machine.
            limits = httpx.Limits(max_keepalive_connections=0 if own else 4)
            self._http = httpx.Client(
                timeout=TIMEOUT,
                follow_redirects=True,
                trust_env=not own,
                limits=limits,
                event_hooks={"response": [self._stays_here]},
            )
            self._sdk: Any = LabelStudio(  # type: ignore[no-untyped-call]
                base_url=connection.url, api_key=connection.token, httpx_client=self._http
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ── projects ────────────────────────────────────────────────────────────────────────────────────────────────────

    def project(self, number: int) -> StudioProject | None:
        """The project, or None where the server has none of this number."""
        try:
            raw = self._repeated(
                f"reading project {number}", lambda: self._sdk.projects.get(number, request_options=ONCE)
            )
        except NotThereError:
            return None
        return StudioProject(raw)

    def counts(self, number: int) -> Counts:
        """Raises AnnotatorError where the project is gone."""
        found = self.project(number)
        if found is None:
            raise AnnotatorError(f"{self.url} has no project {number} any more; was it deleted?")
        return Counts(found.tasks, found.predictions)

    def projects_titled(self, title: str) -> list[StudioProject]:
        found = self._repeated(
            "listing projects", lambda: list(self._sdk.projects.list(title=title, request_options=ONCE))
        )
        return [StudioProject(raw) for raw in found]

    def create_project(self, title: str, xml: str, description: str, people: int = 1) -> int:
        """Makes a project and returns its number; ``people`` is how many are asked about each task."""
        with self._stated(f"making the project {title!r}"):
            made = self._sdk.projects.create(
                title=title,
                label_config=xml,
                description=description,
                sampling="Uncertainty sampling",
                show_collab_predictions=True,
                maximum_annotations=people,
                request_options=ONCE,
            )
            return int(made.id)

    def update_project(self, number: int, **changes: Any) -> None:
        self._repeated(
            f"changing project {number}",
            lambda: self._sdk.projects.update(id=number, **changes, request_options=ONCE),
        )

    def label_uses(self, number: int) -> dict[str, int]:
        """In how many answers of the project each label stands, drafts too."""
        doing = f"reading which labels of project {number} are in use"
        summary = self._request(doing, "GET", f"/api/projects/{number}/summary/")
        uses: dict[str, int] = {}
        with self._stated(doing):
            for part in ("created_labels", "created_labels_drafts"):
                for counts in (summary.get(part) or {}).values():
                    for label, count in counts.items():
                        uses[label] = uses.get(label, 0) + int(count)
        return uses

    def ensure_storage(self, number: int, folder: Path) -> None:
        """Lets the project show the files of a folder; asks once a connection. The storage is never synchronised."""
        if (number, folder) in self._storages:
            return
        with self._stated("giving the project access to its images"):
            if not any(row.path == str(folder) for row in self._sdk.import_storage.local.list(project=number)):
                self._sdk.import_storage.local.create(
                    project=number, path=str(folder), title="alpipe images", use_blob_urls=True
                )
        self._storages.add((number, folder))

    def ensure_view(self, number: int, title: str, filters: Sequence[Filter] = ()) -> None:
        """A tab of the data manager that shows the most uncertain tasks first, of those that meet all filters; of
        several by that title the first.
        """
        if not self._views(number, title):
            with self._stated("making the tab"):
                self._sdk.views.create(
                    project=number,
                    data={
                        "title": title,
                        "type": "list",
                        "target": "tasks",
                        "ordering": ["-tasks:data.uncertainty"],
                        "filters": {"conjunction": "and", "items": [condition.row() for condition in filters]},
                        "columnsDisplayType": {"tasks:data.uncertainty": "Number"},
                        "hiddenColumns": {"explore": HIDDEN, "labeling": HIDDEN},
                    },
                    request_options=ONCE,
                )
            for extra in self._views(number, title)[1:]:  # another push made it at the same time
                self._request("removing a tab made twice", "DELETE", f"/api/dm/views/{extra}/", gone_is_fine=True)

    def _views(self, number: int, title: str) -> list[int]:
        views = self._repeated(
            "reading the tabs", lambda: list(self._sdk.views.list(project=number, request_options=ONCE))
        )
        return sorted(view.id for view in views if (view.data or {}).get("title") == title)

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(
        self, number: int, filters: Sequence[Filter] = (), include: str = LOOKUP, *, conjunction: str = "or"
    ) -> list[Row]:
        """The project's tasks that meet any of the filters (``conjunction`` "and": all of them), by their numbers.

        The server answers a misspelt filter with nothing instead of an error. A task that is deleted while we read
        page after page would hide another one: then they are read again.
        """
        query = {"project": number, "fields": "all", "include": include, "resolve_uri": "false", "page_size": PAGE}
        if filters:
            items = [condition.row() for condition in filters]
            query["query"] = json.dumps({"filters": {"conjunction": conjunction, "items": items}})
        for _ in range(LISTINGS):
            found, total = self._pages(f"listing the tasks of project {number}", query)
            if len(found) >= total:
                return [found[at] for at in sorted(found)]
        raise AnnotatorError(f"the tasks of project {number} on {self.url} change too fast to be listed; run it again")

    def _pages(self, doing: str, query: Row) -> tuple[dict[int, Row], int]:
        found: dict[int, Row] = {}
        page, total = 0, 1
        while len(found) < total:
            page += 1
            answer = self._request(doing, "GET", "/api/tasks/", params=query | {"page": page}, gone_is_fine=page > 1)
            with self._stated(doing):
                rows = answer["tasks"] if answer else []
                total = max(total if page > 1 else 0, int(answer["total"])) if answer else total
                found.update({row.get("id", at): row for at, row in enumerate(rows, len(found))})
            if not rows:
                break
        return found, total

    def first_tasks(self, number: int) -> list[Row]:
        """Some tasks of the project."""
        query = {"project": number, "fields": "all", "include": CENSUS, "resolve_uri": "false", "page_size": 5}
        doing = f"looking into project {number}"
        answer = self._request(doing, "GET", "/api/tasks/", params=query)
        with self._stated(doing):
            return list(answer["tasks"])

    def import_tasks(self, number: int, tasks: Sequence[Row]) -> list[int]:
        """Adds tasks in one call and returns their numbers in order. Raises UncertainError where the call broke off."""
        answer = self._request(
            f"adding {len(tasks)} tasks",
            "POST",
            f"/api/projects/{number}/import",
            params={"return_task_ids": "true"},
            body=list(tasks),
            repeat=False,
            timeout=_patience(len(tasks)),
        )
        ids = answer.get("task_ids") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or len(ids) != len(tasks):
            raise UncertainError(f"{self.url} took {len(tasks)} tasks but did not say which; run it again in a minute")
        return [int(i) for i in ids]

    def import_predictions(self, number: int, predictions: Sequence[Row]) -> None:
        """Raises UncertainError where the call broke off."""
        self._request(
            f"adding {len(predictions)} pre-annotations",
            "POST",
            f"/api/projects/{number}/import/predictions",
            body=list(predictions),
            repeat=False,
            timeout=_patience(len(predictions)),
        )

    def replace_data(self, task: int, data: Row) -> None:
        self._request(f"changing task {task}", "PATCH", f"/api/tasks/{task}/", body={"data": data})

    def delete_untouched(self, number: int, tasks: Sequence[int], filters: Sequence[Filter]) -> None:
        """Deletes those of the tasks that meet all filters and that nobody has answered, skipped or begun."""
        if not tasks:  # the server would take it for all of them
            return
        untouched = [
            Filter("total_annotations", "equal", "Number", 0),
            Filter("cancelled_annotations", "equal", "Number", 0),
            Filter("draft_exists", "equal", "Boolean", "false"),
        ]
        items = [condition.row() for condition in (*filters, *untouched)]
        self._request(
            f"deleting {len(tasks)} tasks that were there twice",
            "POST",
            "/api/dm/actions/",
            params={"id": "delete_tasks", "project": number},
            body={
                "filters": {"conjunction": "and", "items": items},
                "selectedItems": {"all": False, "included": list(tasks)},
                "ordering": [],
            },
        )

    def delete_prediction(self, number: int) -> None:
        self._request(
            "deleting a pre-annotation that was there twice",
            "DELETE",
            f"/api/predictions/{number}/",
            gone_is_fine=True,
        )

    def upload(self, number: int, files: Sequence[Path]) -> list[str]:
        """Stores files on the server and returns their URLs there, in order, relative to the server's address."""
        return [self._repeated(f"uploading {path.name}", partial(self._upload, number, path)) for path in files]

    def _upload(self, number: int, path: Path) -> str:
        """Twice does no harm but for the space: each copy has a name of its own, and no task shows the first."""
        with path.open("rb") as file:
            answer = self._http.post(
                f"{self.url}/api/projects/{number}/import?commit_to_project=false",
                files={path.name: (path.name, file)},
                headers=self._authorization(),
            )
        if answer.is_error:
            raise ApiError(status_code=answer.status_code, body=_body(answer))
        return f"/data/{self._sdk.files.get(id=answer.json()['file_upload_ids'][0], request_options=ONCE).file}"

    def annotate(self, task: int, answer: Row) -> None:
        """Submits an answer as a person would. Raises UncertainError where the call broke off."""
        with self._stated(f"answering task {task}", uncertain=True):
            self._sdk.annotations.create(id=task, **answer, request_options={"max_retries": 0})

    def annotations(self, task: int) -> int:
        """How many answers a task has."""
        return len(self._repeated(f"reading task {task}", lambda: self._sdk.annotations.list(id=task)))

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stays_here(self, answer: httpx.Response) -> None:
        """A redirect to another origin (http to https, mostly) turns what should be added into a mere question."""
        there = answer.url.join(answer.headers["location"]) if answer.has_redirect_location else answer.url
        if (there.scheme, there.netloc) != (answer.url.scheme, answer.url.netloc):
            raise AnnotatorError(
                f"{self.url} sends us on to {there.scheme}://{there.netloc.decode()}: set LABEL_STUDIO_URL to the"
                " address that Label Studio really has"
            )

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": self._sdk._client_wrapper.get_headers()["Authorization"]}

    def _request(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        params: Row | None = None,
        body: Any = None,
        repeat: bool = True,
        gone_is_fine: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """One request by itself, where the SDK would take its time to check what we send and get. ``repeat`` says that
        it does no harm to do it twice.
        """

        def ask() -> Any:
            answer = self._http.request(
                method,
                self.url + path,
                params=params,
                content=None if body is None else json.dumps(body, allow_nan=False),
                headers=self._authorization() | {"Content-Type": "application/json"},
                timeout=timeout or TIMEOUT,
            )
            if answer.status_code == httpx.codes.NOT_FOUND and gone_is_fine:
                return None
            if answer.is_error:
                raise ApiError(status_code=answer.status_code, body=_body(answer))
            return answer.json() if answer.content else None

        if repeat:
            return self._repeated(doing, ask)
        with self._stated(doing, uncertain=True):
            return ask()

    def _repeated(self, doing: str, ask: Callable[[], T]) -> T:
        """Asks, and asks again a little later where what went wrong may pass."""
        with self._stated(doing):
            for pause in PAUSES:
                try:
                    return ask()
                except (ApiError, httpx.TransportError) as error:
                    if not may_pass(error):
                        raise
                    time.sleep(pause)
            return ask()

    def _stated(self, doing: str, *, uncertain: bool = False) -> AbstractContextManager[None]:
        return stated(self.url, doing, uncertain=uncertain)


def _patience(count: int) -> float:
    """Seconds to wait for a call of this size that must not be repeated blindly."""
    return TIMEOUT + count / 4


def _body(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text
