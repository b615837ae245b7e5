"""The NPU compiler of OpenVINO's Windows wheel, under wine: for Linux without an NPU and without Intel's archives.

An installed toolchain:

    <toolchains>/wine-2026.4.1/
      toolchain.json     written last
      bin/               host.exe, OpenVINO's libraries for Windows, Microsoft's runtime
      prefix/            wine's own folder

    {
      "format_version": 1,
      "openvino": "2026.4.1",
      "build": "2026.4.1-22982-e213a147257-releases/2026/4",
      "compiler": "2026.5.0-1-a4b1ef7632b-...",
      "wine": "wine-8.0 (Debian 8.0~repack-4)",
      "source": "blake3:...",
      "wheels": {"openvino-2026.4.1-...whl": {"sha256": "...", "tested": true}},
      "files": {"host.exe": {"size": 262307, "digest": "blake3:..."}}
    }

Every file of bin/ is compared with its digest before each use. wine runs the host program in the process that was
started, so its limits are those of a native program. It gets relative ASCII paths through a folder of links, because
OpenVINO's export takes no others on Windows:

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
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.bundle.document import decode
from npu_persist.compilation.process.frozen import is_frozen
from npu_persist.compilation.process.python import read_answer
from npu_persist.compilation.process.supervisor import Limits, ProcessResult, SilentError, supervise
from npu_persist.compilation.toolchains.native import installed_version
from npu_persist.compilation.toolchains.toolchain import (
    CompilerLog,
    CompilerRequest,
    CompilerResult,
    State,
    checked_blob,
    extract_reason,
)
from npu_persist.errors import CompilationError, ToolchainError, UsageError
from npu_persist.files.digest import digest_bytes, digest_file, is_digest
from npu_persist.files.filesystem import check_path, component_problem, is_directory, write_file
from npu_persist.store.folder import default_home

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME_VARIABLE = "NPU_PERSIST_TOOLCHAINS"
"""Environment variable that names the folder of installed toolchains."""

GCC = "x86_64-w64-mingw32-gcc"
"""What builds the host program."""

INSTALL = "npu-persist toolchain install"
"""The command that installs this toolchain."""

HOST = "host.exe"

RECORD_FILE = "toolchain.json"
"""Name of an installed toolchain's description."""

BIN = "bin"
"""Name of the folder of the files that it describes."""

SOURCE = "host.c"
"""The host program's source, in this package."""

PREFIX = "prefix"
"""Wine's own folder."""

FIRST_LINE = 60.0
"""Seconds within which the host program writes its first line; it takes one or two, while wine starts."""

_FORMAT_VERSION = 1
_MAX_RECORD = 1024**2

_log = logging.getLogger(__name__)

_PACKAGES = {"wine": "wine", "wineserver": "wine", "wineboot": "wine", GCC: "gcc-mingw-w64-x86-64"}
"""Programs → Debian's packages of them."""

_FOLDER = re.compile(r"wine-([0-9]{1,6}(\.[0-9]{1,6}){1,3})", re.ASCII)
_BUILTIN_OFF = "mscoree=d;mshtml=d;winemenubuilder.exe,winedbg.exe=d;msvcp140,vcruntime140,vcruntime140_1=n"
"""No .NET, no browser, no menus of the desktop, no debugger; Microsoft's runtime as installed, not wine's own."""


class FileRecord(msgspec.Struct, frozen=True):
    """One file of `bin`."""

    size: int
    digest: str


class WheelRecord(msgspec.Struct, frozen=True):
    """One wheel that files were taken from, and whether it was tested with this package."""

    sha256: str
    tested: bool


class ToolchainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is in `toolchain.json`.

    Attributes:
        openvino: OpenVINO's version.
        build: The same in full, as its libraries say it.
        compiler: The compiler's name of itself.
        wine: Wine's version when it was installed.
        source: Digest of the host program's source.
        wheels: The wheels that it was made of, by name.
        files: The files of `bin`, by name.
        format_version: The format of `toolchain.json`.
    """

    openvino: str
    build: str
    compiler: str | None
    wine: str
    source: str
    wheels: dict[str, WheelRecord]
    files: dict[str, FileRecord]
    format_version: int = _FORMAT_VERSION


class WineToolchain:
    """The compiler of the Windows wheel under wine, as `toolchain install` made it.

    Attributes:
        folder: Where it is, or would be.
    """

    name = "wine"

    def __init__(self, home: Path | None = None) -> None:
        """Take the one for the installed OpenVINO."""
        self._home = find_home() if home is None else home
        self._version = installed_version()
        self.folder = self._home / f"wine-{self._version}"

    def examine(self) -> State:
        """See `Toolchain`."""
        if not (sys.platform == "linux" and platform.machine() == "x86_64"):
            return State(False, "for Linux on x86-64 only")  # noqa: FBT003
        if not self.folder.is_dir():
            packages = find_missing(building=True)
            advice = f"{install_command(packages)} && {INSTALL}" if packages else INSTALL
            others = ", ".join(sorted(version for version, _ in list_installed(self._home)))
            reason = f"it is installed for OpenVINO {others}, not for {self._version}" if others else "not installed"
            return State(False, reason, advice=advice)  # noqa: FBT003
        try:
            record = read_record(self.folder)
            self._check(record)
        except ToolchainError as error:
            return State(False, str(error), advice=INSTALL)  # noqa: FBT003
        if packages := find_missing(building=False):
            return State(False, "wine is not installed", advice=install_command(packages))  # noqa: FBT003
        return State(True, f"installed in {self.folder}", record.openvino, record.compiler)  # noqa: FBT003

    def compile(self, request: CompilerRequest, limits: Limits | None = None) -> CompilerResult:
        """See `Toolchain`."""
        state = self.examine()
        if not state.usable:
            raise ToolchainError(f"toolchain wine: {state.reason}. Run: {state.advice or 'see npu-persist doctor'}")
        verify(self.folder, read_record(self.folder))
        return compile_in(self.folder, request, limits)

    def _check(self, record: ToolchainRecord) -> None:
        if record.source != digest_source():
            raise ToolchainError(
                f"{self.folder} was written by another version of npu_persist. Install it again: {INSTALL}"
            )
        if not (self.folder / PREFIX / "system.reg").is_file():  # wine would make it again, for a minute, unasked
            raise ToolchainError(f"{self.folder / PREFIX}: wine's own folder is missing. Install it again: {INSTALL}")
        if record.openvino != self._version:
            raise ToolchainError(
                f"{self.folder} holds OpenVINO {record.openvino}, and {self._version} is installed here. Install the "
                f"toolchain again: {INSTALL}"
            )


def compile_in(folder: Path, request: CompilerRequest, limits: Limits | None = None) -> CompilerResult:
    """Compile with the toolchain in a folder, without verifying it."""
    if request.platform is None:
        raise UsageError("the wine toolchain has no NPU of its own: name a platform, such as NPU:4000")
    log = CompilerLog()
    with tempfile.TemporaryDirectory(prefix="npu_persist-") as links, checked_blob(request):
        _link(Path(links), request)
        try:
            answer = _run_host(folder, request, links, log, limits)
        except SilentError as silence:
            # It died: the last program's background processes were just ending (seen once, with two at a time). Or they
            # do not answer: the first of them was killed while it started (seen with wine 8.0: for half an hour). New
            # ones do; but ending them ends the programs of others, too.
            _log.warning("%s; trying again", silence)
            if not silence.has_died:
                end_wine(folder / PREFIX)
            try:
                answer = _run_host(folder, request, links, log, limits)
            except SilentError as error:
                raise ToolchainError(f"wine does not start: {error}. Install the toolchain again: {INSTALL}") from error
        result = _read_answer(answer)
    return CompilerResult(
        result.requirements,
        answer.seconds,
        answer.peak_memory,
        result.openvino,
        log.compiler or _format_version(result.compiler),
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
    if store is not None:
        check_path(store, "store")
    return Path(named) if named else (default_home() if store is None else store) / "toolchains"


def list_installed(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield OpenVINO's version and the folder of each toolchain for wine; a link to a folder is none."""
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        if (named := _FOLDER.fullmatch(path.name)) and is_directory(path):
            yield named[1], path


def find_missing(*, building: bool) -> list[str]:
    """Return Debian's packages of the programs that are missing to install (`building`) or to use a toolchain."""
    needed = _PACKAGES if building else {"wine": "wine"}
    return sorted({package for program, package in needed.items() if shutil.which(program) is None})


def install_command(packages: list[str]) -> str:
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
    unwanted = {"DISPLAY", "WAYLAND_DISPLAY"}
    if is_frozen():  # where PyInstaller's program has its own libraries, which wine must not take
        unwanted.add("LD_LIBRARY_PATH")
        if before := os.environ.get("LD_LIBRARY_PATH_ORIG"):
            ours["LD_LIBRARY_PATH"] = before
    return {name: value for name, value in os.environ.items() if name not in unwanted} | ours


