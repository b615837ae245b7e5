"""Read what a supervised process writes: its messages apart from its log."""

from __future__ import annotations

import json
import os
import re
import selectors
import sys
import threading
import time
from collections import deque
from typing import IO, TYPE_CHECKING, Any, cast, final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from queue import SimpleQueue

LOG_LINES = 20
"""How many of the process's last lines are kept."""

_LINES_IN_ERRORS = 8
"""How many of them an error shows."""

_PIECE = 64 * 1024
_LONGEST_LINE = 1024 * 1024
"""Bytes that are kept of a line. A longer one is no message."""

_MOST_WAITING = 100
"""Messages that wait to be delivered."""

_PAUSE = 0.01

_LONGEST_LOG_LINE = 500
"""Characters that are kept of a line of the log."""

_LAST_BYTES = 1024 * 1024
"""Most that is read of a pipe that something else holds open when the process is gone."""

_MESSAGES = frozenset({"stage", "message", "result", "failure"})

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
"""Escape sequences of terminals (ECMA-48): colours and titles."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@final
class OutputReader:
    """Reads a process's output in threads for as long as the block lasts; then the process is ended.

    Attributes:
        answered: Set when there is an answer.
        answer: The message that ended the job.
        log: The last lines.
        line: The last line or stage.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        request: bytes,
        end: Callable[[], None],
        *,
        tidy: Callable[[str], str | None] | None,
        messages: SimpleQueue[Any] | None,
    ) -> None:
        self.answered = threading.Event()
        self.answer: dict[str, Any] | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.line: str | None = None
        self._process = process
        self._request = request
        self._end_process = end
        self._tidy = tidy
        self._messages = messages
        self._has_ended = False
        self._block_ended, self._end_block = os.pipe()
        self._threads = [
            threading.Thread(target=serve, args=(stream,), daemon=True)
            for stream, serve in (
                (process.stdin, self._send_request),
                (process.stdout, self._read_stdout),
                (process.stderr, self._read_stderr),
            )
        ]

    def __enter__(self) -> OutputReader:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end_process()
        self._has_ended = True
        os.close(self._end_block)  # the threads end, even if another process holds the pipes
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        os.close(self._block_ended)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            cast("IO[bytes]", stream).close()

    def describe_log(self) -> str:
        """Return the last lines as a sentence for an error."""
        return f"Last output: {' | '.join([*self.log][-_LINES_IN_ERRORS:]) or 'none'}"

    def _send_request(self, stream: IO[bytes]) -> None:
        # In a thread, because the process may never read it. Raw, because closing the stream would write its buffer.
        view = memoryview(self._request)
        try:
            while view:
                view = view[os.write(stream.fileno(), view) :]
        except OSError:  # it has ended, and its output says why
            return

    def _read_stdout(self, stream: IO[bytes]) -> None:
        for line in self._lines(stream):
            message = _parse(line)
            if message is None:
                self._add_to_log(line)
            elif "stage" in message:
                self.line = _clean(str(message["stage"]).encode())
            elif "message" in message:
                if self._messages is not None:
                    while self._messages.qsize() >= _MOST_WAITING and not self._has_ended:
                        time.sleep(_PAUSE)  # it fills the pipe, and not this process's memory
                    self._messages.put(message["message"])
            elif self.answer is None:
                self.answer = message
                self.answered.set()

    def _read_stderr(self, stream: IO[bytes]) -> None:
        for line in self._lines(stream):
            self._add_to_log(line)

    def _add_to_log(self, line: bytes) -> None:
        text: str | None = _clean(line)
        if text and self._tidy is not None:
            text = self._tidy(text)
        if text:
            self.log.append(text)
            self.line = text

    def _lines(self, stream: IO[bytes]) -> Iterator[bytes]:
        line = bytearray()
        for piece in self._pieces(stream.fileno()):
            first, *others = piece.split(b"\n")
            line += first[: _LONGEST_LINE - len(line)]
            for other in others:
                yield bytes(line)
                line = bytearray(other)
        if line:
            yield bytes(line)

    def _pieces(self, descriptor: int) -> Iterator[bytes]:
        """Yield what comes until the pipe or the block ends: a process that outlives this one may hold the pipe."""
        if sys.platform == "win32":
            while piece := os.read(descriptor, _PIECE):
                yield piece
            return
        left = _LAST_BYTES
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            selector.register(self._block_ended, selectors.EVENT_READ)
            while True:
                ready = [key.fd for key, _ in selector.select()]
                if descriptor not in ready or left <= 0:
                    return
                if not (piece := os.read(descriptor, _PIECE)):
                    return
                left -= len(piece) if self._block_ended in ready else 0
                yield piece


def _parse(line: bytes) -> dict[str, Any] | None:
    if line.startswith(b"{") and len(line) < _LONGEST_LINE:
        try:
            # A damaged text still answers. NaN and infinities are no JSON.
            message = json.loads(line.decode(errors="replace"), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        if isinstance(message, dict) and len(message) == 1 and message.keys() <= _MESSAGES:
            return message
    return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _clean(line: bytes) -> str:
    text = line[: 4 * _LONGEST_LOG_LINE].decode(errors="replace")
    return _UNPRINTABLE.sub(" ", _ESCAPE.sub("", text)).strip()[:_LONGEST_LOG_LINE]
