"""The NPU compiler of OpenVINO's Windows wheel, under wine: Linux without an NPU, and without Intel's archives.

The promise: every byte of what runs is compared with its digest before each use; the compiler's process and its memory
limit are those of a native program (wine runs it in the process that was started).

The program gets relative paths of ASCII through a folder of links, for a Windows program cannot be told every path that
Linux has, and OpenVINO's export there takes no other characters:

    job/model.xml -> the graph    job/model.bin -> its weights    job/out -> the folder of the blob
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.compilation.process import Answer, SilentError, supervise
from npu_persist.compilation.toolchains.base import CompileJob, Outcome, State, checked_blob
from npu_persist.compilation.toolchains.log import CompilerLog, explain
from npu_persist.compilation.toolchains.native import installed_version
from npu_persist.compilation.toolchains.record import BIN, PREFIX, Record, digest_source, read_record, verify
from npu_persist.errors import CompilationError, ToolchainError, UsageError
from npu_persist.store.folder import default_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack

    from npu_persist.compilation.toolchains.base import Limits

HOME_VARIABLE = "NPU_PERSIST_TOOLCHAINS"
"""Environment variable that names the folder of installed toolchains."""

GCC = "x86_64-w64-mingw32-gcc"
"""What builds the host program."""

INSTALL = "npu-persist toolchain install"
"""The command that installs this toolchain."""

HOST = "host.exe"

FIRST_WORD = 60.0
"""Seconds within which the host program says what it does; that takes one or two, while wine starts."""

_log = logging.getLogger(__name__)

_PACKAGES = {"wine": "wine", "wineserver": "wine", "wineboot": "wine", GCC: "gcc-mingw-w64-x86-64"}
"""Programs → Debian's packages of them."""

_FOLDER = re.compile(r"wine-([0-9]{1,6}(\.[0-9]{1,6}){1,3})", re.ASCII)
_BUILTIN_OFF = "mscoree=d;mshtml=d;winemenubuilder.exe,winedbg.exe=d;msvcp140,vcruntime140,vcruntime140_1=n"
"""No .NET, no browser, no menus of the desktop, no debugger; Microsoft's runtime as installed, not wine's own."""


class WineToolchain:
    """The compiler of the Windows wheel under wine, as `toolchain install` made it.

    Attributes:
        folder: Where it is, or would be.
    """

    name = "wine"

    def __init__(self, home: Path | None = None) -> None:
        """Take the one for the installed OpenVINO.

        Args:
            home: The folder of toolchains; None for `find_home()`.
        """
        self._home = find_home() if home is None else home
        self._version = installed_version()
        self.folder = self._home / f"wine-{self._version}"

    def examine(self) -> State:
        """See `Toolchain`."""
        if not (sys.platform == "linux" and platform.machine() == "x86_64"):
            return State(False, "for Linux on x86-64 only")  # noqa: FBT003
        if not self.folder.is_dir():
            packages = find_missing(building=True)
            advice = f"{say_packages(packages)} && {INSTALL}" if packages else INSTALL
            others = ", ".join(sorted(version for version, _ in list_installed(self._home)))
            reason = f"it is installed for OpenVINO {others}, not for {self._version}" if others else "not installed"
            return State(False, reason, advice=advice)  # noqa: FBT003
        try:
            record = read_record(self.folder)
            self._check(record)
        except ToolchainError as error:
            return State(False, str(error), advice=INSTALL)  # noqa: FBT003
        if packages := find_missing(building=False):
            return State(False, "wine is not installed", advice=say_packages(packages))  # noqa: FBT003
        return State(True, f"installed in {self.folder}", record.openvino, record.compiler)  # noqa: FBT003

    def compile(self, job: CompileJob, **limits: Unpack[Limits]) -> Outcome:
        """See `Toolchain`."""
        state = self.examine()
        if not state.usable:
            raise ToolchainError(f"toolchain wine: {state.reason}. Run: {state.advice or 'see npu-persist doctor'}")
        verify(self.folder, read_record(self.folder))
        return compile_in(self.folder, job, **limits)

    def _check(self, record: Record) -> None:
        if record.source != digest_source():
            raise ToolchainError(
                f"{self.folder} was made by another version of npu_persist. Install it again: {INSTALL}"
            )
        if not (self.folder / PREFIX / "system.reg").is_file():  # wine would make it again, for a minute, unasked
            raise ToolchainError(f"{self.folder / PREFIX}: wine's own folder is missing. Install it again: {INSTALL}")
        if record.openvino != self._version:
            raise ToolchainError(
                f"{self.folder} holds OpenVINO {record.openvino}, and {self._version} is installed here. Install the "
                f"toolchain again: {INSTALL}"
            )


