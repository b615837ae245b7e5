"""Carry an entry of the compile cache to an identical machine, as a folder.

The promise: every byte that leaves or comes in was compared with its digest, the copy and not what it was made from;
the folder appears whole or not at all. What comes in is found under the key that its own description makes, which names
the bundle, the device and OpenVINO's build: on another machine it is never found, and never used.
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
    from npu_persist.cache.entry import Entry


def copy_out(entry: Entry, target: Path) -> None:
    """Copy an entry to a new folder.

    Raises:
        UsageError: There is something at `target`.
        ArtifactError: The entry is damaged.
        StoreError: The file system refuses.
    """
    if os.path.lexists(target):
        raise UsageError(
            f"{target}: expected a folder that is not there yet, to be made; got one that is. Choose another"
        )
    draft = target.with_name(f"{target.name}.{os.urandom(4).hex()}.part")
    held = entry.hold()
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
        if held is not None:
            held.release()
        with store_errors(f"remove {draft}"):
            remove(draft)


def copy_in(source: Path, staging: Path) -> Artifact:
    """Copy the files of an exported entry, but its description, into an empty folder; return the description.

    Raises:
        NotFoundError: There is no exported entry.
        ArtifactError: It is damaged.
        StoreError: The file system refuses.
    """
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
