"""Push a bundle to a repository on the hub: verified, in one commit, and only the files that the repository lacks.

The branch has the old bundle or the whole new one. If someone changed the branch meanwhile, or the tag names another
bundle, nothing changes and a `HubConflictError` says so.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from npu_persist.artifact.artifact import (
    ARTIFACT_FILE,
    ARTIFACT_SIGNATURE_FILE,
    MAX_ARTIFACT_SIZE,
    Artifact,
    read_description,
)
from npu_persist.artifact.attached import list_attached, verify_attached
from npu_persist.bundle.bundle import read_manifest
from npu_persist.bundle.manifest import (
    COMPILED_DIRECTORY,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    MAX_MANIFEST_SIZE,
    FileEntry,
    Manifest,
)
from npu_persist.bundle.reference import HUB_SCHEME, HubReference, parse
from npu_persist.errors import (
    ArtifactError,
    FileIntegrityError,
    FormatVersionError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    ManifestError,
    ReferenceFormatError,
    UsageError,
)
from npu_persist.files.digest import BUFFER_SIZE, Hasher, digest_bytes
from npu_persist.files.filesystem import is_directory, store_errors
from npu_persist.hub.card import CARD_FILE, MAX_CARD_SIZE, make_section, renew_card
from npu_persist.hub.client import MAIN, RemoteCommit, Repository, hub_errors, is_commit, without_progress_bars
from npu_persist.hub.pulled import resolve_offline
from npu_persist.progress import Reporter
from npu_persist.store.api import open_store
from npu_persist.trust.signing import MAX_SIGNATURES_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.hub.client import Token
    from npu_persist.progress import ProgressCallback, Stage
    from npu_persist.store.api import AnyStore

log = logging.getLogger(__name__)

IN_MEMORY = 1024 * 1024
"""Largest file that is sent from memory: the hub keeps small text files in git, where no sha256 protects them."""

_COMPILED = f"{COMPILED_DIRECTORY}/"


class PushResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a push did.

    Attributes:
        repo_id: The repository: `org/unet`.
        commit: The commit with the bundle: a new one, or the one that had it already.
        tag: The tag of the commit; None without one.
        url: The page of the commit, or of the pull request.
        uploaded_bytes: Bytes of the files that the repository lacked.
        skipped_bytes: Bytes of the files that it had.
    """

    repo_id: str
    commit: str
    tag: str | None
    url: str
    uploaded_bytes: int
    skipped_bytes: int


