"""What every toolchain is: a way to Intel's NPU compiler, and what it is given and gives back.

The promise: a blob that `compile` wrote is whole and for the platform that was asked for, or there is an error and no
file.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import ENOSPC
from typing import TYPE_CHECKING, Protocol, TypedDict

from npu_persist.artifact.blob import read_blob
from npu_persist.errors import BlobError, CompilationError, StoreError
from npu_persist.files.filesystem import remove_file

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from typing_extensions import Unpack

    from npu_persist.compilation.process import CompileProgress

DEVICE = "NPU"
"""OpenVINO's name of the device."""

_FULL = 1024 * 1024
"""A disk with fewer bytes left is full: the blob took what there was."""


class Limits(TypedDict, total=False):
    """The limits of a job, and who watches it; see `process.supervise`."""

    timeout: float | None
    memory_limit: int | None
    progress: Callable[[CompileProgress], object] | None
    cancelled: threading.Event | None


@dataclass(frozen=True)
class CompileJob:
    """One graph to compile.

    Attributes:
        graph: Its IR.
        weights: The file of its weights.
        output: Where the blob goes: a path in a folder that is there, where nothing is yet.
        platform: Number of the NPU's platform; None for that of this machine's NPU.
        shapes: New shapes of inputs by one of their names; None: as in the graph.
        properties: OpenVINO's properties of the NPU, as text.
        weightless: Whether the blob leaves the weights to the weights file.
    """

    graph: Path
    weights: Path
    output: Path
    platform: str | None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    weightless: bool = False

    def device_properties(self) -> dict[str, str]:
        """Return all properties of the NPU that the job needs; the job's own go before ours."""
        ours = {"LOG_LEVEL": "LOG_INFO"}  # costs 60 kB and no time, and is all that is seen of a compilation
        if self.platform is not None:
            ours["NPU_PLATFORM"] = self.platform
        if self.weightless:
            ours["ENABLE_WEIGHTLESS"] = "YES"
        return ours | dict(self.properties)


@dataclass(frozen=True)
class Outcome:
    """What came of a job, besides the blob.

    Attributes:
        requirements: OpenVINO's RUNTIME_REQUIREMENTS; None where it has none, as for some weightless blobs.
        seconds: How long it took, the start of the process included.
        peak_memory: The most resident memory that the process held, in bytes; None where the system does not tell.
        openvino: The full version of OpenVINO that wrote the blob.
        compiler: The compiler's own name of itself, or at least its version; None where neither was said.
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

    def compile(self, job: CompileJob, **limits: Unpack[Limits]) -> Outcome:
        """Compile in a process of its own, and write the blob.

        Args:
            job: What to compile.
            limits: `timeout`, `memory_limit`, `progress` and `cancelled`, as for `process.supervise`.

        Raises:
            ToolchainError: The toolchain is damaged, missing or of another OpenVINO version.
            CompileTimeoutError: It took longer.
            CompileMemoryError: It held more memory.
            CompilationError: The compiler refused the graph, in its own words; or it crashed, or was cancelled.
            StoreError: The blob cannot be written: the disk is full.
        """


@contextmanager
def checked_blob(job: CompileJob) -> Iterator[None]:
    """See that the block wrote the job's blob, the whole of it and for the right platform; if not, remove the file.

    OpenVINO's export does not notice a full disk, neither in C nor through a stream (seen with 2026.4.1): the missing
    end of the file does.

    Raises:
        StoreError: The disk is full.
        CompilationError: The blob is not as it must be for another reason.
    """
    try:
        yield
        _check_blob(job)
    except BaseException:
        remove_file(job.output)
        raise


def _check_blob(job: CompileJob) -> None:
    try:
        blob = read_blob(job.output, "NPU")
    except (BlobError, OSError) as error:
        if shutil.disk_usage(job.output.parent).free < _FULL:
            raise StoreError(
                f"could not write {job.output}: the disk is full. Free some space and compile again", errno=ENOSPC
            ) from error
        raise CompilationError(
            f"{job.output}: the compiler ended well, but the blob is not whole. Compile again, and look at the "
            f"disk and its quota if it stays so. {error}"
        ) from error
    found = None if blob.requirements is None else blob.requirements.platform
    if None not in {job.platform, found} and found != job.platform:
        raise CompilationError(f"{job.output}: expected a blob for NPU platform {job.platform}, got one for {found}")
