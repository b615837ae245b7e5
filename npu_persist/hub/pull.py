"""Pull a bundle from a repository on the hub into the store, with the compiled artifacts that its machines can use.

Everything is downloaded and checked before the store changes. Then the version appears in one step, and after it each
artifact; a crash in between leaves fewer artifacts, which the next pull brings.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec

from npu_persist.artifact import attached
from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE
from npu_persist.bundle.bundle import Bundle, read_manifest
from npu_persist.bundle.manifest import MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, Manifest
from npu_persist.bundle.origin import Origin, read_origin, write_origin
from npu_persist.bundle.reference import HUB_SCHEME, HubReference, StoreReference, parse, validate_name
from npu_persist.errors import (
    BundleNotFoundError,
    FileIntegrityError,
    HubError,
    IntegrityError,
    MissingExtraError,
    NpuPersistError,
    OriginError,
    StoreError,
    UsageError,
)
from npu_persist.files.digest import ALGORITHM, digest_bytes, digest_file
from npu_persist.files.filesystem import link_or_copy, make_folder, rename, store_errors, write_file
from npu_persist.hub.client import ANSWER_SECONDS, MAIN, RemoteCommit, Repository, get_endpoint, is_commit, is_refusal
from npu_persist.hub.plan import make_plan, read_summary
from npu_persist.hub.pulled import (
    CommitSummary,
    find_pulled,
    read_commit,
    read_revision,
    write_commit,
    write_revision,
)
from npu_persist.hub.signatures import HubSignatures
from npu_persist.hub.transfer import Download
from npu_persist.progress import Reporter
from npu_persist.store.api import find_machine, open_store
from npu_persist.trust.keys import KeyRing
from npu_persist.trust.signing import check_manifest, read_description, renew_signatures

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
    from npu_persist.trust.signing import Signatures

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
    name: str | None = ...,
    adopt: bool = ...,
    allow_older: bool = ...,
    require_signature: bool = ...,
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
    name: str | None = ...,
    adopt: bool = ...,
    allow_older: bool = ...,
    require_signature: bool = ...,
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
    name: str | None = None,
    adopt: bool = False,
    allow_older: bool = False,
    require_signature: bool = False,
    token: Token = None,
    local_files_only: bool = False,
    dry_run: bool = False,
    store: AnyStore = None,
    progress: ProgressCallback | None = None,
) -> Bundle | PullPlan:
    """Download a bundle from a repository on the hub into the store, and verify every byte.

    The bundle keeps the name in its manifest, unless versions of that name came from elsewhere: another repository, or
    this machine. If the store already has a version with the same content, that version is used. Only files that the
    store lacks are downloaded. Whether `load` may import the compiled artifacts is decided by its `trust`.

    Args:
        repo_id: `org/unet`, `hf://org/unet@v3`, or `hf://org/unet@v3#<digest>`, which accepts only that bundle.
        revision: Branch, tag or commit, unless `repo_id` names one; None for the default branch.
        device: Pull the artifacts that can run on this device of this machine; None, without `target`, for any device.
        target: Pull the artifacts that can run on another machine: "NPU:4000", "lunar-lake".
        compiled: "fitting" for the artifacts that can run there, "all" for all of the bundle, "none" for none.
        alias: Point this alias to the version, unless it points to a version from another origin.
        name: The bundle's name in the store, instead of that in its manifest. Later pulls from the repository, and
            `load("hf://…")`, use it too if the manifest's name belongs to another origin.
        adopt: Whether the repository may add a version to a name whose versions have other origins, and move an alias
            that points to one of them. From then on the name also belongs to this repository.
        allow_older: Whether to accept a bundle that was signed earlier than one in the store from the same repository,
            or that no known key signed. By default these are refused for the default branch and `main`, and for another
            branch or a tag if the local one was pulled by that name. A commit or a digest is never refused.
        require_signature: Whether a known key must have signed the bundle's manifest. Otherwise the bundle is refused
            before anything except its manifest is downloaded, and the store does not change.
        token: As in huggingface_hub: a token, True to require the one you logged in with, False to send none.
        local_files_only: Use only bundles that were pulled before, without network access.
        dry_run: Return what would be downloaded, and change nothing.
        store: A store, its directory, or None for the default one.
        progress: Called with events of the stage "pull", in bytes.

    Returns:
        The bundle in the store; with `dry_run` a `PullPlan`.

    Raises:
        HubNotFoundError: The repository or revision does not exist, or has no bundle.
        HubAccessError: A token is missing, or does not allow it.
        HubError: The hub reports an error or cannot be reached.
        BundleNotFoundError: With `local_files_only`: it was not pulled before.
        IntegrityError: The bundle is damaged or hostile, or has another digest than the reference.
        SignatureError: A signature by a known key is required and missing.
        RollbackError: The bundle is older than one that was pulled from the same repository.
        OriginError: The name's versions, or the one that the alias points to, have another origin.
        InvalidNameError: The name or alias is not valid, or differs from another only in case.
        FormatVersionError: This version of npu_persist is too old for the manifest.
        StoreError: The file system reports an error.
        MissingExtraError: huggingface_hub is not installed; or a signature is required, and `cryptography` is not
            installed.
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
        raise UsageError("dry_run needs the hub: leave out local_files_only")
    if name is not None:
        validate_name(name)
    chosen, terms = open_store(store), _Terms(alias, name, adopt, allow_older, require_signature)
    if local_files_only:
        if name is not None:
            raise UsageError("name: the name is chosen when a bundle is pulled; leave out local_files_only")
        bundle = find_pulled(chosen, reference)
        if require_signature:
            check_manifest(bundle, KeyRing(chosen.home).read())
        if alias is not None:
            if not adopt:
                source = _make_origin(reference, reference.revision or "", get_endpoint())
                chosen.check_origin(bundle.name, source, alias, bundle.version)
            chosen.alias(bundle.reference, alias)
        return bundle
    repository = Repository(reference.repo_id, token)
    with store_errors(f"pull {reference}"):
        snapshot, signatures = _take_snapshot(chosen, repository, reference, terms, compiled=compiled != "none")
        devices = [device or target or "AUTO"] if compiled == "fitting" else None
        plan = _plan(chosen, snapshot, signatures, devices, asks_again=True)
        return plan if dry_run else _install(chosen, repository, snapshot, signatures, plan, terms, progress)


