"""Compile with the OpenVINO of this interpreter, in a separate process: the toolchains `plugin` and `libraries`.

`plugin` is the NPU plugin as installed: pip's OpenVINO for Windows brings the compiler, that for Linux does not
(openvino issue 36374), but finds it beside libopenvino.so if it was put there.

`libraries` is the same plugin with the compiler's libraries in a folder that NPU_PERSIST_NPU_COMPILER names: those of
Intel's archives of OpenVINO or of the driver's compiler package, of the same version. OpenVINO looks for them where its
own library is; so it is loaded from a folder of links to all of them. site-packages stay as they are.

    job/libopenvino.so.2641 -> site-packages/openvino/libs/libopenvino.so.2641    and so on
    job/libopenvino_intel_npu_compiler.so -> $NPU_PERSIST_NPU_COMPILER/...

Tested with libraries of our own in their place, as no such libraries were available: OpenVINO's plugin loads them from
there, and what they lack is an error of OpenVINO's.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.compilation.process.python import run_module, serve
from npu_persist.compilation.toolchains.toolchain import (
    CompilerLog,
    CompilerRequest,
    CompilerResult,
    State,
    checked_blob,
    extract_reason,
)
from npu_persist.errors import CompilationError, ToolchainError
from npu_persist.files.filesystem import store_errors

if TYPE_CHECKING:
    from npu_persist.compilation.process.supervisor import Limits

COMPILER_VARIABLE = "NPU_PERSIST_NPU_COMPILER"
"""Environment variable that names a folder with the compiler's libraries."""

_DEVICE = "NPU"

_WINDOWS = ("openvino_intel_npu_compiler.dll", "openvino_intel_npu_compiler_loader.dll")
_LINUX = ("libopenvino_intel_npu_compiler.so", "libopenvino_intel_npu_compiler_loader.so")
_RUNTIME = "libopenvino_intel_npu_vm_runtime.so"
_CORE = re.compile(r"libopenvino\.so\.[0-9]+")


class PluginToolchain:
    """The NPU plugin of this interpreter's OpenVINO, as it is installed."""

    name = "plugin"

    def __init__(self, libraries: Path | None = None) -> None:
        """Take OpenVINO as it is installed."""
        self._libraries = find_libraries() if libraries is None else libraries

    def examine(self) -> State:
        """See `Toolchain`."""
        needed = _WINDOWS if sys.platform == "win32" else _LINUX
        if self._libraries is None:
            return State(False, "no pip package of OpenVINO is installed here", advice=_REINSTALL)  # noqa: FBT003
        missing = [name for name in needed if not (self._libraries / name).is_file()]
        if not missing:
            return State(True, f"the compiler is in {self._libraries}", installed_version())  # noqa: FBT003
        reason = f"{self._libraries} has no {' and no '.join(missing)}"
        if sys.platform == "win32":
            return State(False, reason, advice=_REINSTALL)  # noqa: FBT003
        return State(False, f"{reason}: pip's OpenVINO for Linux does not contain it")  # noqa: FBT003

    def compile(self, request: CompilerRequest, limits: Limits | None = None) -> CompilerResult:
        """See `Toolchain`."""
        _require_usable(self.name, self.examine())
        return _compile(request, limits)


