"""Take files out of wheels: those that are named here, and only if they are what the wheel's own list says.

The promise: a name inside of a wheel never becomes a path; what is written has the size and the SHA-256 of the wheel's
RECORD, and nothing else is read than what RECORD tells the size of.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import struct
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from npu_persist.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

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


def check_wheel(path: Path) -> tuple[str, bool]:
    """Return a wheel's SHA-256, and whether it is a wheel that was tested.

    Raises:
        ToolchainError: It has the name of one that was tested, but is another.
    """
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
    """Write files of a wheel to new files.

    Args:
        wheel: The wheel.
        members: Names inside of the wheel → where each goes. Folders are made.

    Raises:
        ToolchainError: The wheel is damaged or has not got one of them, or one is not as its RECORD says.
    """
    with _reading(wheel) as archive:
        record = _read_record(archive)
    for name, target in members.items():
        with _reading(wheel) as archive:
            data = _read(archive, name, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(data)


def list_members(wheel: Path, prefix: str, suffix: str) -> list[str]:
    """Return the names inside of a wheel that begin and end so.

    Raises:
        ToolchainError: It is no wheel.
    """
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
        raise _Problem("it has two files of one name")
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
        raise _Problem(f"its RECORD does not tell the digest of {name}")
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
