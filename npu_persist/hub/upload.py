"""What a bundle consists of on the hub: each file with the two digests that the store and the hub know it by.

The promise: a file is listed only after every byte of it was compared with the manifest, or with the `artifact.json` of
its artifact, and its sha256 is of those same bytes: what is uploaded under it can be nothing else. What is derived
(`model.bin`) or says how this machine came by it (`origin.json`) is not listed.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, MAX_ARTIFACT_SIZE, Artifact
from npu_persist.artifact.attached import list_attached, verify_attached
from npu_persist.bundle.bundle import read_manifest
from npu_persist.bundle.manifest import COMPILED_DIRECTORY, MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, FileEntry
from npu_persist.errors import FileIntegrityError
from npu_persist.files.digest import BUFFER_SIZE, Hasher, digest_bytes
from npu_persist.files.filesystem import is_directory, store_errors

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

IN_MEMORY = 1024 * 1024
"""Largest file that is sent from memory: the hub keeps text of such sizes in git, where no sha256 holds it."""

MAX_SIGNATURE_SIZE = 1024 * 1024
"""Largest signature file, in bytes."""


class Outgoing(NamedTuple):
    """One file as it will be on the hub.

    Attributes:
        size: Its size in bytes.
        sha256: What LFS knows it by: 64 hex digits.
        content: Its bytes, or where they are.
    """

    size: int
    sha256: str
    content: bytes | Path

    @property
    def git_oid(self) -> str:
        """What git knows it by: 40 hex digits."""
        hasher = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        if isinstance(self.content, bytes):
            hasher.update(self.content)
        else:
            with self.content.open("rb") as file:
                while piece := file.read(BUFFER_SIZE):
                    hasher.update(piece)
        return hasher.hexdigest()


def from_bytes(data: bytes) -> Outgoing:
    """Return a file with this content."""
    return Outgoing(len(data), hashlib.sha256(data).hexdigest(), data)


def list_outgoing(bundle: Bundle, *, compiled: bool) -> tuple[dict[str, Outgoing], dict[str, Artifact]]:
    """Verify a bundle, and return its files by path, and its attached artifacts by their folder's name.

    Args:
        bundle: The bundle.
        compiled: With what is attached to it.

    Raises:
        FileIntegrityError: A file is not what the manifest says.
        ArtifactError: An attached artifact is damaged, or was compiled from another bundle.
    """
    data, _ = read_manifest(bundle.path)
    if digest_bytes(data) != bundle.digest:
        raise _changed(bundle.path / MANIFEST_FILE, bundle.digest, digest_bytes(data))
    found = {MANIFEST_FILE: from_bytes(data), **_signature(bundle.path, MANIFEST_SIGNATURE_FILE)}
    for path, entry in sorted(bundle.manifest.files.items()):
        found[path] = _read(bundle.file(path), entry)
    artifacts: dict[str, Artifact] = {}
    if compiled:
        verify_attached(bundle)
        for folder, artifact in list_attached(bundle):
            if isinstance(artifact, Artifact):  # one that was damaged since then is left out
                artifacts[folder.name] = artifact
                inside = {**_described(folder, artifact), **_signature(folder, ARTIFACT_SIGNATURE_FILE)}
                found |= {f"{COMPILED_DIRECTORY}/{folder.name}/{path}": file for path, file in inside.items()}
    return found, artifacts


def _described(folder: Path, artifact: Artifact) -> dict[str, Outgoing]:
    description = folder / ARTIFACT_FILE
    with store_errors(f"read {description}"), description.open("rb") as file:
        data = file.read(MAX_ARTIFACT_SIZE + 1)
    if Artifact.from_json(data, source=str(description)) != artifact:
        raise _changed(description, "what it was a moment ago", "another description")
    return {
        ARTIFACT_FILE: from_bytes(data),  # as it is: signatures are of these bytes
        **{path: _read(folder / path, entry) for path, entry in sorted(artifact.files.items())},
    }


def _signature(folder: Path, name: str) -> dict[str, Outgoing]:
    path = folder / name
    if not os.path.lexists(path):
        return {}
    with store_errors(f"read {path}"):
        if path.is_symlink() or is_directory(path) or path.stat().st_size > MAX_SIGNATURE_SIZE:
            raise _changed(path, f"a regular file of at most {MAX_SIGNATURE_SIZE} bytes", "something else")
        return {name: from_bytes(path.read_bytes())}


def _read(path: Path, entry: FileEntry) -> Outgoing:
    """Read a file once for both digests."""
    ours, theirs, size, first = Hasher(), hashlib.sha256(), 0, b""
    buffer = memoryview(bytearray(min(BUFFER_SIZE, entry.size + 1)))
    with store_errors(f"read {path}"), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            ours.update(buffer[:count])
            theirs.update(buffer[:count])
            size += count
            if entry.size <= IN_MEMORY:
                first += bytes(buffer[:count])
    if (digest := ours.digest()) != entry.digest:
        raise _changed(path, entry.digest, digest)
    return Outgoing(size, theirs.hexdigest(), first if entry.size <= IN_MEMORY else path)


def _changed(path: Path, expected: str, got: str) -> FileIntegrityError:
    return FileIntegrityError(
        f"{path}: expected {expected}, got {got}. Nothing was sent. Persist or compile again, or get another copy",
        path=str(path),
        expected=expected,
        got=got,
    )
