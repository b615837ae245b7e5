"""Export and import of cache entries, to carry them to an identical machine as a folder.

Every copied byte is compared with its digest, and the folder appears complete. An imported entry is found under the key
of its own description, which names the bundle, the device and OpenVINO's build: another machine never uses it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, check_files, check_layout, read_artifact
from npu_persist.errors import ArtifactError, NotFoundError, UsageError
from npu_persist.files.filesystem import copy_file, fsync_directory, remove, rename_new, store_errors, write_file

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.cache.entry import CacheEntry


def export_entry(entry: CacheEntry, target: Path) -> None:
    """Copy an entry to a new folder; errors as for `CompileCache.export`."""
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; expected a new folder. Choose another")
    draft = target.with_name(f"{target.name}.{os.urandom(4).hex()}.part")
    lock = entry.mark_in_use()
    try:
        with store_errors(f"export {entry.key} to {target}"):
            artifact = entry.artifact
            if artifact is None:
                raise ArtifactError(f"{entry.path}: {entry.problem}. `npu-persist cache prune` removes it")
            draft.mkdir(parents=True)
            _copy(artifact, entry.path, draft)
            write_file(draft / ARTIFACT_FILE, artifact.to_json())
            fsync_directory(draft)
            rename_new(draft, target)
    finally:
        if lock is not None:
            lock.release()
        with store_errors(f"remove {draft}"):
            remove(draft)


def copy_exported(source: Path, staging: Path) -> Artifact:
    """Copy the files of an exported entry into an empty folder, and return the description."""
    with store_errors(f"import {source}"):
        try:
            artifact = read_artifact(source)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"{source}: expected a folder that `npu-persist cache export` made, with {ARTIFACT_FILE}; got none"
            ) from error
        _copy(artifact, source, staging)
    return artifact


def _copy(artifact: Artifact, source: Path, target: Path) -> None:
    check_layout(source, artifact)
    for relative in artifact.files:
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source / relative, path)
    check_files(target, artifact)