def fetch(  # noqa: PLR0913 (what `load` passes on)
    reference: HubReference,
    devices: Sequence[str],
    store: Store,
    *,
    require_signature: bool = False,
    token: Token = None,
    local_files_only: bool = False,
    progress: ProgressCallback | None = None,
) -> Bundle:
    """Return the bundle of a hub reference with what these devices can use, for `load`.

    What was pulled before is used unless the hub answers at once, and says that the revision is another commit now, has
    more for these devices, or may not be read any more. With `require_signature` nothing is published that no known key
    signed; what was pulled before is returned as it is.
    """
    if local_files_only:
        return find_pulled(store, reference)
    pulled, terms = _find_intact(store, reference), _Terms(require_signature=require_signature)
    try:
        repository = Repository(reference.repo_id, token, answer_within=None if pulled is None else ANSWER_SECONDS)
        with store_errors(f"pull {reference}"):
            snapshot, signatures = _take_snapshot(store, repository, reference, terms, compiled=True)
            plan = _plan(store, snapshot, signatures, devices, asks_again=False)
            return _install(store, repository, snapshot, signatures, plan, terms, progress)
    except (HubError, MissingExtraError) as error:
        if pulled is None or (isinstance(error, HubError) and is_refusal(error)):
            raise
        log.warning("%s. Using %s, which was pulled before", error, pulled.reference)
        return pulled


