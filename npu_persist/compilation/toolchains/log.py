"""What the NPU's compiler says while it works and when it refuses: made short enough to be read.

The promise: of the compiler's own words on an error nothing is left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINE = re.compile(r"\[(TRACE|DEBUG|INFO|WARNING|ERROR)\] [0-9:.]+ \[([^\]]+)\]\s*(.*)", re.ASCII)
_REPORT = re.compile(r"[=-]{3}|\.\.\. .* \.\.\.|[0-9.]+ +\(|.*[0-9]%\)|Total Execution Time")
"""Lines of the timing report, 600 of them."""

_ID = re.compile(r"Current compiler ID: (\S+)")
_CHATTER = frozenset({"VCLCompilerImpl", "PluginCompilerAdapter", "NPU_VCL", "dump-statistics-of-ie-ops"})
"""Those who say the same thing many times, and nothing of how far the compilation is."""

_SOURCE = re.compile(r"(Exception from |Check '.*' failed at )\S+:[0-9]+:?\s*$|.*\bvclAllocatedExecutableCreate")
_OWN_WORDS = "Compiler returned msg:"
_NO_WORDS = "Compilation failed"


class CompilerLog:
    """Reads a log of OpenVINO's NPU plugin line by line: `tidy` for `process.supervise`.

    Attributes:
        compiler: The compiler's name of itself, once it has said it.
    """

    def __init__(self) -> None:
        self.compiler: str | None = None

    def __call__(self, line: str) -> str | None:
        """Return what is worth to be shown of a line; None if nothing is."""
        if name := _ID.search(line):
            self.compiler = name[1]
        if said := _LINE.match(line):
            level, who, what = said.groups()
            return None if level in {"TRACE", "DEBUG", "INFO"} and who in _CHATTER else f"{who}: {what}"
        return None if _REPORT.match(line) else line


def explain(message: str, log: Sequence[str] = ()) -> str:
    r"""Return the compiler's own words of one of OpenVINO's error messages; those of OpenVINO where it has none.

    Args:
        message: What OpenVINO said.
        log: The compiler's last lines, which say why where the message says no more than that it failed.

    >>> explain("Exception from src/a.cpp:1:\nCompilation failed. [NPU_VCL] Compiler returned msg:\nno such op")
    'no such op'
    >>> explain("Compiler returned msg:\nCompilation failed", ["vpux-compiler: Tiling Pass failed : too large"])
    'Compilation failed: Tiling Pass failed : too large'
    """
    _, found, words = message.partition(_OWN_WORDS)
    if found and words.strip() == _NO_WORDS:
        reasons = [line.partition(": ")[2] for line in log if " failed" in line]
        return ": ".join([_NO_WORDS, "; ".join(reasons)]) if reasons else _NO_WORDS
    if found and words.strip():
        return words.strip()
    lines = [line for line in message.splitlines() if line.strip() and not _SOURCE.match(line)]
    return "\n".join(lines).strip() or message.strip() or "OpenVINO gave no reason"
