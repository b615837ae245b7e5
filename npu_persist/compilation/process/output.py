"""What a supervised process says, heard by threads: its messages apart from its log; and how it is ended.

The promise: when the block ends the process is gone and the threads have ended, whoever else holds its pipes; what is
held of all that it said is bounded.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import IO, TYPE_CHECKING, Any, cast, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG_LINES = 20
"""How many of the process's last lines are kept."""

_SAID_LINES = 8
"""How many of them an error says."""

_PIECE = 64 * 1024
_LONGEST_LINE = 1024 * 1024
"""Bytes of a line; what is beyond them is dropped, and a message that long is none."""

_LONGEST_LOG_LINE = 500
"""Characters that are kept of a line of the log."""

_LAST_BYTES = 1024 * 1024
"""Most that is read of a pipe that something else holds open when the process is gone."""

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
"""Escape sequences of terminals (ECMA-48): colours and titles."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@final
class Hearing:
    """What a process says, heard by threads, for as long as the block lasts; then the process is gone.

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
        tidy: Callable[[str], str | None] | None,
        *,
        shares_children: bool,
    ) -> None:
        self.answered = threading.Event()
        self.answer: dict[str, Any] | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.line: str | None = None
        self._process = process
        self._request = request
        self._tidy = tidy
        self._end_process = _end_one if shares_children else _end_all
        self._over, self._end = os.pipe()
        streams = ((process.stdout, self._hear_stdout), (process.stderr, self._hear_stderr))
        self._threads = [
            threading.Thread(target=hear, args=(stream,), daemon=True)
            for stream, hear in ((process.stdin, self._send), *streams)
        ]

    def __enter__(self) -> Hearing:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end_process(self._process)
        os.close(self._end)  # the threads end, whoever else holds the pipes
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        os.close(self._over)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            cast("IO[bytes]", stream).close()

    def say_log(self) -> str:
        """Return the last lines as a sentence for an error."""
        return f"Its last words: {' | '.join([*self.log][-_SAID_LINES:]) or 'none'}"

    def _send(self, stream: IO[bytes]) -> None:
        # A thread: the process may not read, and then this would wait for ever. Raw, since closing the stream would
        # write what is buffered.
        view = memoryview(self._request)
        try:
            while view:
                view = view[os.write(stream.fileno(), view) :]
        except OSError:  # it has ended, and its last words say why
            return

    def _hear_stdout(self, stream: IO[bytes]) -> None:
        for line in self._lines(stream):
            message = _parse(line)
            if message is None:
                self._keep(line)
            elif "stage" in message:
                self.line = _clean(str(message["stage"]).encode())
            elif self.answer is None:
                self.answer = message
                self.answered.set()

    def _hear_stderr(self, stream: IO[bytes]) -> None:
        for line in self._lines(stream):
            self._keep(line)

    def _keep(self, line: bytes) -> None:
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
        """Yield what comes until the pipe ends, or the block does: something that outlives the process may hold it."""
        if sys.platform == "win32":
            while piece := os.read(descriptor, _PIECE):
                yield piece
            return
        left = _LAST_BYTES
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            selector.register(self._over, selectors.EVENT_READ)
            while True:
                ready = [key.fd for key, _ in selector.select()]
                if descriptor not in ready or left <= 0:
                    return
                if not (piece := os.read(descriptor, _PIECE)):
                    return
                left -= len(piece) if self._over in ready else 0
                yield piece


def _parse(line: bytes) -> dict[str, Any] | None:
    if line.startswith(b"{") and len(line) < _LONGEST_LINE:
        try:
            message = json.loads(line.decode(errors="replace"))  # no caller waits for ever for a damaged text
        except (ValueError, RecursionError):
            return None
        if isinstance(message, dict) and len(message) == 1 and message.keys() <= {"stage", "result", "failure"}:
            return message
    return None


def _clean(line: bytes) -> str:
    text = line[: 4 * _LONGEST_LOG_LINE].decode(errors="replace")
    return _UNPRINTABLE.sub(" ", _ESCAPE.sub("", text)).strip()[:_LONGEST_LOG_LINE]


def _end_one(process: subprocess.Popen[bytes]) -> None:
    """End a process, and wait for it."""
    process.kill()
    process.wait()


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, and wait for the process."""
    if sys.platform == "win32":
        if process.poll() is None:
            # https://learn.microsoft.com/windows-server/administration/windows-commands/taskkill: /t takes children.
            subprocess.run(  # noqa: S603
                ["taskkill", "/f", "/t", "/pid", str(process.pid)],  # noqa: S607 (a part of Windows)
                capture_output=True,
                check=False,
            )
            process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # reaped already
            pass
        except PermissionError:  # macOS, of a group of zombies
            process.kill()
    process.wait()
