"""The interface of a toolchain: a way to run Intel's NPU compiler, which turns a `CompilerRequest` into a blob.

A blob that `compile` wrote is complete and for the requested platform; otherwise there is an error and no file.
"""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from npu_persist.artifact.blob import read_blob
from npu_persist.errors import BlobError, CompilationError, StoreError
from npu_persist.files.filesystem import remove_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npu_persist.compilation.process.supervisor import Limits

_FULL = 1024 * 1024
"""A disk with fewer bytes left is full: the blob took what there was."""

_LINE = re.compile(r"\[(TRACE|DEBUG|INFO|WARNING|ERROR)\] [0-9:.]+ \[([^\]]+)\]\s*(.*)", re.ASCII)
_REPORT = re.compile(r"[=-]{3}|\.\.\. .* \.\.\.|[0-9.]+ +\(|.*[0-9]%\)|Total Execution Time")
"""Lines of the timing report, 600 of them."""

_ID = re.compile(r"Current compiler ID: (\S+)")
_CHATTER = frozenset({"VCLCompilerImpl", "PluginCompilerAdapter", "NPU_VCL", "dump-statistics-of-ie-ops"})
"""Sources of lines that repeat, and do not show how far the compilation is."""

_SOURCE = re.compile(r"(Exception from |Check '.*' failed at )\S+:[0-9]+:?\s*$|.*\bvclAllocatedExecutableCreate")
_COMPILERS_MESSAGE = "Compiler returned msg:"
_NO_MESSAGE = "Compilation failed"


class CompilerRequest(msgspec.Struct, frozen=True):
    """One graph to compile for the NPU. It goes as it is to the process that compiles.

    Attributes:
        graph: Path of its IR.
        weights: Path of the file of its weights.
        output: Where the blob goes: a new file in a folder that is there.
        platform: Number of the NPU's platform; None for that of this machine's NPU.
        shapes: New shapes of inputs by one of their names; None: as in the graph.
        properties: OpenVINO's properties of the NPU, as text.
        options: Those that the plugin reads from the compilation alone: NPUW's.
        weightless: Whether the blob leaves the weights to the weights file.
        libraries: The folder that OpenVINO's libraries are loaded from; None for where they are installed.
    """

    graph: str
    weights: str
    output: str
    platform: str | None
    shapes: dict[str, tuple[int, ...]] | None = None
    properties: dict[str, str] = {}
    options: dict[str, str] = {}
    weightless: bool = False
    libraries: str | None = None

    def device_properties(self) -> dict[str, str]:
        """Return all properties of the NPU for the request; its own go before ours."""
        ours = {"LOG_LEVEL": "LOG_INFO"}  # costs 60 kB and no time, and is all that is seen of a compilation
        if self.platform is not None:
            ours["NPU_PLATFORM"] = self.platform
        if self.weightless:
            ours["ENABLE_WEIGHTLESS"] = "YES"
        return ours | self.properties


@dataclass(frozen=True)
class CompilerResult:
    """What is known of a compilation besides the blob.

    Attributes:
        requirements: OpenVINO's RUNTIME_REQUIREMENTS; None where it has none, as for some weightless blobs.
        seconds: How long it took, the start of the process included.
        peak_memory: The most resident memory that the process held, in bytes; None where it is not known.
        openvino: The full version of OpenVINO that wrote the blob.
        compiler: The compiler's name of itself, or at least its version; None where neither is known.
        log: The last lines of the compiler's log.
    """

    requirements: str | None
    seconds: float
    peak_memory: int | None
    openvino: str
    compiler: str | None
    log: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """Whether a toolchain can be used here.

    Attributes:
        usable: Whether it can.
        reason: Why, or what is missing.
        openvino: OpenVINO's version that it compiles with.
        compiler: The compiler's name of itself, where that is known without running it.
        advice: The command that makes it usable; None where it is, or where nothing on this system does.
    """

    usable: bool
    reason: str
    openvino: str | None = None
    compiler: str | None = None
    advice: str | None = None


class Toolchain(Protocol):
    """A way to the NPU's compiler."""

    @property
    def name(self) -> str:
        """`plugin`, `libraries` or `wine`."""

    def examine(self) -> State:
        """Tell whether it can be used, in milliseconds: nothing is run."""

    def compile(self, request: CompilerRequest, limits: Limits | None = None) -> CompilerResult:
        """Compile in a separate process, and write the blob; StoreError if the disk is full."""


@contextmanager
def checked_blob(request: CompilerRequest) -> Iterator[None]:
    """Check that the block wrote the whole blob, for the right platform; if not, remove the file.

    OpenVINO's export does not notice a full disk, neither in C nor through a stream (seen with 2026.4.1): the missing
    end of the file does.
    """
    try:
        yield
        _check_blob(Path(request.output), request.platform)
    except BaseException:
        remove_file(Path(request.output))
        raise


def _check_blob(output: Path, platform: str | None) -> None:
    try:
        blob = read_blob(output, "NPU")
    except (BlobError, OSError) as error:
        if shutil.disk_usage(output.parent).free < _FULL:
            raise StoreError(
                f"could not write {output}: the disk is full. Free some space and compile again", errno=ENOSPC
            ) from error
        raise CompilationError(
            f"{output}: the compiler succeeded, but the blob is incomplete. Compile again; if it fails "
            f"again, check disk space and quota. {error}"
        ) from error
    found = None if blob.requirements is None else blob.requirements.platform
    if None not in {platform, found} and found != platform:
        raise CompilationError(f"{output}: expected a blob for NPU platform {platform}, got one for {found}")


class CompilerLog:
    """Reads a log of OpenVINO's NPU plugin line by line: `tidy` for `supervise`.

    Attributes:
        compiler: The compiler's name of itself, once it has said it.
    """

    def __init__(self) -> None:
        self.compiler: str | None = None

    def __call__(self, line: str) -> str | None:
        """Return what is worth showing of a line; None if nothing is."""
        if name := _ID.search(line):
            self.compiler = name[1]
        if found := _LINE.match(line):
            level, who, what = found.groups()
            return None if level in {"TRACE", "DEBUG", "INFO"} and who in _CHATTER else f"{who}: {what}"
        return None if _REPORT.match(line) else line


def extract_reason(message: str, log: Sequence[str] = ()) -> str:
    r"""Return the compiler's part of one of OpenVINO's error messages, or OpenVINO's own without its source locations.

    >>> extract_reason("Exception from src/a.cpp:1:\nCompilation failed. [NPU_VCL] Compiler returned msg:\nno such op")
    'no such op'
    >>> extract_reason("Compiler returned msg:\nCompilation failed", ["vpux-compiler: Tiling Pass failed : too large"])
    'Compilation failed: Tiling Pass failed : too large'
    """
    _, found, words = message.partition(_COMPILERS_MESSAGE)
    if found and words.strip() == _NO_MESSAGE:
        reasons = [line.partition(": ")[2] for line in log if " failed" in line]
        return ": ".join([_NO_MESSAGE, "; ".join(reasons)]) if reasons else _NO_MESSAGE
    if found and words.strip():
        return words.strip()
    lines = [line for line in message.splitlines() if line.strip() and not _SOURCE.match(line)]
    return "\n".join(lines).strip() or message.strip() or "OpenVINO gave no reason"
