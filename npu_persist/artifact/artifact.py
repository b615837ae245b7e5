"""A compiled artifact: a folder with one graph compiled for a device, described by `artifact.json`.

The key covers everything that decides whether a compiled artifact may be used, such as the bundle's digest, the device
and the compilation's properties, but no path and no time.

    {
      "format_version": "1.0",
      "key": "<64 hex digits>",
      "subject": "blake3:<64 hex digits>",          digest of the bundle's manifest
      "name": "unet",                               the bundle's name, for people
      "graph": "main",
      "shapes": {"input_ids": [1, 128]},            sizes of inputs that the graph leaves open; null: none fixed
      "target": "CPU",                              or "NPU:4000"
      "device": "CPU",                              OpenVINO's device string
      "identity": {"FULL_DEVICE_NAME": "..."},      properties that tell the device from others
      "inputs": [{"name": "input_ids", "dtype": "int64", "shape": [1, 128]}],
      "outputs": [...],                             both as in the manifest
      "openvino": "2026.4.1-22982-e213a147257-releases/2026/4",
      "properties": {"PERFORMANCE_HINT": "LATENCY"},
      "kind": "blob",                               or "cache_dir": the files of OpenVINO's CACHE_DIR
      "weightless": true,                           the blob reads the bundle's weights file
      "requirements": "meta=1.0;ov=2026.4.1;isa=Intel AVX2",
      "toolchain": "plugin",                        or "libraries" or "wine": how the compiler was run
      "compiler": "8.4",                            the NPU compiler's version; null for other devices
      "files": {"model.blob": {"size": 3120, "digest": "blake3:<64 hex digits>"}},
      "seconds": 3.25,                              duration of the compilation
      "peak_memory": 267386880                      its most bytes of memory; null if not measured
    }

A language or speech model that generates, compiled for an NPU, has these too; others leave them out:

      "lengths": {"prompt": 1024, "response": 128}, tokens of the longest prompt, and of an answer that always fits
      "options": {"NPU_USE_NPUW": "YES"},           properties that its compilation was given because it generates
      "npuw": "0.31",                               version of the blob's serialization, which has to be the machine's
      "notes": ["..."]                              where the compilation deviated from the first attempt, and why
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from npu_persist.bundle.document import (
    FORMAT_VERSION,
    Count,
    Digest,
    Document,
    DocumentError,
    Name,
    Part,
    Problems,
    Text,
    check_digest,
    check_name,
    convert,
    dump,
    encode,
    key_location,
    parse,
)
from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.manifest import ORIGIN_FILE, FileEntry, check_listed_files
from npu_persist.errors import ArtifactError, Problem
from npu_persist.files.digest import digest_bytes, digest_file
from npu_persist.files.filesystem import is_directory, store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARTIFACT_FILE = "artifact.json"
"""Name of the description."""

ARTIFACT_SIGNATURE_FILE = "artifact.json.sig"
"""Name of the description's detached signatures (see `trust.signing`)."""

BLOB_FILE = "model.blob"
"""Name of an exported blob."""

CACHE_FOLDER = "openvino"
"""Name of the folder that OpenVINO used as CACHE_DIR."""

USED_FILE = "used"
"""Name of an empty file whose modification time is the last use; processes lock it while they use the artifact."""

MAX_ARTIFACT_SIZE = 1024 * 1024
"""Largest `artifact.json`, in bytes."""

Kind = Literal["blob", "cache_dir"]
Shapes = Mapping[str, tuple[Count, ...]]
"""Sizes of inputs that a graph leaves open, by the input's name."""

_OWN_FILES = frozenset({ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, ORIGIN_FILE, USED_FILE})
_ADVICE = "A missing entry is compiled again; `npu-persist cache prune` removes quarantined entries"


class Lengths(Part, frozen=True):
    """How long the conversations are that a generating model was compiled for.

    Attributes:
        prompt: Tokens of the longest prompt.
        response: Tokens of an answer that fits after any prompt; together with the prompt at most one less than both.
    """

    prompt: Count
    response: Count

    def __str__(self) -> str:
        return f"prompt {self.prompt}, response {self.response}"


