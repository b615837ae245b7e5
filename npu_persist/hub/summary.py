"""Read what a commit on the hub has: its manifest, and the descriptions of its compiled artifacts."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, MAX_ARTIFACT_SIZE
from npu_persist.artifact.attached import MAX_ATTACHED, MAX_DESCRIPTIONS
from npu_persist.bundle.manifest import (
    COMPILED_DIRECTORY,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    MAX_MANIFEST_SIZE,
    Manifest,
)
from npu_persist.errors import ArtifactError, FileIntegrityError, HubNotFoundError, ManifestError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import path_problem
from npu_persist.hub.pulled import CommitSummary
from npu_persist.trust.signing import MAX_SIGNATURES_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npu_persist.hub.client import RemoteCommit

log = logging.getLogger(__name__)


def read_summary(remote: RemoteCommit, *, compiled: bool) -> tuple[CommitSummary, bytes]:
    """Read the summary of a commit's bundle, and its manifest's bytes; with `compiled` its `artifact.json` files too.

    The manifest is valid, each of its files has the size that it gives, and each name in `compiled/` is valid on every
    platform. Raises `HubNotFoundError` without a manifest, `IntegrityError` if something is damaged or hostile.
    """
    sizes = {path: file.size for path, file in remote.files.items()}
    repo_id, commit = remote.repository.repo_id, remote.commit
    where = f"{repo_id} at {commit}"
    if MANIFEST_FILE not in sizes:
        raise HubNotFoundError(
            f"{where} has no bundle: expected {MANIFEST_FILE} at its root, got {len(sizes)} other files. "
            "`npu-persist push` uploads one",
            repo_id=repo_id,
            revision=commit,
        )
    if sizes[MANIFEST_FILE] > MAX_MANIFEST_SIZE:
        raise ManifestError(
            f"{where}: expected a {MANIFEST_FILE} of at most {MAX_MANIFEST_SIZE} bytes, got {sizes[MANIFEST_FILE]}"
        )
    data = remote.read(MANIFEST_FILE)
    manifest = Manifest.from_json(data, source=f"{MANIFEST_FILE} of {where}")
    for path, entry in manifest.files.items():
        _check_size(where, path, entry.size, sizes.get(path))
    # A file directly in compiled/, such as the lock of an uploaded folder, belongs to no artifact.
    inside = [path for path in sizes if compiled and re.match(f"{COMPILED_DIRECTORY}/[^/]+/", path)]
    _check_names(where, inside)
    for path in (MANIFEST_SIGNATURE_FILE, *inside):
        is_signatures = path.endswith((MANIFEST_SIGNATURE_FILE, f"/{ARTIFACT_SIGNATURE_FILE}"))
        if is_signatures and sizes.get(path, 0) > MAX_SIGNATURES_SIZE:
            log.warning("%s of %s is ignored: its %d bytes are not signatures", path, where, sizes.pop(path))
    needed = {MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, *manifest.files, *inside}
    summary = CommitSummary(
        repo_id=repo_id,
        commit=commit,
        name=manifest.name,
        digest=digest_bytes(data),
        sizes={path: sizes[path] for path in sorted(needed & sizes.keys())},
        descriptions=_read_descriptions(remote, inside) if compiled else None,
    )
    return summary, data


def _check_size(where: str, path: str, expected: int, got: int | None) -> None:
    if got != expected:
        found = "nothing" if got is None else f"{got} bytes"
        raise FileIntegrityError(
            f"{path} of {where}: the manifest says {expected} bytes, got {found}. Push the bundle again",
            path=path,
            expected=f"{expected} bytes",
            got=found,
        )


def _check_names(where: str, paths: Iterable[str]) -> None:
    spellings: dict[str, str] = {}
    for path in paths:
        problem = path_problem(path)
        twin = spellings.setdefault(path.lower(), path)
        if problem is None and twin != path:
            problem = f"differs from {twin!r} only in case"
        if problem is not None:
            expected = "a name that is valid on every platform"
            raise ArtifactError(
                f"{path!r} of {where} {problem}: expected {expected}. Nothing was pulled; `--no-compiled` leaves out "
                "all compiled artifacts",
                path=path,
                expected=expected,
                got=problem,
            )


def _read_descriptions(remote: RemoteCommit, inside: Iterable[str]) -> dict[str, str]:
    parts = {path: path.split("/") for path in inside}
    paths = {folder: path for path, (_, folder, *rest) in parts.items() if rest == [ARTIFACT_FILE]}
    sizes = [remote.files[path].size for path in paths.values()]
    if len(sizes) > MAX_ATTACHED or sum(sizes) > MAX_DESCRIPTIONS or max(sizes, default=0) > MAX_ARTIFACT_SIZE:
        expected = f"at most {MAX_ATTACHED} artifacts, and at most {MAX_DESCRIPTIONS} bytes of {ARTIFACT_FILE}"
        got = f"{len(sizes)} with {sum(sizes)} bytes"
        raise ArtifactError(
            f"{remote.repository.repo_id} at {remote.commit}: expected {expected} ({MAX_ARTIFACT_SIZE} each); got "
            f"{got}. `--no-compiled` leaves out all compiled artifacts",
            path=COMPILED_DIRECTORY,
            expected=expected,
            got=got,
        )
    # Text that decoding changes is no valid description.
    return {folder: remote.read(path).decode("utf-8", "replace") for folder, path in paths.items()}
