"""Export and import of cache entries, to carry them to an identical machine as a folder.

Every copied byte is compared with its digest, and the folder appears complete. An imported entry is found under the key
of its own description, which names the bundle, the device and OpenVINO's build: another machine never uses it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, check_files, check_layout, read_artifact
from npu_persist.errors import ArtifactError, NotFoundError, UsageError
from npu_persist.files.filesystem import (
    check_path,
    copy_file,
    fsync_directory,
    make_folder,
    rename_new,
    store_errors,
    write_file,
)
from npu_persist.files.staging import drafted, prune_drafts

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.cache.entry import CacheEntry


def export_entry(entry: CacheEntry, target: Path) -> None:
    """Copy an entry to a new folder; errors as for `CompileCache.export`."""
    check_path(target, "directory")
    prune_drafts(target)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; expected a new folder. Choose another")
    artifact = entry.artifact
    if artifact is None:
        raise ArtifactError(f"{entry.path}: {entry.problem}. `npu-persist cache prune` removes it")
    lock = entry.mark_in_use()
    try:
        with store_errors(f"export {entry.key} to {target}"), drafted(target) as draft:
            _copy(artifact, entry.path, draft)
            write_file(draft / ARTIFACT_FILE, artifact.to_json())
            for folder in sorted({draft, *((draft / path).parent for path in artifact.files)}, reverse=True):
                fsync_directory(folder)
            rename_new(draft, target, below=target.parent)
            fsync_directory(target.parent)
    finally:
        if lock is not None:
            lock.release()


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
        make_folder(path.parent, parents=True)
        copy_file(source / relative, path)
    check_files(target, artifact)
