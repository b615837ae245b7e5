"""Pull a bundle from a repository on the hub into the store, with the compiled artifacts that its machines can use.

Everything is downloaded and checked before the store changes. Then the version appears in one step, and after it each
artifact; a crash in between leaves fewer artifacts, which the next pull brings.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec

from npu_persist.artifact import attached
from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE
from npu_persist.bundle.bundle import Bundle, read_manifest
from npu_persist.bundle.manifest import MANIFEST_FILE, MANIFEST_SIGNATURE_FILE
from npu_persist.bundle.origin import Origin, write_origin
from npu_persist.bundle.reference import HUB_SCHEME, HubReference, StoreReference, parse
from npu_persist.errors import (
    BundleNotFoundError,
    FileIntegrityError,
    HubError,
    IntegrityError,
    MissingExtraError,
    NpuPersistError,
    StoreError,
    UsageError,
)
from npu_persist.files.digest import ALGORITHM, digest_file
from npu_persist.files.filesystem import link_or_copy, store_errors, write_file
from npu_persist.hub.client import RemoteCommit, Repository, is_commit, is_temporary
from npu_persist.hub.plan import make_plan, read_summary
from npu_persist.hub.pulled import (
    CommitSummary,
    find_pulled,
    read_commit,
    read_revision,
    write_commit,
    write_revision,
)
from npu_persist.hub.transfer import Download
from npu_persist.progress import Reporter
from npu_persist.store.api import find_machine, open_store
from npu_persist.trust.signing import renew_signatures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.device.machine import Machine
    from npu_persist.hub.client import Token
    from npu_persist.hub.plan import PlannedArtifact, PullPlan
    from npu_persist.progress import ProgressCallback
    from npu_persist.store import Store
    from npu_persist.store.api import AnyStore

    HeldFiles = Mapping[str, tuple[Bundle, str]]
    """By digest: a version in the store that has the file, and its path there."""

log = logging.getLogger(__name__)

ArtifactSelection = Literal["fitting", "none", "all"]
"""Which compiled artifacts to pull."""


@overload
def pull(
    repo_id: str | HubReference,
    *,
    revision: str | None = ...,
    device: str | Machine | None = ...,
    target: str | None = ...,
    compiled: ArtifactSelection = ...,
    alias: str | None = ...,
    token: Token = ...,
    local_files_only: bool = ...,
    dry_run: Literal[False] = ...,
    store: AnyStore = ...,
    progress: ProgressCallback | None = ...,
) -> Bundle: ...


@overload
def pull(
    repo_id: str | HubReference,
    *,
    revision: str | None = ...,
    device: str | Machine | None = ...,
    target: str | None = ...,
    compiled: ArtifactSelection = ...,
    alias: str | None = ...,
    token: Token = ...,
    local_files_only: bool = ...,
    dry_run: Literal[True],
    store: AnyStore = ...,
    progress: ProgressCallback | None = ...,
) -> PullPlan: ...


def pull(  # noqa: PLR0913 (the choices of a user; all but one have a default)
    repo_id: str | HubReference,
    *,
    revision: str | None = None,
    device: str | Machine | None = None,
    target: str | None = None,
    compiled: ArtifactSelection = "fitting",
    alias: str | None = None,
    token: Token = None,
    local_files_only: bool = False,
    dry_run: bool = False,
    store: AnyStore = None,
    progress: ProgressCallback | None = None,
) -> Bundle | PullPlan:
    """Download a bundle from a repository on the hub into the store, and verify every byte.

    The bundle keeps the name in its manifest. If the store already has a version with the same content, that version is
    used. Only files that the store lacks are downloaded. Whether `load` may import the compiled artifacts is decided by
    its `trust`.

    Args:
        repo_id: `org/unet`, `hf://org/unet@v3`, or `hf://org/unet@v3#<digest>`, which accepts only that bundle.
        revision: Branch, tag or commit, unless `repo_id` names one; None for the default branch.
        device: Pull the artifacts that can run on this device of this machine; None, without `target`, for any device.
        target: Pull the artifacts that can run on another machine: "NPU:4000", "lunar-lake".
        compiled: "fitting" for the artifacts that can run there, "all" for all of the bundle, "none" for none.
        alias: Point this alias to the version.
        token: As in huggingface_hub: a token, True to require the one you logged in with, False to send none.
        local_files_only: Use what was pulled before, and never the network.
        dry_run: Return what would be downloaded, and change nothing.
        store: A store, its directory, or None for the default one.
        progress: Called with events of the stage "pull", in bytes.

    Returns:
        The bundle in the store; with `dry_run` a `PullPlan`.

    Raises:
        HubNotFoundError: The repository or revision does not exist, or has no bundle.
        HubAccessError: A token is missing, or does not allow it.
        HubError: The hub refused or cannot be reached.
        BundleNotFoundError: With `local_files_only`: it was not pulled before.
        IntegrityError: The bundle is damaged or hostile, or has another digest than the reference.
        FormatVersionError: This version of npu_persist is too old for the manifest.
        StoreError: The file system refused.
        MissingExtraError: huggingface_hub is not installed.
        UsageError: The arguments do not fit together.

    Example:
        >>> import npu_persist
        >>> bundle = npu_persist.pull("org/unet", revision="v3", device="NPU")  # doctest: +SKIP
        >>> plan = npu_persist.pull("org/unet", revision="v3", target="NPU:4000", dry_run=True)  # doctest: +SKIP
        >>> plan.download_size  # doctest: +SKIP
        1722304211
    """
    reference = _parse(repo_id, revision)
    if compiled not in {"fitting", "none", "all"}:
        raise UsageError(f"compiled: expected fitting, none or all; got {compiled!r}")
    if device is not None and target is not None:
        raise UsageError(f"expected a device of this machine or a target, got both: {device} and {target}")
    if local_files_only and dry_run:
        raise UsageError("dry_run lists what the hub has: leave out local_files_only")
    chosen = open_store(store)
    if local_files_only:
        bundle = find_pulled(chosen, reference)
        if alias is not None:
            chosen.alias(bundle.reference, alias)
        return bundle
    repository = Repository(reference.repo_id, token)
    snapshot = _take_snapshot(chosen, repository, reference, compiled=compiled != "none")
    devices = [device or target or "AUTO"] if compiled == "fitting" else None
    plan = _plan(chosen, snapshot, devices)
    return plan if dry_run else _install(chosen, repository, reference, snapshot, plan, alias, progress)


def fetch(  # noqa: PLR0913 (what `load` passes on)
    reference: HubReference,
    devices: Sequence[str],
    store: Store,
    *,
    token: Token = None,
    local_files_only: bool = False,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Return the bundle of a hub reference with what these devices can use, for `load`.

    If the hub cannot be reached, or huggingface_hub is not installed, it is what was pulled before.
    """
    if local_files_only:
        return find_pulled(store, reference)
    try:
        repository = Repository(reference.repo_id, token)
        snapshot = _take_snapshot(store, repository, reference, compiled=True)
        plan = _plan(store, snapshot, devices)
        return _install(store, repository, reference, snapshot, plan, None, progress)
    except (HubError, MissingExtraError) as error:
        if isinstance(error, HubError) and not is_temporary(error):
            raise
        try:
            bundle = find_pulled(store, reference)
        except BundleNotFoundError:
            raise error from error.__cause__
        log.warning("%s. Using %s, which was pulled before", error, bundle.reference)
        return bundle


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit has, and what the store has of it."""

    summary: CommitSummary
    manifest: bytes
    existing: Bundle | None
    held: HeldFiles
    is_new: bool


def _take_snapshot(store: Store, repository: Repository, reference: HubReference, *, compiled: bool) -> _Snapshot:
    commit = _find_commit(store, repository, reference)
    summary = read_commit(store.home, reference.repo_id, commit)
    if summary is not None and (summary.descriptions is not None or not compiled):
        _check_digest(reference, summary)
        existing = _find_version(store, summary.name, summary.digest)
        if existing is not None:
            manifest = read_manifest(existing.path)[0]
            return _Snapshot(summary=summary, manifest=manifest, existing=existing, held={}, is_new=False)
    summary, manifest = read_summary(RemoteCommit(repository, commit), compiled=compiled)
    _check_digest(reference, summary)
    existing = _find_version(store, summary.name, summary.digest)
    held = _find_held(store, summary.name) if existing is None else {}
    return _Snapshot(summary=summary, manifest=manifest, existing=existing, held=held, is_new=True)


def _find_commit(store: Store, repository: Repository, reference: HubReference) -> str:
    repo_id, revision = reference.repo_id, reference.revision
    if revision is not None and is_commit(revision):
        return revision
    known = read_revision(store.home, repo_id, revision)
    if known is not None and reference.digest is not None:
        summary = read_commit(store.home, repo_id, known)
        if summary is not None and summary.digest == f"{ALGORITHM}:{reference.digest}":
            return known  # the bundle that is wanted, wherever the tag points now
    if known is not None and repository.is_offline:
        return known
    return repository.find_commit(revision)


def _check_digest(reference: HubReference, summary: CommitSummary) -> None:
    expected = f"{ALGORITHM}:{reference.digest}"
    if reference.digest is not None and summary.digest != expected:
        raise FileIntegrityError(
            f"{reference}: expected the bundle {expected}, got {summary.digest} at {summary.commit}. The tag or branch "
            "was moved, or the repository was changed. Find out which before you pull without the digest",
            path=str(reference),
            expected=expected,
            got=summary.digest,
        )


def _plan(store: Store, snapshot: _Snapshot, devices: Sequence[str | Machine] | None) -> PullPlan:
    summary = snapshot.summary
    machines = None
    if devices is not None:  # without artifacts OpenVINO is not imported
        machines = _find_machines(devices) if summary.descriptions else []
    # Nothing is at this path: only what the manifest says is used.
    bundle = Bundle(store.home / "hub" / "nowhere", snapshot.manifest, 0.0)
    return make_plan(bundle, snapshot.existing, snapshot.held, summary, machines, is_new=snapshot.is_new)


def _install(  # noqa: PLR0913, PLR0917 (from where, to where, what)
    store: Store,
    repository: Repository,
    reference: HubReference,
    snapshot: _Snapshot,
    plan: PullPlan,
    alias: str | None,
    progress: ProgressCallback | None,
) -> Bundle:
    """Download what is planned, and return the bundle in the store."""
    store.check_names(plan.name, alias)
    bundle = snapshot.existing
    if bundle is None or not all(file.is_here for file in plan.files):
        with Reporter(progress).stage("pull", total=plan.download_size, unit="bytes") as stage:
            done = sum(  # these were read for the plan
                file.size
                for file in plan.files
                if not file.is_here and (file.path == MANIFEST_FILE or file.path.endswith(f"/{ARTIFACT_FILE}"))
            )

            def count(path: str, number: int) -> None:
                nonlocal done
                done += number
                stage.update(done, detail=path)

            download = Download(RemoteCommit(repository, plan.commit), store.home / "staging", count)
            bundle = _Installer(store, download, reference.revision, snapshot).run(plan)
    _remember(store, snapshot.summary, reference.revision)
    if alias is not None:
        store.alias(bundle.reference, alias)
    return bundle


def _remember(store: Store, summary: CommitSummary, revision: str | None) -> None:
    home, repo_id, commit = store.home, summary.repo_id, summary.commit
    try:
        if read_commit(home, repo_id, commit) != summary:
            write_commit(home, summary)
        if revision != commit and read_revision(home, repo_id, revision) != commit:
            write_revision(home, repo_id, revision, commit)
    except StoreError as error:  # another user's store: the hub will be asked again
        log.warning("%s was pulled, but this could not be noted: %s", repo_id, error)


class _Installer:
    """Downloads what is planned into staging directories, and publishes it."""

    def __init__(self, store: Store, download: Download, revision: str | None, snapshot: _Snapshot) -> None:
        self._store, self._download, self._snapshot = store, download, snapshot
        repository, now = download.remote.repository, datetime.now(timezone.utc).replace(microsecond=0)
        commit = download.remote.commit
        self._origin = Origin(repository.repo_id, commit, revision, repository.client.endpoint, now)

    def run(self, plan: PullPlan) -> Bundle:
        sizes = {file.path: file.size for file in plan.files if not file.is_here}
        with ExitStack() as stack:
            filled = [(planned, self._fill_artifact(stack, planned, sizes)) for planned in plan.artifacts]
            signatures = [(target, self._download.read(path, sizes[path])) for path, target in plan.signatures]
            bundle = self._snapshot.existing or self._publish(sizes.get(MANIFEST_SIGNATURE_FILE))
            for target, data in signatures:
                try:
                    renew_signatures(target, data, partial_in=bundle.path)
                except StoreError as error:  # another user's store; where the signature is required, load says so
                    log.warning("%s: the hub's signatures could not be added: %s", bundle.reference, error)
            for planned, folder in filled:
                _attach(bundle, planned, folder)
        return bundle

    def _publish(self, signature_size: int | None) -> Bundle:
        with self._store.stage() as staging:
            manifest = self._snapshot.manifest
            for path, entry in Bundle(staging, manifest, 0.0).manifest.files.items():
                if not self._link(_make_room(staging / path), entry):
                    self._save(path, staging / path, entry)
            with store_errors(f"write to {staging}"):
                if signature_size is not None:
                    data = self._download.read(MANIFEST_SIGNATURE_FILE, signature_size)
                    write_file(staging / MANIFEST_SIGNATURE_FILE, data)
                write_origin(staging, self._origin)
                write_file(staging / MANIFEST_FILE, manifest)
            staged = Bundle.open(staging)
            # Another process may have pulled the same meanwhile.
            return _find_version(self._store, staged.name, staged.digest) or self._store.publish(staged)

    def _fill_artifact(self, stack: ExitStack, planned: PlannedArtifact, sizes: Mapping[str, int]) -> Path:
        staging = stack.enter_context(self._store.stage())
        for path, entry in planned.artifact.files.items():
            self._save(f"{planned.folder}/{path}", _make_room(staging / path), entry)
        with store_errors(f"write to {staging}"):
            if planned.is_signed:
                path = f"{planned.folder}/{ARTIFACT_SIGNATURE_FILE}"
                write_file(staging / ARTIFACT_SIGNATURE_FILE, self._download.read(path, sizes[path]))
            write_origin(staging, self._origin)
        return staging

    def _save(self, path: str, target: Path, entry: FileEntry) -> None:
        with store_errors(f"write {target}"):
            self._download.save(path, target, entry)

    def _link(self, target: Path, entry: FileEntry) -> bool:
        """Take a file from a version that has it; return whether that was possible."""
        if entry.digest not in self._snapshot.held:
            return False
        bundle, path = self._snapshot.held[entry.digest]
        try:
            source = bundle.file(path)
            with store_errors(f"link {source}"):
                if digest_file(source) != entry.digest:
                    raise IntegrityError(f"{source}: expected {entry.digest}, got something else")
                link_or_copy(source, target)
        except NpuPersistError as error:  # damaged or removed: the hub has it too
            log.warning("%s cannot be reused: %s", bundle.reference, error)
            return False
        return True


def _make_room(target: Path) -> Path:
    with store_errors(f"write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _find_version(store: Store, name: str, digest: str) -> Bundle | None:
    """Return the newest version with this content whose files exist with the right sizes."""
    try:
        bundle = store.resolve(StoreReference(name, digest=digest.partition(":")[2]))
        for path in bundle.manifest.files:
            bundle.file(path)
    except BundleNotFoundError:
        return None
    except NpuPersistError as error:
        log.warning("%s@%s is damaged and will be pulled again: %s", name, digest, error)
        return None
    return bundle


def _find_held(store: Store, name: str) -> HeldFiles:
    held: dict[str, tuple[Bundle, str]] = {}
    for number in store.versions(name):
        try:
            bundle = store.resolve(StoreReference(name, version=number))
        except NpuPersistError as error:  # damaged, or removed meanwhile
            log.info("%s:%d cannot be reused: %s", name, number, error)
            continue
        held.update({entry.digest: (bundle, path) for path, entry in bundle.manifest.files.items()})
    return held


def _attach(bundle: Bundle, planned: PlannedArtifact, folder: Path) -> None:
    with attached.stage(bundle) as place:
        with store_errors(f"attach {planned.folder}"):
            for name in os.listdir(folder):  # noqa: PTH208
                os.rename(folder / name, place / name)  # noqa: PTH104
        attached.attach(bundle, planned.artifact, place)


def _parse(repo_id: Any, revision: str | None) -> HubReference:
    text = str(repo_id)
    parsed = parse(text if text.startswith(HUB_SCHEME) else f"{HUB_SCHEME}{text}")
    if isinstance(parsed, HubReference) and revision is not None:
        if parsed.revision not in {None, revision}:
            raise UsageError(f"expected one revision, got two: {parsed.revision} in {parsed}, and {revision}")
        parsed = parse(str(HubReference(parsed.repo_id, revision, parsed.digest)))
    if not isinstance(parsed, HubReference):
        raise UsageError(f"expected a repository such as org/unet or hf://org/unet@v3, got {repo_id!r}")
    return parsed


def _find_machines(devices: Sequence[str | Machine]) -> list[Machine]:
    from npu_persist.device.core import get_core
    from npu_persist.device.devices import is_virtual, list_candidates

    found: list[Machine] = []
    for device in devices:
        if isinstance(device, str) and is_virtual(device):  # artifacts are for the devices that it chooses from
            found += map(find_machine, list_candidates(get_core(), device))
        else:
            found.append(find_machine(device))
    return found