class Artifact(Document, frozen=True, kw_only=True, dict=True, omit_defaults=True):
    """The content of `artifact.json`.

    Attributes:
        subject: Digest of the bundle that it was compiled from.
        name: The bundle's name, for people; `subject` identifies it.
        graph: Name of the graph.
        shapes: Sizes that were fixed for inputs that the graph leaves open; None: as in the graph.
        target: The kind of device that it runs on: `NPU:4000`, `CPU`.
        device: OpenVINO's device string.
        identity: Properties that tell the device from others; of a device that is not here, only those that its target
            implies.
        inputs: As compiled, in the order of the graph.
        outputs: As compiled, in the order of the graph.
        openvino: OpenVINO's full version.
        properties: The compilation's properties, as text.
        kind: "blob": exported by OpenVINO; "cache_dir": the files of a CACHE_DIR.
        weightless: Whether the blob reads the bundle's weights file when it is imported.
        requirements: OpenVINO's RUNTIME_REQUIREMENTS of the compiled model; None if the device has none.
        toolchain: How the compiler was run: "plugin" (this OpenVINO), "libraries" or "wine".
        compiler: Version of the NPU's compiler; None for other devices.
        files: Size and digest of each file, by relative path.
        seconds: Duration of the compilation.
        peak_memory: Most bytes of memory that it took; None if it ran in the program's own process.
        lengths: How long the conversations are, of a model that generates; None for others.
        options: Properties that its compilation was given beside those, because it generates.
        npuw: Version of the blob's serialization, of a model that generates.
        notes: Where the compilation deviated from the first attempt, and why.
    """

    subject: Digest
    name: Name
    graph: Text
    shapes: Shapes | None
    target: Text
    device: Text
    identity: Mapping[str, str]
    openvino: Text
    properties: Mapping[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kind: Kind
    weightless: bool
    requirements: str | None
    toolchain: Text
    compiler: Text | None
    files: Mapping[str, FileEntry]
    seconds: float
    peak_memory: Count | None
    lengths: Lengths | None = None
    options: Mapping[str, str] = {}
    npuw: Text | None = None
    notes: tuple[Text, ...] = ()

    @cached_property
    def key(self) -> str:
        """Its key in the compile cache: 64 lowercase hex digits."""
        return make_key(
            subject=self.subject,
            graph=self.graph,
            shapes=self.shapes,
            device=self.device,
            identity=self.identity,
            openvino=self.openvino,
            properties=self.properties,
            lengths=self.lengths,
        )

    @property
    def size(self) -> int:
        """Size of its files in bytes."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> bytes:
        """Write `artifact.json` in the canonical form."""
        return dump({**parse(encode(self)), "key": self.key})

    @classmethod
    def from_json(cls, data: bytes, *, source: str = ARTIFACT_FILE) -> Artifact:
        """Read an `artifact.json`; ArtifactError if it is malformed or its key differs from its content's."""
        try:
            found, key = _read(data)
        except DocumentError as error:
            got = f"{len(data)} bytes of something else ({error})"
            raise _error(source, "the description of a compiled artifact", got) from error
        if key != found.key:
            raise _error(source, f"key {found.key}, the key of its content", str(key))
        return found


def make_key(  # noqa: PLR0913 (eight things decide)
    *,
    subject: str,
    graph: str,
    shapes: Shapes | None,
    device: str,
    identity: Mapping[str, str],
    openvino: str,
    properties: Mapping[str, str],
    lengths: Lengths | None = None,
) -> str:
    """Return the key of a compiled artifact: a BLAKE3 of all that decides whether it may be used, as 64 hex digits."""
    document: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "subject": subject,
        "graph": graph,
        "shapes": shapes if shapes is None else dict(shapes),
        "device": device,
        "identity": dict(identity),
        "openvino": openvino,
        "properties": dict(properties),
    }
    if lengths is not None:
        document["lengths"] = [lengths.prompt, lengths.response]
    return digest_bytes(dump(document)).partition(":")[2]


def read_artifact(directory: Path) -> Artifact:
    """Read a folder's `artifact.json`, without its other files; FileNotFoundError if there is none."""
    path = directory / ARTIFACT_FILE
    if path.is_symlink() or not path.is_file():
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        raise _error(str(path), "a regular file", "something else")
    with path.open("rb") as file:
        data = file.read(MAX_ARTIFACT_SIZE + 1)
    if len(data) > MAX_ARTIFACT_SIZE:
        raise _error(str(path), f"at most {MAX_ARTIFACT_SIZE} bytes", "more")
    return Artifact.from_json(data, source=str(path))


def read_description(folder: Path) -> bytes:
    """Return the bytes of a folder's `artifact.json`."""
    path = folder / ARTIFACT_FILE
    with store_errors(f"read {path}"), path.open("rb") as file:
        return file.read(MAX_ARTIFACT_SIZE + 1)  # one more than its parser accepts


def check_files(directory: Path, artifact: Artifact) -> None:
    """Compare an artifact's folder with its description; ArtifactError if a file, size or digest differs."""
    check_layout(directory, artifact)
    for relative, entry in sorted(artifact.files.items()):
        path = directory / relative
        if (digest := digest_file(path)) != entry.digest:
            raise _error(str(path), entry.digest, digest)


def check_layout(directory: Path, artifact: Artifact) -> None:
    """Compare names, kinds and sizes of an artifact's files with its description, without reading them."""
    found = dict(_walk(directory, ""))
    for relative, path in found.items():
        if relative not in artifact.files and relative not in _OWN_FILES:
            raise _error(str(path), "only the files that artifact.json names", "this one")
    for relative, entry in sorted(artifact.files.items()):
        path = directory / relative
        if relative not in found:
            raise _error(str(path), f"{entry.size} bytes", "nothing")
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise _error(str(path), "a regular file", "something else")
        if status.st_size != entry.size:
            raise _error(str(path), f"{entry.size} bytes", f"{status.st_size} bytes")


def describe_files(directory: Path) -> dict[str, FileEntry]:
    """Return size and digest of the files in a folder, except for those that are not part of an artifact."""
    return {relative: FileEntry(path.stat().st_size, digest_file(path)) for relative, path in list_files(directory)}


def list_files(directory: Path) -> list[tuple[str, Path]]:
    """Return the files in a folder with their relative paths, except for those that are not part of an artifact."""
    return [(relative, path) for relative, path in _walk(directory, "") if relative not in _OWN_FILES]


def _read(data: bytes) -> tuple[Artifact, object]:
    document = parse(data)
    if not isinstance(document, dict) or "key" not in document:
        raise DocumentError([Problem("key", "expected it, got nothing")])
    key = document.pop("key")
    artifact = convert(document, Artifact)
    problems = Problems()
    check_digest(artifact.subject, "subject", problems)
    check_name(artifact.name, "name", problems)
    check_listed_files(artifact.files, problems)
    for relative in artifact.files:
        if relative.lower().partition("/")[0] in _OWN_FILES:
            problems.add(key_location("files", relative), "expected a name that is not reserved")
    problems.raise_if_any()
    return artifact, key


def _walk(directory: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for name in sorted(os.listdir(directory)):  # noqa: PTH208
        path = directory / name
        if is_directory(path):
            yield from _walk(path, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", path


def _error(path: str, expected: str, got: str) -> ArtifactError:
    return ArtifactError.mismatch(path, expected, got, _ADVICE)
