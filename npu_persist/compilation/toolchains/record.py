"""An installed toolchain's description of itself, and its files.

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

The promise: `verify` compares every byte of every file in bin/, and finds what is there and should not be.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from npu_persist.errors import ToolchainError
from npu_persist.files.digest import digest_bytes, digest_file, is_digest
from npu_persist.files.filesystem import component_problem, write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "toolchain.json"
"""The description's file name."""

BIN = "bin"
"""The folder of the files that it describes."""

SOURCE = "host.c"
"""The host program's source, in this package."""

PREFIX = "prefix"
"""Wine's own folder."""

_FORMAT_VERSION = 1
_MAX_SIZE = 1024**2


@dataclass(frozen=True)
class Record:
    """What is in `toolchain.json`.

    Attributes:
        openvino: OpenVINO's version.
        build: The same in full, as its libraries say it.
        compiler: The compiler's name of itself.
        wine: Wine's version when it was installed.
        source: Digest of the host program's source.
        wheels: What it was made of → SHA-256, and whether that wheel was tested with this package.
        files: What is in `bin` → size and digest.
    """

    openvino: str
    build: str
    compiler: str | None
    wine: str
    source: str
    wheels: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, tuple[int, str]]


def digest_source() -> str:
    """Return the digest of the host program's source, as this package has it."""
    return digest_bytes((files("npu_persist.compilation.toolchains") / SOURCE).read_bytes())


def list_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Return name, size and digest of every file in a toolchain's `bin`."""
    found = sorted((folder / BIN).iterdir())
    return {path.name: (path.stat().st_size, digest_file(path)) for path in found}


def write_record(folder: Path, record: Record) -> None:
    """Write a toolchain's description."""
    listed = {name: {"size": size, "digest": digest} for name, (size, digest) in record.files.items()}
    document = {"format_version": _FORMAT_VERSION, **asdict(record), "files": listed}
    write_file(folder / NAME, f"{json.dumps(document, indent=2)}\n".encode())


def read_record(folder: Path) -> Record:
    """Read a toolchain's description.

    Raises:
        ToolchainError: It is missing, damaged or of another format.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_SIZE))
        if document["format_version"] != _FORMAT_VERSION:
            raise _damaged(path, f"expected format_version {_FORMAT_VERSION}, got {document['format_version']!r}")
        listed = {name: (each["size"], each["digest"]) for name, each in document["files"].items()}
        members = {name: document[name] for name in ("openvino", "build", "compiler", "wine", "source", "wheels")}
        record = Record(**members, files=listed)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"it cannot be read ({type(error).__name__}: {error})") from error
    texts = (
        record.openvino,
        record.build,
        record.wine,
        record.source,
        *(() if record.compiler is None else (record.compiler,)),
    )
    if not all(isinstance(text, str) for text in texts) or not isinstance(record.wheels, dict):
        raise _damaged(path, "expected openvino, build, compiler, wine and source as text, wheels as an object")
    for name, (size, digest) in listed.items():
        if component_problem(name) or type(size) is not int or not (isinstance(digest, str) and is_digest(digest)):
            raise _damaged(path, f"expected a file's name, size and digest, got {name!r}, {size!r} and {digest!r}")
    return record


def verify(folder: Path, record: Record) -> None:
    """Compare every file with its digest: 0.1 s for 126 MB, next to nothing beside the shortest compilation.

    Raises:
        ToolchainError: One is missing, or not what was installed, or was not installed.
    """
    where = folder / BIN
    try:
        found = set(os.listdir(where))  # noqa: PTH208
        if found != set(record.files):
            names = ", ".join(sorted(found ^ set(record.files)))
            raise _damaged(where, f"expected the files of {NAME}; these are missing or strange: {names}")
        for name, (size, digest) in record.files.items():
            got = (where / name).stat().st_size
            if got != size:
                raise _damaged(where / name, f"expected {size} bytes, got {got}")
            if (other := digest_file(where / name)) != digest:
                raise _damaged(where / name, f"expected {digest}, got {other}")
    except OSError as error:
        raise _damaged(where, f"it cannot be read ({error.strerror or error})") from error


def _damaged(path: Path, problem: str) -> ToolchainError:
    return ToolchainError(f"{path}: {problem}. Install the toolchain again: npu-persist toolchain install")