def push(  # noqa: PLR0913 (the choices of a user; all but two have a default)
    reference: str | os.PathLike[str],
    repo_id: str,
    *,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    compiled: bool = True,
    token: Token = None,
    store: AnyStore = None,
    progress: ProgressCallback | None = None,
) -> PushResult:
    """Verify a bundle and upload it to a repository on the hub, in one commit.

    The repository and the branch are created if they do not exist. Pushing the same bundle again changes nothing.

    Args:
        reference: The bundle: `unet`, `unet:3`, a directory.
        repo_id: The repository: `org/unet`.
        revision: The branch; None for `main`.
        tag: The tag of the commit; None for `v3` if the bundle is version 3 in a store, else for no tag.
        commit_message: The commit's message; None for the bundle's reference and digest.
        private: Whether a new repository is private; None for your account's default. True is an error for an existing
            public repository.
        create_pr: Open a pull request instead of changing the branch. It gets no tag.
        compiled: Whether to include the attached compiled artifacts.
        token: As in huggingface_hub: a token, True to require the one you logged in with, False to send none.
        store: A store, its directory, or None for the default one.
        progress: Called with events of the stage "push", in bytes; a file counts when it is uploaded.

    Raises:
        UsageError: The arguments do not fit together.
        BundleNotFoundError: There is no such bundle.
        IntegrityError: A file differs from the manifest or from its artifact's description; nothing was uploaded.
        MissingExtraError: huggingface_hub is not installed.
        HubAccessError: A token is missing, or does not allow it.
        HubConflictError: The branch moved meanwhile, or the tag names another bundle.
        HubError: The hub reports an error or cannot be reached.

    Example:
        >>> import npu_persist
        >>> result = npu_persist.push("unet:3", "org/unet", private=True)  # doctest: +SKIP
        >>> result.tag, result.uploaded_bytes  # doctest: +SKIP
        ('v3', 1722304211)
    """
    repo_id = _parse_repo_id(repo_id, tag)
    _check_arguments(revision, tag, commit_message, create_pr=create_pr)
    bundle = resolve_offline(open_store(store), reference)
    if tag is None and bundle.version is not None and not create_pr:
        tag = f"v{bundle.version}"
    repository, branch = Repository(repo_id, token), revision or MAIN
    _ = repository.client  # is it installed? asked before a large bundle is hashed
    files, artifacts = list_files(bundle, compiled=compiled)
    commit, tags = _open_repository(repository, branch, private=private, create_pr=create_pr)
    there = RemoteCommit(repository, commit)
    is_tagged = _check_tag(there, bundle, tag, tags, files)
    stale = _list_stale(there, files)
    artifacts = _read_kept_artifacts(there, stale, artifacts) | artifacts
    card = _make_card(there, bundle, HubReference(repo_id, tag), artifacts)
    files |= {} if card is None else {CARD_FILE: card}
    missing = {path: file for path, file in files.items() if not file.is_in(there, path)}
    uploaded = sum(file.size for file in missing.values())
    new, url = commit, f"{repository.client.endpoint}/{repo_id}/commit/{commit}"
    if missing or stale:
        message = commit_message or f"{bundle.reference if bundle.version else bundle.manifest.name} ({bundle.digest})"
        with (
            hub_errors(f"push {bundle.reference}", repo_id, branch),
            without_progress_bars(),
            Reporter(progress).stage("push", total=uploaded, unit="bytes", beats=True) as stage,
        ):
            new, url = _Upload(there, branch, create_pr=create_pr).run(missing, stale, message, stage)
    else:
        log.info("%s: %s already has all of it, at %s", bundle.reference, repo_id, commit)
    if tag is not None and (new != commit or not is_tagged):
        _set_tag(repository, tag, new, replace=is_tagged)
    skipped = sum(file.size for file in files.values()) - uploaded
    return PushResult(repo_id=repo_id, commit=new, tag=tag, url=url, uploaded_bytes=uploaded, skipped_bytes=skipped)


class LocalFile(NamedTuple):
    """A file to upload.

    Attributes:
        size: Its size in bytes.
        sha256: Its LFS object id: 64 hex digits.
        content: Its bytes, or its path.
    """

    size: int
    sha256: str
    content: bytes | Path

    def is_in(self, there: RemoteCommit, path: str) -> bool:
        """Return whether a path on the hub has the same content."""
        remote = there.files.get(path)
        if remote is None or remote.size != self.size:
            return False
        return remote.oid == self._hash_as_git() if remote.sha256 is None else remote.sha256 == self.sha256

    def _hash_as_git(self) -> str:
        hasher = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        if isinstance(self.content, bytes):
            hasher.update(self.content)
        else:
            with self.content.open("rb") as file:
                while piece := file.read(BUFFER_SIZE):
                    hasher.update(piece)
        return hasher.hexdigest()


def list_files(bundle: Bundle, *, compiled: bool) -> tuple[dict[str, LocalFile], dict[str, Artifact]]:
    """Verify a bundle, and return its files by path, and its attached artifacts by folder name.

    Every file is hashed once for both digests, so that the bytes that LFS accepts are the bytes that were verified.
    Left out are `model.bin`, which is derived, and `origin.json`, which describes this copy.
    """
    data, _ = read_manifest(bundle.path)
    if digest_bytes(data) != bundle.digest:
        raise _changed(bundle.path / MANIFEST_FILE, bundle.digest, digest_bytes(data))
    found = {MANIFEST_FILE: _from_bytes(data), **_read_signatures(bundle.path, MANIFEST_SIGNATURE_FILE)}
    for path, entry in sorted(bundle.manifest.files.items()):
        found[path] = _read_file(bundle.file(path), entry)
    artifacts: dict[str, Artifact] = {}
    if compiled:
        verify_attached(bundle)
        for folder, artifact in list_attached(bundle):
            if isinstance(artifact, Artifact):  # one that was damaged since is left out
                artifacts[folder.name] = artifact
                inside = {**_read_artifact(folder, artifact), **_read_signatures(folder, ARTIFACT_SIGNATURE_FILE)}
                found |= {f"{_COMPILED}{folder.name}/{path}": file for path, file in inside.items()}
    return found, artifacts