class LibrariesToolchain:
    """The NPU plugin of this interpreter's OpenVINO, with the compiler's libraries from another folder. Linux only."""

    name = "libraries"

    def __init__(self, folder: Path | None = None) -> None:
        """Take the compiler from a folder."""
        named = os.environ.get(COMPILER_VARIABLE)
        self._folder = Path(named) if folder is None and named else folder

    def examine(self) -> State:
        """See `Toolchain`."""
        if sys.platform == "win32":
            return State(False, "for Linux only: OpenVINO for Windows contains its compiler")  # noqa: FBT003
        advice = f"export {COMPILER_VARIABLE}=<folder with {', '.join((*_LINUX, _RUNTIME))}>"
        if self._folder is None:
            return State(False, f"{COMPILER_VARIABLE} is not set", advice=advice)  # noqa: FBT003
        missing = [name for name in (*_LINUX, _RUNTIME) if not (self._folder / name).is_file()]
        if missing:
            reason = f"{COMPILER_VARIABLE}: {self._folder} has no {' and no '.join(missing)}"
            return State(False, reason, advice=advice)  # noqa: FBT003
        if (libraries := find_libraries()) is None:
            return State(False, "no pip package of OpenVINO is installed here", advice=_REINSTALL)  # noqa: FBT003
        reason = f"the compiler is in {self._folder}, OpenVINO in {libraries}"
        return State(True, reason, installed_version())  # noqa: FBT003

    def compile(self, request: CompilerRequest, limits: Limits | None = None) -> CompilerResult:
        """See `Toolchain`."""
        _require_usable(self.name, self.examine())
        libraries = find_libraries()
        if self._folder is None or libraries is None:
            raise ToolchainError(f"toolchain {self.name}: {self.examine().reason}")
        with tempfile.TemporaryDirectory(prefix="npu_persist-") as links:
            # The named folder goes last: its libraries replace OpenVINO's.
            for path in [*libraries.iterdir(), *(self._folder / name for name in (*_LINUX, _RUNTIME))]:
                link = Path(links, path.name)
                link.unlink(missing_ok=True)
                link.symlink_to(path.absolute())
            return _compile(msgspec.structs.replace(request, libraries=links), limits)


_REINSTALL = "python -m pip install --force-reinstall openvino"


def installed_version() -> str:
    """Return the version of this interpreter's OpenVINO, as `2026.4.1`, without importing it."""
    try:
        return version("openvino")
    except PackageNotFoundError:  # not pip's
        from npu_persist.device.core import get_version

        return get_version().partition("-")[0]


def find_libraries() -> Path | None:
    """Return the folder of libraries of pip's OpenVINO, without importing it; None where there is no such package."""
    spec = find_spec("openvino")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "libs"
    return folder if folder is not None and folder.is_dir() else None


class NativeResult(msgspec.Struct, frozen=True):
    """The result of the process.

    Attributes:
        requirements: OpenVINO's RUNTIME_REQUIREMENTS of the blob; None where it has none.
        openvino: OpenVINO's full version.
    """

    requirements: str | None
    openvino: str


def _compile(request: CompilerRequest, limits: Limits | None) -> CompilerResult:
    log = CompilerLog()
    with checked_blob(request):
        answer = run_module("npu_persist.compilation.toolchains.native", request, NativeResult, limits, tidy=log)
    found = answer.result
    return CompilerResult(
        found.requirements, answer.seconds, answer.peak_memory, found.openvino, log.compiler, answer.log
    )


def compile_here(request: CompilerRequest, *_: object) -> NativeResult:
    """Compile and write the blob: what the process does that runs this module."""
    if request.libraries is not None:
        _load_from(Path(request.libraries))
    from npu_persist.device.core import get_core, get_version, note_threads

    core = get_core()
    note_threads()
    # Before a property is set: one that the plugin refuses while it is loaded makes OpenVINO 2026.4.1 unload it, with
    # the exception's code in it, and crash (seen on Windows).
    _ask(core, _DEVICE, "NPU_COMPILER_VERSION")
    try:
        core.set_property(_DEVICE, request.device_properties())
        model = core.read_model(request.graph, request.weights)
        if request.shapes:
            model.reshape(request.shapes)
        compiled = core.compile_model(model, _DEVICE, request.options)
        blob = compiled.export_model()
    except RuntimeError as error:
        raise CompilationError(f"the NPU compiler rejected the graph: {extract_reason(str(error))}") from error
    with store_errors(f"write {request.output}"):
        Path(request.output).write_bytes(blob.getbuffer())
    return NativeResult(_ask(compiled, "RUNTIME_REQUIREMENTS"), get_version())


def _ask(where: Any, *question: str) -> str | None:
    try:
        return str(where.get_property(*question))
    except RuntimeError:  # weightless blobs have no requirements (openvino pull request 36795)
        return None


def _load_from(folder: Path) -> None:
    import ctypes

    (core,) = (path for path in folder.iterdir() if _CORE.fullmatch(path.name))
    ctypes.CDLL(str(core), ctypes.RTLD_GLOBAL)  # `import openvino` finds that it is there, and so its folder counts


def _require_usable(name: str, state: State) -> None:
    if not state.usable:
        raise ToolchainError(f"toolchain {name}: {state.reason}. {state.advice or 'Use another one'}")


if __name__ == "__main__":
    serve(compile_here, CompilerRequest)
