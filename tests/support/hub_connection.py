"""The connections of a small hub: a request's body comes in, an answer goes out, and faults happen in between."""

from __future__ import annotations

import json
import re
import sys
import traceback
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.support.hub_server import HubServer

PIECE = 1024 * 1024


@dataclass
class Request:
    """One request, with the bytes of both bodies as they went over the wire."""

    method: str
    path: str
    received: int = 0
    sent: int = 0
    status: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    """What goes wrong with requests that a pattern finds."""

    pattern: re.Pattern[str]
    times: int
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """Hang up when so many bytes of the request's body have come."""
    corrupt: bool = False
    """Change one byte of the answer's body."""
    short: int | None = None
    """Hang up after so many bytes of the answer's body."""
    stall: bool = False
    """Answer nothing until the server ends."""
    body: bytes | None = None
    """Answer this, with 200."""
    act: Callable[[], object] | None = None
    """Call this first: something else that happens in between."""


class HubHttp(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed is no error of this server's
            self.hub.errors.append(traceback.format_exc())


class RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code


class HangUpError(Exception):
    pass


class Answer(NamedTuple):
    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes | Path = b""


def as_json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode())


class Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubHttp

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        split = urlsplit(self.path)
        self.hub, self.query = self.server.hub, parse_qs(split.query)
        self.request_note = Request(self.command, split.path)
        with self.hub.lock:
            self.hub.requests.append(self.request_note)
        self.fault = self.hub.take_fault(self.request_note)
        try:
            self._answer(split.path)
        except (HangUpError, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 (http.server's names)

    def _answer(self, path: str) -> None:
        fault = self.fault
        if fault is not None and fault.act is not None:
            fault.act()
        if fault is not None and fault.stall:
            self.hub.ended.wait()
            raise HangUpError
        try:
            answer = self.take_object(path) if self.command == "PUT" else self.ask(path, b"".join(self.body()))
        except RefusalError as refusal:
            self._refuse(refusal)
        else:
            self._send(answer)

    def ask(self, path: str, body: bytes) -> Answer:
        """Answer a request whose body has come."""
        raise NotImplementedError

    def take_object(self, path: str) -> Answer:
        """Answer a PUT, whose body comes now."""
        raise NotImplementedError

    def body(self) -> Iterator[bytes]:
        limit = self.fault.drop_after if self.fault is not None else None
        for piece in self._pieces():
            self.request_note.received += len(piece)
            if limit is not None and self.request_note.received >= limit:
                raise HangUpError
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read1(min(PIECE, left))
            if not piece:
                raise HangUpError
            left -= len(piece)
            yield piece

    def _send(self, answer: Answer) -> None:
        body, note = answer.body, self.request_note
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        start, end = 0, size
        status, headers = answer.status, dict(answer.headers)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and status == HTTPStatus.OK and not isinstance(body, bytes):
            start, end = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            if start >= size:
                status, start, end = 416, 0, 0
                headers["Content-Range"] = f"bytes */{size}"
            else:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        note.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(end - start), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in self._broken(_read(body, start, end)):
            self.wfile.write(piece)
            note.sent += len(piece)

    def _broken(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        fault = self.fault
        left = fault.short if fault is not None else None
        for number, piece in enumerate(pieces):
            data = piece
            if fault is not None and fault.corrupt and number == 0:
                middle = len(data) // 2
                data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            if left is not None:
                yield data[:left]
                left -= len(data)
                if left <= 0:
                    raise HangUpError
                continue
            yield data

    def _refuse(self, refusal: RefusalError) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": str(refusal)}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        self._send(Answer(refusal.status, headers, json.dumps({"error": str(refusal)}).encode()))


def _read(body: bytes | Path, start: int, end: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        if body:
            yield body[start:end]
        return
    with body.open("rb") as file:
        yield from _read_range(file, start, end)


def _read_range(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left and (piece := file.read(min(PIECE, left))):
        left -= len(piece)
        yield piece
