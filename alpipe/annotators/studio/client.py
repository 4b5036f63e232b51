"""What we ask of a Label Studio server, over its SDK; every failure is an AnnotatorError of one line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from alpipe.annotators.studio.server import Connection
from alpipe.errors import AnnotatorError

Row: TypeAlias = dict[str, Any]
TIMEOUT = 60.0
PAGE = 500
UPLOADS_A_CALL = 100
KEYS_A_QUERY = 500
"""Keys in one filter: queries over about 64 KB fail."""

LOOKUP = "id,data,is_labeled,total_annotations,cancelled_annotations,predictions_model_versions"
ANSWERS = (
    "id,inner_id,data,updated_at,is_labeled,annotations,drafts,result,completed_by,was_cancelled,ground_truth,"
    "lead_time,parent_prediction,created_at,user"
)
OPEN = "id,data,is_labeled,annotations,predictions,model_version,result"


HIDDEN = [
    f"tasks:{column}"
    for column in (
        "inner_id", "annotations_results", "annotations_ids", "predictions_score", "predictions_results",
        "predictions_model_versions", "file_upload", "storage_filename", "created_at", "updated_at", "updated_by",
        "draft_exists", "data.alpipe_key",
    )
]  # fmt: skip
"""Columns that tell people nothing, and hide the image, the reason and the uncertainty behind them."""


class UncertainError(AnnotatorError):
    """The server broke off: what was asked for may have happened or not. Look before asking again.

    ``silent``: it did not answer at all, and may still be at work.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class NotThereError(AnnotatorError):
    """The server has no such project or task."""


