"""A TCP proxy in front of a real server that does to the traffic what networks and servers do at their worst.

Each connection carries one request (the client is told ``Connection: close``); the fault of a connection is chosen when
its request is known, so that a test can say "the first import", or draw at random.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

CHUNK = 1 << 16


class Fault(StrEnum):
    """What happens to a request."""

    NONE = "passes"
    CUT_BEFORE = "cut before the server saw it"
    CUT_AFTER = "cut after the server did it"
    CUT_IN_ANSWER = "cut in the middle of the answer"
    SILENT = "done by the server, never answered"
    ERROR_BEFORE = "500 without the server having seen it"
    ERROR_AFTER = "500 after the server did it"
    REPEATED = "sent to the server twice"


@dataclass(frozen=True, slots=True)
class Request:
    """What a fault is chosen by."""

    method: str
    path: str


Choose = Callable[[Request], Fault]


@dataclass
class FaultyProxy:
    """``url`` is where to ask; ``choose`` may be changed at any time. ``seen`` lists requests with their faults."""

    target: tuple[str, int]
    choose: Choose = lambda _: Fault.NONE
    seen: list[tuple[Request, Fault]] = field(default_factory=list)
    url: str = ""
    underway: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_until_idle(self, timeout: float = 60) -> None:
        """Until the server has answered all that it was sent, also where nobody waits for it any more."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.underway == 0, timeout)

    def serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(60)
            whole = _read_request(client)
            if whole is None:
                return
            method, path, *_ = whole.split(b" ", 2)
            request = Request(method.decode(), path.decode())
            fault = self.choose(request)
            self.seen.append((request, fault))
            if fault is Fault.CUT_BEFORE:
                _reset(client)
            elif fault is Fault.ERROR_BEFORE:
                client.sendall(ERROR)
            else:
                self._forward(client, whole, fault)

    def _forward(self, client: socket.socket, whole: bytes, fault: Fault) -> None:
        with self._changed:
            self.underway += 1
        try:
            if fault is Fault.REPEATED:
                self._ask(whole)
            answer = self._ask(whole)
        finally:
            with self._changed:
                self.underway -= 1
                self._changed.notify_all()
        match fault:
            case Fault.CUT_AFTER:
                _reset(client)
            case Fault.CUT_IN_ANSWER:
                client.sendall(answer[: max(1, len(answer) // 2)])
                _reset(client)
            case Fault.SILENT:
                client.recv(1)  # until the client gives up
            case Fault.ERROR_AFTER:
                client.sendall(ERROR)
            case _:
                client.sendall(answer)

    def _ask(self, whole: bytes) -> bytes:
        with socket.create_connection(self.target, timeout=120) as server:
            server.sendall(whole)
            parts = []
            while part := server.recv(CHUNK):
                parts.append(part)
        return b"".join(parts)


ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/html\r\nContent-Length: 44\r\nConnection: close\r\n\r\n"
    b"<html><script>alert('database or disk')</sc>"
)


@contextmanager
def faulty_proxy(host: str, port: int) -> Iterator[FaultyProxy]:
    """A proxy on a free loopback port; it is gone when the block ends."""
    proxy = FaultyProxy((host, port))
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        proxy.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            with suppress(OSError):  # the listener was closed
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=_quietly, args=(proxy, client), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)


def _quietly(proxy: FaultyProxy, client: socket.socket) -> None:
    with suppress(OSError):  # the client is gone
        proxy.serve(client)


def _read_request(client: socket.socket) -> bytes | None:
    """The whole request, with ``Connection: close``; None where the client broke off, as a killed one does."""
    head, found, body = b"", -1, b""
    while found < 0:
        part = client.recv(CHUNK)
        if not part:
            return None
        head += part
        found = head.find(b"\r\n\r\n")
    head, body = head[:found], head[found + 4 :]
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        part = client.recv(CHUNK)
        if not part:
            return None
        body += part
    return b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body


def _reset(client: socket.socket) -> None:
    """Closes with a reset, as a cable that is pulled looks to the other end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