def _find_intact(store: Store, reference: HubReference) -> Bundle | None:
    """Return what was pulled for a reference, if its files exist with the right sizes."""
    try:
        bundle = find_pulled(store, reference)
    except NpuPersistError:  # damaged, or of a newer format: the hub has it, too
        return None
    return _find_version(store, bundle.name, bundle.digest)


class _Terms(msgspec.Struct, frozen=True):
    """On which terms a bundle is pulled: the arguments of `pull` of these names."""

    alias: str | None = None
    name: str | None = None
    adopt: bool = False
    allow_older: bool = False
    require_signature: bool = False


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit has, and what the store has of it."""

    summary: CommitSummary
    origin: Origin
    manifest: bytes
    existing: Bundle | None
    held: HeldFiles
    is_new: bool


def _take_snapshot(
    store: Store, repository: Repository, reference: HubReference, terms: _Terms, *, compiled: bool
) -> tuple[_Snapshot, HubSignatures]:
    """Find out what a commit has, and check that it may be pulled on these terms."""
    origin = _make_origin(reference, _find_commit(store, repository, reference), repository.client.endpoint)
    snapshot = _find_known(store, reference, origin, terms, compiled=compiled)
    if snapshot is None:
        snapshot = _look_up(store, repository, reference, origin, terms, compiled=compiled)
    name, existing = snapshot.summary.name, snapshot.existing
    store.check_names(name, terms.alias)
    if not terms.adopt:
        store.check_origin(name, snapshot.origin, terms.alias, None if existing is None else existing.version)
    manifest = Manifest.from_json(snapshot.manifest, source=MANIFEST_FILE) if existing is None else existing.manifest
    signatures = HubSignatures(repository, snapshot.summary, manifest.name, snapshot.origin, store.home)
    if terms.require_signature:
        signatures.require(existing)
    if not terms.allow_older:
        signatures.check_age(existing, _find_rivals(store, reference, snapshot), is_read=snapshot.is_new)
    return snapshot, signatures


def _find_rivals(store: Store, reference: HubReference, snapshot: _Snapshot) -> list[Bundle]:
    """Return the versions that were pulled from the repository before, and that a pull must not be older than."""
    summary, revision = snapshot.summary, reference.revision
    known = read_revision(store.home, summary.repo_id, revision)
    if reference.digest is not None or (revision is not None and is_commit(revision)) or known == summary.commit:
        return []
    if revision not in {None, MAIN}:
        before = None if known is None else read_commit(store.home, summary.repo_id, known)
        found = None if before is None else _find_version(store, before.name, before.digest)
        return [] if found is None else [found]
    rivals: list[Bundle] = []
    for number in store.versions(summary.name):
        with suppress(NpuPersistError):  # damaged, or removed meanwhile
            rival = store.resolve(StoreReference(summary.name, version=number))
            origin = read_origin(rival.path)
            if origin is not None and origin.source == snapshot.origin.source:
                rivals.append(rival)
    return rivals


def _find_known(
    store: Store, reference: HubReference, origin: Origin, terms: _Terms, *, compiled: bool
) -> _Snapshot | None:
    """Return what was pulled of a commit before, if that is all that is wanted now."""
    summary = read_commit(store.home, origin.repo, origin.commit)
    if summary is None or (summary.descriptions is None and compiled) or terms.name not in {None, summary.name}:
        return None
    _check_digest(reference, summary)
    existing = _find_version(store, summary.name, summary.digest)
    if existing is None:
        return None
    manifest = read_manifest(existing.path)[0]
    return _Snapshot(summary=summary, origin=origin, manifest=manifest, existing=existing, held={}, is_new=False)


def _look_up(  # noqa: PLR0913 (where it is, what of it, on which terms)
    store: Store, repository: Repository, reference: HubReference, origin: Origin, terms: _Terms, *, compiled: bool
) -> _Snapshot:
    """Return what a commit has, which the hub is asked for."""
    repository.require_answer(origin.commit)
    summary, manifest = read_summary(RemoteCommit(repository, origin.commit), compiled=compiled)
    _check_digest(reference, summary)
    name = summary.name if terms.name is None else terms.name
    existing = _find_version(store, name, summary.digest)
    if existing is None and terms.name is None and not terms.adopt:
        name = _find_name(store, summary.name, origin)
        existing = _find_version(store, name, summary.digest)
    if name != summary.name:
        summary, origin = msgspec.structs.replace(summary, name=name), msgspec.structs.replace(origin, name=name)
    held = _find_held(store, name) if existing is None else {}
    return _Snapshot(summary=summary, origin=origin, manifest=manifest, existing=existing, held=held, is_new=True)


def _find_name(store: Store, name: str, origin: Origin) -> str:
    """Return the name under which a repository's bundles of this name are kept here: another one if that was chosen."""
    try:
        store.check_origin(name, origin)
    except OriginError:
        for other in store.names():
            with suppress(NpuPersistError):  # damaged, or removed meanwhile
                bundle = store.resolve(other)
                chosen = read_origin(bundle.path)
                found = None if chosen is None else (chosen.source, chosen.name, bundle.manifest.name)
                if found == (origin.source, other, name):
                    return other
    return name


