"""What a push finds in a repository: the files of one commit, and which of them a bundle owns.

The promise: a bundle owns what the manifest on the hub names, and what is in `compiled/`; a README, a `.gitattributes`
and all else belongs to whoever put it there. What cannot be read owns nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, MAX_ARTIFACT_SIZE, Artifact
from npu_persist.bundle.manifest import (
    COMPILED_DIRECTORY,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    MAX_MANIFEST_SIZE,
    Manifest,
)
from npu_persist.errors import ArtifactError, FormatVersionError, HubError, ManifestError
from npu_persist.hub.client import hub_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from dataclasses import dataclass

    from huggingface_hub import HfApi

    from npu_persist.hub.upload import Outgoing
else:
    from npu_persist.files.frozen import dataclass

MAX_FILES = 100_000
"""Most entries of a repository that are looked through."""

_COMPILED = f"{COMPILED_DIRECTORY}/"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a commit.

    Attributes:
        size: Its size in bytes.
        oid: What git knows it by; for a file in LFS that is its pointer's.
        sha256: What LFS knows it by; None for a file that git keeps itself.
    """

    size: int
    oid: str
    sha256: str | None

    def holds(self, file: Outgoing) -> bool:
        """Tell whether it has the same content."""
        if self.size != file.size:
            return False
        return self.oid == file.git_oid if self.sha256 is None else self.sha256 == file.sha256


@dataclass(frozen=True, slots=True)
class Inventory:
    """A repository at one commit.

    Attributes:
        repo: Its name, `org/unet`.
        commit: The commit.
        files: The files by path.
    """

    repo: str
    commit: str
    files: Mapping[str, RemoteFile]

    def holds(self, path: str, file: Outgoing) -> bool:
        """Tell whether a path has this content."""
        return path in self.files and self.files[path].holds(file)

    def read(self, client: HfApi, path: str, limit: int) -> bytes | None:
        """Fetch a small file; None where there is none, or it is larger than `limit`."""
        if path not in self.files or self.files[path].size > limit:
            return None
        with tempfile.TemporaryDirectory() as folder:
            local = client.hf_hub_download(self.repo, path, revision=self.commit, local_dir=folder)
            with Path(local).open("rb") as file:
                return file.read(limit)


def take_inventory(client: HfApi, repo: str, commit: str) -> Inventory:
    """List the files of a commit.

    Raises:
        HubError: The hub refuses, or cannot be reached, or lists more than `MAX_FILES`.
    """
    files = {}
    with hub_errors(f"list the files of {repo}", repo, commit):
        for number, entry in enumerate(client.list_repo_tree(repo, recursive=True, revision=commit)):
            if number >= MAX_FILES:
                raise HubError(
                    f"{repo}: expected a repository of at most {MAX_FILES} files and folders, got more at commit "
                    f"{commit}. Push to one of the bundle's own",
                    repo=repo,
                    revision=commit,
                )
            if (oid := getattr(entry, "blob_id", None)) is not None:  # folders have none
                lfs = getattr(entry, "lfs", None)
                files[entry.path] = RemoteFile(getattr(entry, "size", 0), oid, None if lfs is None else lfs.sha256)
    return Inventory(repo, commit, files)


def list_stale(client: HfApi, there: Inventory, files: Mapping[str, Outgoing]) -> list[str]:
    """Return what a bundle on the hub owns and the one that takes its place has not.

    What was compiled from the same bundle stays, unless its folder gets another artifact: someone else may have
    compiled it, for a machine that is not here. So does a signature of the same manifest.
    """
    if there.holds(MANIFEST_FILE, files[MANIFEST_FILE]):
        replaced = tuple(
            path.removesuffix(ARTIFACT_FILE)
            for path, file in files.items()
            if path.startswith(_COMPILED) and path.endswith(f"/{ARTIFACT_FILE}") and not there.holds(path, file)
        )
        owned = {path for path in there.files if path.startswith(replaced)}
    else:
        owned = {path for path in there.files if path.startswith(_COMPILED)}
        owned |= {MANIFEST_SIGNATURE_FILE, *_named(client, there)}
    return sorted((owned & there.files.keys()) - files.keys())


def kept_artifacts(
    client: HfApi, there: Inventory, gone: Sequence[str], known: Mapping[str, Artifact]
) -> dict[str, Artifact]:
    """Return the artifacts on the hub that stay beside `known`, by their folder's name; what cannot be read is none."""
    found: dict[str, Artifact] = {}
    for path in there.files:
        top, _, rest = path.partition("/")
        folder, _, name = rest.partition("/")
        if top == COMPILED_DIRECTORY and name == ARTIFACT_FILE and folder not in known and path not in gone:
            data = there.read(client, path, MAX_ARTIFACT_SIZE)
            try:
                found[folder] = Artifact.from_json(data or b"", source=path)
            except ArtifactError:
                continue  # a person may have put anything there; pull says what is wrong with it
    return found


def _named(client: HfApi, there: Inventory) -> tuple[str, ...]:
    """Return what the manifest on the hub names; nothing where it cannot be read, or is of another format."""
    data = there.read(client, MANIFEST_FILE, MAX_MANIFEST_SIZE)
    try:
        return tuple(Manifest.from_json(data or b"", source=f"{MANIFEST_FILE} of {there.repo}").files)
    except (ManifestError, FormatVersionError):
        return ()