def _from_bytes(data: bytes) -> LocalFile:
    return LocalFile(len(data), hashlib.sha256(data).hexdigest(), data)


def _read_artifact(folder: Path, artifact: Artifact) -> dict[str, LocalFile]:
    description, data = folder / ARTIFACT_FILE, read_description(folder)
    if Artifact.from_json(data, source=str(description)) != artifact:
        raise _changed(description, "the description that was verified", "another one")
    return {
        ARTIFACT_FILE: _from_bytes(data),  # byte for byte, since these bytes are signed
        **{path: _read_file(folder / path, entry) for path, entry in sorted(artifact.files.items())},
    }


def _read_signatures(folder: Path, name: str) -> dict[str, LocalFile]:
    path = folder / name
    if not os.path.lexists(path):
        return {}
    with store_errors(f"read {path}"):
        if path.is_symlink() or is_directory(path) or path.stat().st_size > MAX_SIGNATURES_SIZE:
            raise _changed(path, f"a regular file of at most {MAX_SIGNATURES_SIZE} bytes", "something else")
        return {name: _from_bytes(path.read_bytes())}


def _read_file(path: Path, entry: FileEntry) -> LocalFile:
    blake3, sha256, size, content = Hasher(), hashlib.sha256(), 0, b""
    buffer = memoryview(bytearray(min(BUFFER_SIZE, entry.size + 1)))
    with store_errors(f"read {path}"), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            blake3.update(buffer[:count])
            sha256.update(buffer[:count])
            size += count
            if entry.size <= IN_MEMORY:
                content += bytes(buffer[:count])
    if (digest := blake3.digest()) != entry.digest:
        raise _changed(path, entry.digest, digest)
    return LocalFile(size, sha256.hexdigest(), content if entry.size <= IN_MEMORY else path)


def _changed(path: Path, expected: str, got: str) -> FileIntegrityError:
    advice = "Nothing was uploaded. Persist or compile again, or get another copy"
    return FileIntegrityError.mismatch(path, expected, got, advice)


def _parse_repo_id(repo_id: str, tag: str | None) -> str:
    """Check that `hf://{repo_id}@{tag}` is a valid reference."""
    try:
        found = parse(f"{HUB_SCHEME}{repo_id.removeprefix(HUB_SCHEME)}" + ("" if tag is None else f"@{tag}"))
    except ReferenceFormatError as error:
        raise UsageError(
            f"expected a repository such as org/unet, and a tag of letters, digits, '.', '_', '-' and '/'; got "
            f"{repo_id!r} and {tag!r}"
        ) from error
    if not isinstance(found, HubReference) or found.revision != tag or found.digest is not None:
        raise UsageError(f"repo_id: expected org/unet without a revision, got {repo_id!r}. `revision` is the branch")
    return found.repo_id


def _check_arguments(revision: str | None, tag: str | None, commit_message: str | None, *, create_pr: bool) -> None:
    if revision is not None and (is_commit(revision) or not revision.strip()):
        raise UsageError(f"revision: expected a branch to push to, such as main, got {revision!r}")
    if commit_message is not None and not commit_message.strip():
        raise UsageError("commit_message: expected a text, or None for the default, got an empty one")
    if create_pr and tag is not None:
        raise UsageError(f"a pull request has no tag, got {tag!r}. Push again with the tag when it is merged")