def _make_origin(reference: HubReference, commit: str, endpoint: str) -> Origin:
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return Origin(reference.repo_id, commit, reference.revision, endpoint, now, None)


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


def _plan(
    store: Store,
    snapshot: _Snapshot,
    signatures: HubSignatures,
    devices: Sequence[str | Machine] | None,
    *,
    asks_again: bool,
) -> PullPlan:
    """Plan a pull; with `asks_again` signatures that are not here are asked for, also if they were of no use before."""
    summary = snapshot.summary
    machines = None
    if devices is not None:  # without artifacts OpenVINO is not imported
        machines = _find_machines(devices) if summary.descriptions else []
    # Nothing is at this path: only what the manifest says is used.
    bundle = Bundle(store.home / "hub" / "nowhere", snapshot.manifest, 0.0)

    def is_renewed(path: str, target: Path) -> bool:
        return snapshot.is_new or path in signatures.read_files or (asks_again and not target.exists())

    keep = signatures.find_reason_to_keep
    return make_plan(bundle, snapshot.existing, snapshot.held, summary, machines, keep, is_renewed)


def _install(  # noqa: PLR0913, PLR0917 (from where, to where, what)
    store: Store,
    repository: Repository,
    snapshot: _Snapshot,
    signatures: HubSignatures,
    plan: PullPlan,
    terms: _Terms,
    progress: ProgressCallback | None,
) -> Bundle:
    """Download what is planned, and return the bundle in the store."""
    bundle = snapshot.existing
    if bundle is None or not all(file.is_here for file in plan.files):
        repository.require_answer(plan.commit)
        read = {MANIFEST_FILE, *signatures.read_files}
        with Reporter(progress).stage("pull", total=plan.download_size, unit="bytes") as stage:
            done = sum(  # these were read for the plan
                file.size
                for file in plan.files
                if not file.is_here and (file.path in read or file.path.endswith(f"/{ARTIFACT_FILE}"))
            )

            def count(path: str, number: int) -> None:
                nonlocal done
                done += number
                stage.update(done, detail=path)

            download = Download(RemoteCommit(repository, plan.commit), store.home, count)
            bundle = _Installer(store, download, snapshot, signatures, terms).run(plan)
    _remember(store, snapshot.summary, snapshot.origin.revision)
    if terms.alias is not None:
        store.alias(bundle.reference, terms.alias)
    return bundle