def _run_host(
    folder: Path, request: CompilerRequest, links: str, log: CompilerLog, limits: Limits | None
) -> ProcessResult[Any]:
    return supervise(
        ["wine", str(folder / BIN / HOST)],
        _write_request(request).encode(),
        limits,
        tidy=log,
        env=wine_environment(folder / PREFIX),
        cwd=links,
        # The first program starts those that all use. Ended at that, with wineboot, they would not answer the next
        # programs for five minutes or more (wine 8.0).
        shares_children=True,
        first_line=FIRST_LINE,
    )


def _link(links: Path, request: CompilerRequest) -> None:
    for name, path in (
        ("model.xml", Path(request.graph)),
        ("model.bin", Path(request.weights)),
        ("out", Path(request.output).parent),
    ):
        (links / name).symlink_to(path.absolute())


def _write_request(request: CompilerRequest) -> str:
    fields = {"model": "model.xml", "weights": "model.bin", "output": f"out/{Path(request.output).name}"}
    fields |= {f"property.{name}": value for name, value in request.device_properties().items()}
    fields |= {f"option.{name}": value for name, value in request.options.items()}
    fields |= {f"shape.{name}": ",".join(map(str, shape)) for name, shape in (request.shapes or {}).items()}
    for name, value in fields.items():
        if {"\n", "\r", "\0"} & {*name, *value} or (name.startswith(("property.", "option.")) and "=" in name):
            raise UsageError(f"{name}={value}: input names and properties cannot contain line breaks here")
    return "".join(f"{name}={value}\n" for name, value in fields.items()) + "end\n"


class _HostResult(msgspec.Struct, frozen=True):
    requirements: str | None
    openvino: str
    compiler: str | None


class _HostFailure(msgspec.Struct, frozen=True):
    stage: str
    text: str


def _read_answer(answer: ProcessResult[Any]) -> _HostResult:
    if answer.failure is not None:
        failure = read_answer(answer.failure, _HostFailure, "the compilation")
        reason = extract_reason(failure.text, answer.log)
        if failure.stage == "start":
            raise CompilationError(f"the NPU compiler does not start, or rejects a property: {reason}")
        raise CompilationError(f"the NPU compiler rejected the graph: {reason}")
    return read_answer(answer.result, _HostResult, "the compilation")


def _format_version(number: str | None) -> str | None:
    return None if number is None or not number.isdecimal() else f"{int(number) >> 16}.{int(number) & 0xFFFF}"


def digest_source() -> str:
    """Return the digest of the host program's source, as this package has it."""
    return digest_bytes((files("npu_persist.compilation.toolchains") / SOURCE).read_bytes())


def list_files(folder: Path) -> dict[str, FileRecord]:
    """Return size and digest of every file in a toolchain's `bin`."""
    found = sorted((folder / BIN).iterdir())
    return {path.name: FileRecord(path.stat().st_size, digest_file(path)) for path in found}


def write_record(folder: Path, record: ToolchainRecord) -> None:
    """Write a toolchain's description."""
    write_file(folder / RECORD_FILE, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def read_record(folder: Path) -> ToolchainRecord:
    """Read a toolchain's description."""
    path = folder / RECORD_FILE
    try:
        with path.open("rb") as file:
            record = decode(file.read(_MAX_RECORD), ToolchainRecord)
    except (OSError, ValueError, RecursionError) as error:
        raise _damage(path, f"it cannot be read ({type(error).__name__}: {error})") from error
    if record.format_version != _FORMAT_VERSION:
        raise _damage(path, f"expected format_version {_FORMAT_VERSION}, got {record.format_version}")
    for name, described in record.files.items():
        if component_problem(name) or not is_digest(described.digest):
            raise _damage(path, f"expected a file's name and digest, got {name!r} and {described.digest!r}")
    return record


def verify(folder: Path, record: ToolchainRecord) -> None:
    """Compare every file with its digest: 0.1 s for 126 MB, little beside the shortest compilation."""
    where = folder / BIN
    try:
        found = set(os.listdir(where))  # noqa: PTH208
        if found != set(record.files):
            names = ", ".join(sorted(found ^ set(record.files)))
            raise _damage(where, f"expected the files of {RECORD_FILE}; missing or unexpected: {names}")
        for name, described in record.files.items():
            size = (where / name).stat().st_size
            if size != described.size:
                raise _damage(where / name, f"expected {described.size} bytes, got {size}")
            if (digest := digest_file(where / name)) != described.digest:
                raise _damage(where / name, f"expected {described.digest}, got {digest}")
    except OSError as error:
        raise _damage(where, f"it cannot be read ({error.strerror or error})") from error


def _damage(path: Path, problem: str) -> ToolchainError:
    return ToolchainError(f"{path}: {problem}. Install the toolchain again: {INSTALL}")