class StudioProject:
    """The parts of a project that matter here."""

    def __init__(self, raw: Any) -> None:
        self.id: int = raw.id
        self.title: str = raw.title or ""
        self.description: str = raw.description or ""
        self.label_config: str = raw.label_config or ""
        self.model_version: str = raw.model_version or ""
        self.tasks: int = raw.task_number or 0


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
        if not connection.token:
            raise AnnotatorError("the access token for Label Studio is empty: set LABEL_STUDIO_API_KEY")
        with self._stated("connecting"):
            own = httpx.URL(connection.url).host in ("127.0.0.1", "localhost", "::1")
            # Its built-in web server answers in two small packets, and on a connection that is kept the second one
            # waits 40 ms for our acknowledgement: a new connection a request is three times faster on one machine.
            limits = httpx.Limits(max_keepalive_connections=0 if own else 4)
            self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=True, trust_env=not own, limits=limits)
            self._sdk: Any = LabelStudio(  # type: ignore[no-untyped-call]
                base_url=connection.url, api_key=connection.token, httpx_client=self._http
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    # ── projects ────────────────────────────────────────────────────────────────────────────────────────────────────

    def project(self, number: int) -> StudioProject | None:
        """The project, or None where the server has none of this number."""
        try:
            with self._stated(f"reading project {number}"):
                return StudioProject(self._sdk.projects.get(number))
        except NotThereError:
            return None

    def projects_titled(self, title: str) -> list[StudioProject]:
        with self._stated("listing projects"):
            return [StudioProject(raw) for raw in self._sdk.projects.list(title=title)]

    def create_project(self, title: str, xml: str, description: str) -> int:
        with self._stated(f"making the project {title!r}"):
            made = self._sdk.projects.create(
                title=title,
                label_config=xml,
                description=description,
                sampling="Uncertainty sampling",
                show_collab_predictions=True,
                maximum_annotations=1,
                request_options={"max_retries": 0},
            )
            return int(made.id)

    def update_project(self, number: int, **changes: Any) -> None:
        with self._stated(f"changing project {number}"):
            self._sdk.projects.update(id=number, **changes)

    def label_uses(self, number: int) -> dict[str, int]:
        """In how many answers of the project each label stands, drafts too."""
        with self._stated(f"reading which labels of project {number} are in use"):
            answer = self._http.get(f"{self.url}/api/projects/{number}/summary/", headers=self._authorization())
            if answer.is_error:
                raise ApiError(status_code=answer.status_code, body=answer.text)
            uses: dict[str, int] = {}
            for part in ("created_labels", "created_labels_drafts"):
                for counts in (answer.json().get(part) or {}).values():
                    for label, count in counts.items():
                        uses[label] = uses.get(label, 0) + int(count)
            return uses

    def ensure_storage(self, number: int, folder: Path) -> None:
        """Lets the project show the files of a folder. The storage is never synchronised."""
        with self._stated("giving the project access to its images"):
            if any(row.path == str(folder) for row in self._sdk.import_storage.local.list(project=number)):
                return
            self._sdk.import_storage.local.create(
                project=number, path=str(folder), title="alpipe images", use_blob_urls=True
            )

    def ensure_view(self, number: int, title: str) -> None:
        """A tab of the data manager that shows the most uncertain tasks first."""
        with self._stated("making the tab"):
            if any((view.data or {}).get("title") == title for view in self._views(number)):
                return
            self._sdk.views.create(
                project=number,
                data={
                    "title": title,
                    "type": "list",
                    "target": "tasks",
                    "ordering": ["-tasks:data.uncertainty"],
                    "columnsDisplayType": {"tasks:data.uncertainty": "Number"},
                    "hiddenColumns": {"explore": HIDDEN, "labeling": HIDDEN},
                },
            )

    def _views(self, number: int) -> list[Any]:
        return list(self._sdk.views.list(project=number))

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, number: int, filters: Sequence[Filter] = (), include: str = LOOKUP) -> list[Row]:
        """The project's tasks that meet any of the filters (all, where there is none).

        The server answers a misspelt filter with nothing instead of an error.
        """
        query = {"filters": {"conjunction": "or", "items": [condition.row() for condition in filters]}}
        with self._stated(f"listing the tasks of project {number}"):
            pages = self._sdk.tasks.list(
                project=number,
                fields="all",
                include=include,
                resolve_uri=False,
                page_size=PAGE,
                query=json.dumps(query) if filters else None,
            )
            return [task.model_dump() for task in pages]

    def import_tasks(self, number: int, tasks: Sequence[Row]) -> list[int]:
        """Adds tasks in one call and returns their numbers in order. Raises UncertainError where the call broke off."""
        with self._stated(f"adding {len(tasks)} tasks", uncertain=True):
            answer = self._sdk.projects.import_tasks(
                id=number, request=list(tasks), return_task_ids=True, request_options=_once(len(tasks))
            )
            ids = getattr(answer, "task_ids", None)
        if ids is None or len(ids) != len(tasks):
            raise UncertainError(f"{self.url} took {len(tasks)} tasks but did not say which; run it again in a minute")
        return [int(i) for i in ids]

    def import_predictions(self, number: int, predictions: Sequence[Row]) -> None:
        with self._stated(f"adding {len(predictions)} pre-annotations", uncertain=True):
            self._sdk.projects.import_predictions(
                id=number,
                request=list(predictions),
                request_options=_once(len(predictions)),
            )

    def replace_data(self, task: int, data: Row) -> None:
        with self._stated(f"changing task {task}"):
            self._sdk.tasks.update(id=str(task), data=data)

    def upload(self, number: int, files: Sequence[Path]) -> list[str]:
        """Stores files on the server and returns their URLs there, in order, relative to the server's address."""
        urls = []
        for start in range(0, len(files), UPLOADS_A_CALL):
            for path in files[start : start + UPLOADS_A_CALL]:
                with self._stated(f"uploading {path.name}"), path.open("rb") as file:
                    answer = self._http.post(
                        f"{self.url}/api/projects/{number}/import?commit_to_project=false",
                        files={path.name: (path.name, file)},
                        headers=self._authorization(),
                    )
                    if answer.is_error:
                        raise ApiError(status_code=answer.status_code, body=answer.text)
                    stored = self._sdk.files.get(id=answer.json()["file_upload_ids"][0])
                    urls.append(f"/data/{stored.file}")
        return urls

    def annotate(self, task: int, answer: Row) -> None:
        """Submits an answer as a person would. Raises UncertainError where the call broke off."""
        with self._stated(f"answering task {task}", uncertain=True):
            self._sdk.annotations.create(id=task, **answer, request_options={"max_retries": 0})

    def annotations(self, task: int) -> int:
        """How many answers a task has."""
        with self._stated(f"reading task {task}"):
            return len(self._sdk.annotations.list(id=task))

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": self._sdk._client_wrapper.get_headers()["Authorization"]}

    @contextmanager
    def _stated(self, doing: str, *, uncertain: bool = False) -> Iterator[None]:
        """Turns what goes wrong into one line that says what to do."""
        try:
            yield
        except ApiError as error:
            message = self._refusal(doing, error)
            if error.status_code == httpx.codes.NOT_FOUND:
                raise NotThereError(message) from error
            if uncertain and (error.status_code or 0) >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise UncertainError(message) from error
            raise AnnotatorError(message) from error
        except httpx.TimeoutException as error:
            message = f"{self.url} did not answer in time while {doing}; run it again in a minute"
            raise (UncertainError(message, silent=True) if uncertain else AnnotatorError(message)) from error
        except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise AnnotatorError(
                f"no Label Studio can be reached at {self.url} ({error}): start it with 'alpipe labelstudio up',"
                " or check LABEL_STUDIO_URL"
            ) from error
        except httpx.HTTPError as error:
            message = f"the connection to {self.url} broke while {doing}: {error or type(error).__name__}"
            raise (UncertainError(message, silent=True) if uncertain else AnnotatorError(message)) from error
        except OSError as error:
            raise AnnotatorError(f"{error.filename}: cannot be read while {doing}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:  # also pydantic's and JSON's errors
            raise AnnotatorError(
                f"{self.url} answered something unexpected while {doing}: {type(error).__name__};"
                " is it a Label Studio server?"
            ) from error

    def _refusal(self, doing: str, error: ApiError) -> str:
        match error.status_code:
            case 401:
                why = " (it has expired)" if "expired" in str(error.body) else ""
                return f"{self.url} refuses the token{why}: check LABEL_STUDIO_API_KEY, or run 'alpipe labelstudio up'"
            case 403:
                return f"{self.url} does not permit {doing}: use the token of an account that may"
            case 404 | 405 | 501:
                return f"{self.url} has nothing there while {doing}; was it deleted, or is this no Label Studio server?"
            case status:
                return f"{self.url} answered {status} while {doing}: {_detail(error.body)}"


def _once(count: int) -> Any:
    """Options for a call that must not be repeated blindly, with time to spare for its size."""
    return {"max_retries": 0, "timeout_in_seconds": int(TIMEOUT + count / 4)}


def _detail(body: Any) -> str:
    if isinstance(body, dict):
        reasons = body.get("validation_errors") or body.get("detail") or body
        return str(reasons)[:300]
    text = str(body or "no reason given").strip()
    return "an error page" if text.startswith("<") else text[:300]