def _remember(store: Store, summary: CommitSummary, revision: str | None) -> None:
    home, repo_id, commit = store.home, summary.repo_id, summary.commit
    try:
        if read_commit(home, repo_id, commit) != summary:
            write_commit(home, summary)
        if revision != commit and read_revision(home, repo_id, revision) != commit:
            write_revision(home, repo_id, revision, commit)
    except StoreError as error:  # another user's store: the hub will be asked again
        log.warning("%s was pulled, but this could not be recorded: %s", repo_id, error)


class _Installer:
    """Downloads what is planned into staging directories, and publishes it."""

    def __init__(
        self, store: Store, download: Download, snapshot: _Snapshot, signatures: HubSignatures, terms: _Terms
    ) -> None:
        self._store, self._download, self._snapshot, self._terms = store, download, snapshot, terms
        self._signatures = signatures

    def run(self, plan: PullPlan) -> Bundle:
        with ExitStack() as stack:
            filled = [(planned, self._fill_artifact(stack, planned)) for planned in plan.artifacts]
            signatures = [(target, self._select_for(path, target)) for path, target in plan.signatures]
            bundle = self._snapshot.existing or self._publish()
            for target, found in signatures:
                try:
                    if found is not None:
                        renew_signatures(bundle, target, found, self._signatures.known)
                except StoreError as error:  # another user's store; where the signature is required, load says so
                    log.warning("%s: the hub's signatures could not be added: %s", bundle.reference, error)
            for planned, folder in filled:
                _attach(bundle, planned, folder)
        return bundle

    def _publish(self) -> Bundle:
        with self._store.stage() as staging:
            manifest = self._snapshot.manifest
            for path, entry in Bundle(staging, manifest, 0.0).manifest.files.items():
                if not self._link(_make_room(staging / path), entry):
                    self._save(path, staging / path, entry)
            with store_errors(f"write to {staging}"):
                if (signatures := self._select_signatures(MANIFEST_SIGNATURE_FILE)) is not None:
                    write_file(staging / MANIFEST_SIGNATURE_FILE, signatures.to_json())
                write_origin(staging, self._snapshot.origin)
                write_file(staging / MANIFEST_FILE, manifest)
            summary = self._snapshot.summary
            # Another process may have pulled the same meanwhile.
            found = _find_version(self._store, summary.name, summary.digest)
            return found or self._store.publish(Bundle.open(staging), adopt=self._terms.adopt)

    def _select_for(self, path: str, target: Path) -> Signatures | None:
        """Return the valid signatures in a file of the hub over what a signature file in the store is for."""
        is_manifests = target.name == MANIFEST_SIGNATURE_FILE
        return self._select_signatures(path, None if is_manifests else read_description(target.parent))

    def _select_signatures(self, path: str, description: bytes | None = None) -> Signatures | None:
        """Return the valid signatures in a file of the hub: over the manifest, or over an artifact's description."""
        is_read = path in self._signatures.read_files
        if description is None:
            found = self._signatures.select(path, "manifest", self._snapshot.summary.digest)
        else:
            found = self._signatures.select(path, "artifact", digest_bytes(description))
        if not is_read and path in self._signatures.read_files:
            self._download.on_bytes(path, len(self._signatures.read_files[path]))
        return found

    def _fill_artifact(self, stack: ExitStack, planned: PlannedArtifact) -> Path:
        staging = stack.enter_context(self._store.stage())
        for path, entry in planned.artifact.files.items():
            self._save(f"{planned.folder}/{path}", _make_room(staging / path), entry)
        with store_errors(f"write to {staging}"):
            path = f"{planned.folder}/{ARTIFACT_SIGNATURE_FILE}"
            if (found := self._select_signatures(path, planned.artifact.to_json())) is not None:
                write_file(staging / ARTIFACT_SIGNATURE_FILE, found.to_json())
            write_origin(staging, msgspec.structs.replace(self._snapshot.origin, name=None))
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
        make_folder(target.parent, parents=True)
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
                rename(folder / name, place / name, below=bundle.root)
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