def _open_repository(
    repository: Repository, branch: str, *, private: bool | None, create_pr: bool
) -> tuple[str, dict[str, str]]:
    """Return the branch's commit and the tags; create the repository and the branch if they are missing."""
    client, repo_id = repository.client, repository.repo_id
    with hub_errors(f"look up {repo_id}", repo_id):
        try:
            with hub_errors(f"look up {repo_id}", repo_id):
                refs = client.list_repo_refs(repo_id)
        except HubNotFoundError:
            if create_pr:
                raise
            with hub_errors(f"create {repo_id}", repo_id):
                client.create_repo(repo_id, private=private, exist_ok=True)
            refs = client.list_repo_refs(repo_id)
        else:
            if private and not client.repo_info(repo_id).private:
                raise HubError(
                    f"{repo_id} exists and is public; private=True (--private) applies to new repositories only. Make "
                    "it private on its page, or push without it",
                    repo_id=repo_id,
                )
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        tags = {ref.name: ref.target_commit for ref in refs.tags}
    if branch not in branches:
        if branch in tags:
            raise UsageError(f"revision: expected a branch of {repo_id}, got {branch!r}, which is a tag")
        with hub_errors(f"create the branch {branch} of {repo_id}", repo_id, branch):
            client.create_branch(repo_id, branch=branch, exist_ok=True)
            branches[branch] = client.repo_info(repo_id, revision=branch).sha or ""
    return branches[branch], tags


def _check_tag(
    there: RemoteCommit, bundle: Bundle, tag: str | None, tags: Mapping[str, str], files: Mapping[str, LocalFile]
) -> bool:
    """Return whether the tag exists and names this bundle; raise `HubConflictError` if it names another."""
    if tag is None or tag not in tags:
        return False
    tagged = there if tags[tag] == there.commit else RemoteCommit(there.repository, tags[tag])
    if files[MANIFEST_FILE].is_in(tagged, MANIFEST_FILE):
        return True
    repo_id = there.repository.repo_id
    raise HubConflictError(
        f"could not push {bundle.reference}: the tag {tag} of {repo_id} names commit {tags[tag]}, which has another "
        f"bundle than {bundle.digest}. Nothing was uploaded. Choose another tag (--tag), or delete that one",
        repo_id=repo_id,
        revision=tag,
    )


def _list_stale(there: RemoteCommit, files: Mapping[str, LocalFile]) -> list[str]:
    """Return the files of the bundle on the hub that the new one does not have.

    Artifacts of the same bundle stay, unless their folder gets another artifact: someone else may have compiled them,
    for another machine. So does a signature of the same manifest. Files that no manifest names are never deleted.
    """
    if files[MANIFEST_FILE].is_in(there, MANIFEST_FILE):
        replaced = tuple(
            path.removesuffix(ARTIFACT_FILE)
            for path, file in files.items()
            if path.startswith(_COMPILED) and path.endswith(f"/{ARTIFACT_FILE}") and not file.is_in(there, path)
        )
        owned = {path for path in there.files if path.startswith(replaced)}
    else:
        owned = {MANIFEST_SIGNATURE_FILE, *(path for path in there.files if path.startswith(_COMPILED))}
        data = _read_small(there, MANIFEST_FILE, MAX_MANIFEST_SIZE)
        with suppress(ManifestError, FormatVersionError):  # an unreadable manifest names nothing
            owned.update(Manifest.from_json(data or b"", source=MANIFEST_FILE).files)
    return sorted((owned & there.files.keys()) - files.keys())


def _read_kept_artifacts(
    there: RemoteCommit, stale: Sequence[str], known: Mapping[str, Artifact]
) -> dict[str, Artifact]:
    """Return the artifacts on the hub that stay beside `known`, by folder name; unreadable ones are left out."""
    found: dict[str, Artifact] = {}
    for path in there.files:
        top, _, rest = path.partition("/")
        folder, _, name = rest.partition("/")
        if top == COMPILED_DIRECTORY and name == ARTIFACT_FILE and folder not in known and path not in stale:
            with suppress(ArtifactError):  # anyone may have put anything there; pull says what is wrong with it
                found[folder] = Artifact.from_json(_read_small(there, path, MAX_ARTIFACT_SIZE) or b"", source=path)
    return found