def compile_in(folder: Path, job: CompileJob, **limits: Unpack[Limits]) -> Outcome:
    """Compile with what is in a toolchain's folder, as it is.

    Raises:
        CompilationError: See `Toolchain.compile`.
        StoreError: See `Toolchain.compile`.
    """
    if job.platform is None:
        raise UsageError("the wine toolchain has no NPU of its own: name a platform, such as NPU:4000")
    log = CompilerLog()
    with tempfile.TemporaryDirectory(prefix="npu_persist-") as links, checked_blob(job):
        _link(Path(links), job)
        try:
            answer = _run_host(folder, job, links, log, limits)
        except SilentError as silence:
            # Wine's background processes are there, but do not answer: something ended the first of them at their start
            # (seen with wine 8.0: for half an hour). New ones do.
            _log.warning("%s; ending wine's background processes in %s, and trying again", silence, folder / PREFIX)
            end_wine(folder / PREFIX)
            try:
                answer = _run_host(folder, job, links, log, limits)
            except SilentError as error:
                raise ToolchainError(f"wine does not start: {error}. Install the toolchain again: {INSTALL}") from error
        result = _read_answer(answer)
    return Outcome(
        result["requirements"],
        answer.seconds,
        answer.peak_memory,
        result["openvino"],
        log.compiler or _format_version(result["compiler"]),
        answer.log,
    )


def end_wine(prefix: Path) -> None:
    """End everything that runs in a folder of wine's, its background processes too."""
    if not prefix.is_dir():
        return
    for option in ("-k", "-w"):
        with suppress(OSError, subprocess.TimeoutExpired):  # wine is not installed any more; or it hangs
            subprocess.run(  # noqa: S603
                ["wineserver", option],  # noqa: S607
                env=wine_environment(prefix),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )


def find_home(store: Path | None = None) -> Path:
    """Return the folder of installed toolchains: NPU_PERSIST_TOOLCHAINS, or `toolchains` in the store's home."""
    named = os.environ.get(HOME_VARIABLE)
    return Path(named) if named else (default_home() if store is None else store) / "toolchains"


def list_installed(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield OpenVINO's version and the folder of each toolchain for wine."""
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        if (named := _FOLDER.fullmatch(path.name)) and path.is_dir():
            yield named[1], path


def find_missing(*, building: bool) -> list[str]:
    """Return Debian's packages of the programs that are missing.

    Args:
        building: Whether those that install a toolchain count, or only those that use one.
    """
    needed = _PACKAGES if building else {"wine": "wine"}
    return sorted({package for program, package in needed.items() if shutil.which(program) is None})


def say_packages(packages: list[str]) -> str:
    """Return the command that installs them."""
    return f"apt-get install {' '.join(packages)}"


def wine_environment(prefix: Path) -> dict[str, str]:
    """Return the environment of a program under wine: quiet, without a screen, names of files in UTF-8."""
    ours = {
        "WINEPREFIX": str(prefix.absolute()),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": _BUILTIN_OFF,
        "LC_ALL": "C.UTF-8",
    }
    others = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    return others | ours


def _run_host(folder: Path, job: CompileJob, links: str, log: CompilerLog, limits: Limits) -> Answer:
    return supervise(
        ["wine", str(folder / BIN / HOST)],
        _write_request(job).encode(),
        tidy=log,
        env=wine_environment(folder / PREFIX),
        cwd=links,
        # The first program starts those that all use. Ended at that, with wineboot, they would not answer the next
        # programs for five minutes or more (wine 8.0).
        shares_children=True,
        first_word=FIRST_WORD,
        **limits,
    )


def _link(links: Path, job: CompileJob) -> None:
    for name, path in (("model.xml", job.graph), ("model.bin", job.weights), ("out", job.output.parent)):
        (links / name).symlink_to(path.absolute())


def _write_request(job: CompileJob) -> str:
    fields = {"model": "model.xml", "weights": "model.bin", "output": f"out/{job.output.name}"}
    fields |= {f"property.{name}": value for name, value in job.device_properties().items()}
    fields |= {f"shape.{name}": ",".join(map(str, shape)) for name, shape in (job.shapes or {}).items()}
    for name, value in fields.items():
        if {"\n", "\r", "\0"} & {*name, *value} or (name.startswith("property.") and "=" in name):
            raise UsageError(f"{name}={value}: the names of inputs and the properties cannot have line breaks here")
    return "".join(f"{name}={value}\n" for name, value in fields.items()) + "end\n"


def _read_answer(answer: Answer) -> dict[str, Any]:
    if "failure" in answer.message:
        failure = answer.message["failure"]
        text = explain(str(failure["text"]), answer.log)
        if failure["stage"] == "start":
            raise CompilationError(f"the NPU's compiler does not start, or refuses a property: {text}")
        raise CompilationError(f"the NPU's compiler refused the graph: {text}")
    result: dict[str, Any] = answer.result
    return result


def _format_version(number: str | None) -> str | None:
    return None if number is None or not number.isdecimal() else f"{int(number) >> 16}.{int(number) & 0xFFFF}"
