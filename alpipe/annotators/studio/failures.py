"""What goes wrong between us and a server: each failure as an AnnotatorError of one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from label_studio_sdk.core.api_error import ApiError

from alpipe.errors import AnnotatorError

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed a moment later."""


class UncertainError(AnnotatorError):
    """The server broke off: what was asked for may have happened or not. Look before asking again.

    ``silent``: it did not answer at all, and may still be at work.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class NotThereError(AnnotatorError):
    """The server has no such project or task."""


def may_pass(error: ApiError | httpx.TransportError) -> bool:
    """Whether asking again a moment later may help: a cut connection, a server that starts or is overloaded."""
    if isinstance(error, ApiError):
        return error.status_code in PASSING
    return not isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.TimeoutException)


@contextmanager
def stated(url: str, doing: str, *, uncertain: bool = False) -> Iterator[None]:
    """Turns what goes wrong into one line. ``uncertain``: what was asked for must not be asked for twice, so a failure
    after which it may have happened is an UncertainError.
    """
    try:
        yield
    except ApiError as error:
        message = _refusal(url, doing, error)
        if error.status_code == httpx.codes.NOT_FOUND:
            raise NotThereError(message) from error
        if uncertain and (error.status_code or 0) >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise UncertainError(message) from error
        raise AnnotatorError(message) from error
    except httpx.TimeoutException as error:
        message = f"{url} did not answer in time while {doing}; run it again in a minute"
        raise (UncertainError(message, silent=True) if uncertain else AnnotatorError(message)) from error
    except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise AnnotatorError(
            f"no Label Studio can be reached at {url} ({error}): start it with 'alpipe labelstudio up',"
            " or check LABEL_STUDIO_URL"
        ) from error
    except httpx.HTTPError as error:
        message = f"the connection to {url} broke while {doing}: {error or type(error).__name__}"
        raise (UncertainError(message, silent=True) if uncertain else AnnotatorError(message)) from error
    except OSError as error:
        raise AnnotatorError(f"{error.filename}: cannot be read while {doing}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:  # also pydantic's and JSON's errors
        message = (
            f"{url} answered something unexpected while {doing}: {type(error).__name__}; is it a Label Studio server?"
        )
        raise (UncertainError(message) if uncertain else AnnotatorError(message)) from error


def _refusal(url: str, doing: str, error: ApiError) -> str:
    match error.status_code:
        case 401:
            why = " (it has expired)" if "expired" in str(error.body) else ""
            return f"{url} refuses the token{why}: check LABEL_STUDIO_API_KEY, or run 'alpipe labelstudio up'"
        case 403:
            return f"{url} does not permit {doing}: use the token of an account that may"
        case 404 | 405 | 501:
            return f"{url} has nothing there while {doing}; was it deleted, or is this no Label Studio server?"
        case status:
            return f"{url} answered {status} while {doing}: {_detail(error.body)}"


def _detail(body: Any) -> str:
    if isinstance(body, dict):
        reasons = body.get("validation_errors") or body.get("detail") or body
        return str(reasons)[:300]
    text = str(body or "no reason given").strip()
    return "an error page" if text.startswith("<") else text[:300]