def _make_card(
    there: RemoteCommit, bundle: Bundle, reference: HubReference, artifacts: Mapping[str, Artifact]
) -> LocalFile | None:
    """Return the new model card; None to leave a person's alone."""
    old = None
    if CARD_FILE in there.files:
        with suppress(UnicodeDecodeError):
            data = _read_small(there, CARD_FILE, MAX_CARD_SIZE)
            old = None if data is None else data.decode()
        if old is None:
            return None
    card = renew_card(old, make_section(bundle, reference, artifacts), bundle.manifest.name)
    return None if card is None else _from_bytes(card.encode())


def _read_small(there: RemoteCommit, path: str, limit: int) -> bytes | None:
    """Read a file on the hub; None if it is missing or larger than `limit`."""
    return there.read(path) if path in there.files and there.files[path].size <= limit else None


class _Upload:
    """One commit on its way to a branch."""

    def __init__(self, parent: RemoteCommit, branch: str, *, create_pr: bool) -> None:
        self._client, self._repo_id = parent.repository.client, parent.repository.repo_id
        self._parent, self._branch, self._create_pr = parent.commit, branch, create_pr

    def run(
        self, missing: Mapping[str, LocalFile], stale: Sequence[str], message: str, stage: Stage
    ) -> tuple[str, str]:
        """Upload the missing files, commit, and return the commit and its page."""
        from huggingface_hub import CommitOperationDelete

        additions = {path: _make_addition(path, file) for path, file in missing.items()}
        done = 0
        small = [path for path, file in missing.items() if isinstance(file.content, bytes)]
        large = [[path] for path, file in missing.items() if not isinstance(file.content, bytes)]
        for paths in ([small] if small else []) + large:
            stage.update(detail=paths[0])
            self._preupload({path: additions[path] for path in paths}, missing)
            done += sum(missing[path].size for path in paths)
            stage.update(done)
        result = self._client.create_commit(
            self._repo_id,
            [*additions.values(), *(CommitOperationDelete(path, is_folder=False) for path in stale)],
            commit_message=message,
            revision=self._branch,
            create_pr=self._create_pr,
            parent_commit=self._parent,
        )
        return result.oid, (result.pr_url or result.commit_url) if self._create_pr else result.commit_url

    def _preupload(self, additions: Mapping[str, CommitOperationAdd], missing: Mapping[str, LocalFile]) -> None:
        self._client.preupload_lfs_files(
            self._repo_id,
            list(additions.values()),
            revision=self._branch,
            create_pr=self._create_pr,
            free_memory=False,
        )
        for path, addition in additions.items():  # what the hub decided; there are no public names for it
            if addition._should_ignore:  # noqa: SLF001
                raise HubError(
                    f"could not push to {self._repo_id}: its .gitignore excludes {path}, which the bundle needs. "
                    "Remove that line there and push again",
                    repo_id=self._repo_id,
                )
            if addition._upload_mode != "lfs" and not isinstance(missing[path].content, bytes):  # noqa: SLF001
                raise HubError(
                    f"could not push to {self._repo_id}: it requires {path} in git itself, not in LFS. Add the line "
                    f"'{path} filter=lfs diff=lfs merge=lfs -text' to its .gitattributes and push again",
                    repo_id=self._repo_id,
                )


def _make_addition(path: str, file: LocalFile) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    addition = CommitOperationAdd(path, file.content)
    # From the pass that verified the bytes: not computed again, and other bytes would not fit it.
    addition.upload_info.sha256 = bytes.fromhex(file.sha256)
    return addition


def _set_tag(repository: Repository, tag: str, commit: str, *, replace: bool) -> None:
    """Tag a commit; with `replace` the tag names an older commit with the same bundle."""
    repo_id = repository.repo_id
    with hub_errors(f"tag the pushed commit {commit} of {repo_id} as {tag}", repo_id, tag):
        if replace:
            repository.client.delete_tag(repo_id, tag=tag)
        repository.client.create_tag(repo_id, tag=tag, revision=commit)
