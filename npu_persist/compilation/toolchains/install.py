"""Make the toolchain for wine: fetch, check, build, try, and only then put into place.

The promise: what is in a toolchain's place was complete and compiled a graph when it came there; an interrupted install
leaves a staging folder, which the next one removes. Nothing is installed on the system, and site-packages stay as they
are.
"""

from __future__ import annotations

import filecmp
import functools
import logging
import os
import platform
import subprocess
import sys
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.compilation.toolchains.native import installed_version
from npu_persist.compilation.toolchains.probe import PROBED, probe
from npu_persist.compilation.toolchains.record import (
    BIN,
    PREFIX,
    SOURCE,
    Record,
    digest_source,
    list_files,
    read_record,
    verify,
    write_record,
)
from npu_persist.compilation.toolchains.wheels import check_wheel, extract, list_members
from npu_persist.compilation.toolchains.wine import (
    GCC,
    HOST,
    INSTALL,
    WineToolchain,
    compile_in,
    end_wine,
    find_missing,
    list_installed,
    say_packages,
    wine_environment,
)
from npu_persist.errors import CompilationError, ToolchainError
from npu_persist.files.filesystem import rename_new, store_errors
from npu_persist.files.staging import prune_staging, staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LIBRARIES = (
    "openvino.dll",
    "openvino_c.dll",
    "openvino_intel_npu_compiler.dll",
    "openvino_intel_npu_compiler_loader.dll",
    "openvino_intel_npu_plugin.dll",
    "openvino_ir_frontend.dll",
    "tbb12.dll",
)
"""What is taken from OpenVINO's wheel for Windows."""

RUNTIME = ("msvcp140.dll", "vcruntime140.dll", "vcruntime140_1.dll")
"""What is taken from the wheel of Microsoft's runtime."""

_MSVC = "msvc-runtime==14.44.35112"
_HEADERS = "openvino/include/openvino/"
_BUILTINS = ("usr/lib/*/wine", "usr/lib/wine", "usr/lib64/wine", "usr/local/lib*/wine", "opt/wine*/lib*/wine")
"""Where distributions put wine's own libraries, below the root."""

_DOWNLOAD_TIME, _BUILD_TIME, _PREFIX_TIME = 1800.0, 300.0, 300.0
_STAGING = "staging"
_log = logging.getLogger(__name__)


def install(home: Path, tell: Callable[[str], object] = _log.info) -> Path:
    """Install the toolchain for this OpenVINO, unless a sound one is there.

    Args:
        home: The folder of toolchains.
        tell: Called with what is done now.

    Returns:
        Its folder.

    Raises:
        ToolchainError: Something is missing here, or is not as it must be, or does not compile.
        StoreError: The disk is full, or the folder cannot be written to.
    """
    _refuse_system()
    version = installed_version()
    target = WineToolchain(home).folder
    if WineToolchain(home).examine().usable:
        with suppress(CompilationError):  # it is damaged; wine's own folder shows that only at work
            verify(target, read_record(target))
            probe(functools.partial(compile_in, target), PROBED[-1])
            return target
    if missing := find_missing(building=True):
        raise ToolchainError(
            f"toolchain wine: not all that it needs is here. Run: {say_packages(missing)} && {INSTALL}"
        )
    sweep(home)
    with staged(home / _STAGING) as staging:
        made = staging / "toolchain"
        (made / BIN).mkdir(parents=True)
        tell(f"fetching OpenVINO {version} for Windows and Microsoft's runtime with pip")
        wheels = _fetch(version, staging / "wheels")
        tell("building the host program")
        checked = {wheel.name: check_wheel(wheel) for wheel in wheels.values()}
        _build(wheels, made, staging)
        tell("making wine's folder")
        with _ended(made / PREFIX):
            _make_prefix(made / PREFIX, staging)
            tell("compiling one operation")
            outcome = probe(functools.partial(compile_in, made), PROBED[-1])
        record = Record(
            openvino=version,
            build=outcome.openvino,
            compiler=outcome.compiler,
            wine=_run(["wine", "--version"], 60, staging).strip().splitlines()[-1],
            source=digest_source(),
            wheels={name: {"sha256": digest, "tested": tested} for name, (digest, tested) in checked.items()},
            files=list_files(made),
        )
        if not outcome.openvino.startswith(version):
            raise ToolchainError(f"expected OpenVINO {version} in {', '.join(checked)}, got {outcome.openvino}")
        write_record(made, record)
        with store_errors(f"put the toolchain into {target}"):
            if os.path.lexists(target):  # of another format, or damaged
                end_wine(target / PREFIX)
                os.rename(target, staging / "replaced")  # noqa: PTH104
            with suppress(FileExistsError):  # another process was faster, and what it made is as good
                rename_new(made, target)
    return target


def uninstall(home: Path, version: str | None = None) -> list[Path]:
    """Remove installed toolchains, and what interrupted installs left; return what was removed.

    Args:
        home: The folder of toolchains.
        version: OpenVINO's version that it is for; None for all.

    Raises:
        ToolchainError: There is none for that version.
    """
    found = [path for each, path in list_installed(home) if version in {None, each}]
    if version is not None and not found:
        raise ToolchainError(f"no toolchain for OpenVINO {version} in {home}: npu-persist toolchain list shows all")
    for path in found:
        end_wine(path / PREFIX)
        with staged(home / _STAGING) as staging, store_errors(f"remove {path}"):
            os.rename(path, staging / "removed")  # noqa: PTH104
    return [*found, *sweep(home)]


def sweep(home: Path) -> list[Path]:
    """Remove what interrupted installs left; return what was removed."""
    return list(prune_staging(home / _STAGING))


def _refuse_system() -> None:
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        raise ToolchainError(
            "toolchain wine: for Linux on x86-64 only. OpenVINO's wheel for Windows brings the compiler itself; "
            "elsewhere compile on such a machine"
        )


def _fetch(version: str, folder: Path) -> dict[str, Path]:
    """Fetch both wheels; return them by the first part of their name."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "-q"]
    command += ["--disable-pip-version-check", "--platform", "win_amd64", "--python-version", "3.11", "-d", str(folder)]
    _run([*command, f"openvino=={version}", _MSVC], _DOWNLOAD_TIME, folder.parent)
    found = {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}
    if set(found) != {"openvino", "msvc_runtime"}:
        raise ToolchainError(f"expected the wheels openvino and msvc_runtime from pip, got {sorted(found)}")
    return found


def _build(wheels: Mapping[str, Path], made: Path, staging: Path) -> None:
    openvino, runtime, sources = wheels["openvino"], wheels["msvc_runtime"], staging / "sources"
    extract(openvino, {f"openvino/libs/{name}": made / BIN / name for name in LIBRARIES})
    data = f"{'-'.join(runtime.name.split('-')[:2])}.data/data/Scripts"
    extract(runtime, {f"{data}/{name}": made / BIN / name for name in RUNTIME})
    headers = [name for name in list_members(openvino, f"{_HEADERS}c/", ".h") if ".." not in name.split("/")]
    members = {name: sources / name.removeprefix("openvino/") for name in headers}
    extract(openvino, members | {"openvino/libs/openvino_c.lib": sources / "openvino_c.lib"})
    with as_file(files("npu_persist.compilation.toolchains") / SOURCE) as source:
        command = [GCC, "-O2", "-std=gnu11", "-Wall", f"-I{sources / 'include'}", str(source)]
        _run([*command, str(sources / "openvino_c.lib"), "-o", str(made / BIN / HOST)], _BUILD_TIME, staging)


def _make_prefix(prefix: Path, staging: Path) -> None:
    env = wine_environment(prefix)
    _run(["wineboot", "-i"], _PREFIX_TIME, staging, env)
    _run(["wineserver", "-w"], _PREFIX_TIME, staging, env)
    # Wine copies its 700 libraries, 650 MB, and would copy them again after each upgrade. It takes links to those that
    # it has anyway just as well; what it writes to is told not to be brought up to date.
    (prefix / ".update-timestamp").write_text("disable\n", encoding="ascii")
    builtins = [folder / "x86_64-windows" for pattern in _BUILTINS for folder in Path("/").glob(pattern)]
    for path in (prefix / "drive_c").rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        for folder in builtins:
            if (folder / path.name).is_file() and filecmp.cmp(path, folder / path.name, shallow=False):
                path.unlink()
                path.symlink_to(folder / path.name)
                break


@contextmanager
def _ended(prefix: Path) -> Iterator[None]:
    """End wine's background processes after the block, so that nothing writes to the folder any more."""
    try:
        yield
    finally:
        end_wine(prefix)


def _run(command: Sequence[str], timeout: float, staging: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it said.

    What it says goes to a file: wine's background processes outlive it, and would hold a pipe open.
    """
    log = staging / "log"
    with log.open("wb") as file:
        try:
            done = subprocess.run(  # noqa: S603
                list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ToolchainError(f"{Path(command[0]).name} was not done after {timeout:.0f} s: {command}") from error
        except OSError as error:
            raise ToolchainError(f"cannot run {command[0]}: {error.strerror or error}") from error
    said = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        last = " | ".join(said.strip().splitlines()[-5:]) or "nothing"
        raise ToolchainError(f"{' '.join(command[:4])} ... ended with {done.returncode}; it said: {last}")
    return said
