"""Find out what a commit on the hub has, what the store has of it, and whether it may be pulled."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import msgspec

from npu_persist.bundle.bundle import Bundle, read_manifest
from npu_persist.bundle.manifest import MANIFEST_FILE, Manifest
from npu_persist.bundle.origin import Origin, read_origin
from npu_persist.bundle.reference import HubReference, StoreReference
from npu_persist.errors import BundleNotFoundError, FileIntegrityError, NpuPersistError, OriginError
from npu_persist.files.digest import ALGORITHM
from npu_persist.hub.client import MAIN, RemoteCommit, Repository, is_commit
from npu_persist.hub.pulled import CommitSummary, read_commit, read_revision
from npu_persist.hub.signatures import HubSignatures
from npu_persist.hub.summary import read_summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npu_persist.store import Store

log = logging.getLogger(__name__)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is pulled, from where to where, and on which terms.

    Attributes:
        store: Where the bundle goes.
        repository: Where it comes from.
        reference: Which one it is.
        compiled: Whether compiled artifacts are wanted, too.
        alias: As in `pull`, and so are the others.
    """

    store: Store
    repository: Repository
    reference: HubReference
    compiled: bool = True
    alias: str | None = None
    name: str | None = None
    adopt: bool = False
    allow_older: bool = False
    require_signature: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit has, and what the store has of it.

    Attributes:
        summary: The commit's bundle.
        origin: What will be said of where it came from.
        manifest: Its manifest's bytes.
        existing: The store's version with this content, if there is one.
        held: By digest: a version in the store that has the file, and its path there.
        is_new: Whether the hub was asked; otherwise all is known from an earlier pull.
    """

    summary: CommitSummary
    origin: Origin
    manifest: bytes
    existing: Bundle | None
    held: Mapping[str, tuple[Bundle, str]]
    is_new: bool


def take_snapshot(request: Request) -> tuple[Snapshot, HubSignatures]:
    """Return what the commit of a request has, and its signatures; an error if it may not be pulled."""
    store = request.store
    origin = make_origin(request.reference, _find_commit(request), request.repository.client.endpoint)
    snapshot = _find_known(request, origin) or _look_up(request, origin)
    name, existing = snapshot.summary.name, snapshot.existing
    store.check_names(name, request.alias)
    if not request.adopt:
        store.check_origin(name, snapshot.origin, request.alias, None if existing is None else existing.version)
    manifest = Manifest.from_json(snapshot.manifest, source=MANIFEST_FILE) if existing is None else existing.manifest
    signatures = HubSignatures(request.repository, snapshot.summary, manifest.name, snapshot.origin, store.home)
    if request.require_signature:
        signatures.require(existing)
    if not request.allow_older:
        rivals = _find_rivals(store, request.reference, snapshot)
        signatures.check_age(existing, rivals, is_read=snapshot.is_new)
    return snapshot, signatures


def make_origin(reference: HubReference, commit: str, endpoint: str) -> Origin:
    """Return what is said of where a bundle came from that is pulled now."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return Origin(reference.repo_id, commit, reference.revision, endpoint, now, None)


def find_version(store: Store, name: str, digest: str) -> Bundle | None:
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


def _find_commit(request: Request) -> str:
    home, reference, repository = request.store.home, request.reference, request.repository
    if is_commit(reference.revision):
        return reference.revision
    known = read_revision(home, reference.repo_id, reference.revision)
    if known is not None and reference.digest is not None:
        summary = read_commit(home, reference.repo_id, known)
        if summary is not None and summary.digest == f"{ALGORITHM}:{reference.digest}":
            return known  # the bundle that is wanted, wherever the tag points now
    if known is not None and repository.is_offline:
        return known
    return repository.find_commit(reference.revision)


def _find_known(request: Request, origin: Origin) -> Snapshot | None:
    """Return what was pulled of a commit before, if that is all that is wanted now."""
    store, name = request.store, request.name
    summary = read_commit(store.home, origin.repo, origin.commit)
    if summary is None or (summary.descriptions is None and request.compiled) or name not in {None, summary.name}:
        return None
    _check_digest(request.reference, summary)
    existing = find_version(store, summary.name, summary.digest)
    if existing is None:
        return None
    manifest = read_manifest(existing.path)[0]
    return Snapshot(summary=summary, origin=origin, manifest=manifest, existing=existing, held={}, is_new=False)


def _look_up(request: Request, origin: Origin) -> Snapshot:
    """Return what a commit has, which the hub is asked for."""
    store, repository = request.store, request.repository
    repository.require_answer(origin.commit)
    summary, manifest = read_summary(RemoteCommit(repository, origin.commit), compiled=request.compiled)
    _check_digest(request.reference, summary)
    name = summary.name if request.name is None else request.name
    existing = find_version(store, name, summary.digest)
    if existing is None and request.name is None and not request.adopt:
        name = _find_name(store, summary.name, origin)
        existing = find_version(store, name, summary.digest)
    if name != summary.name:
        summary, origin = msgspec.structs.replace(summary, name=name), msgspec.structs.replace(origin, name=name)
    held = _find_held(store, name) if existing is None else {}
    return Snapshot(summary=summary, origin=origin, manifest=manifest, existing=existing, held=held, is_new=True)


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


def _find_held(store: Store, name: str) -> dict[str, tuple[Bundle, str]]:
    held: dict[str, tuple[Bundle, str]] = {}
    for number in store.versions(name):
        try:
            bundle = store.resolve(StoreReference(name, version=number))
        except NpuPersistError as error:  # damaged, or removed meanwhile
            log.info("%s:%d cannot be reused: %s", name, number, error)
            continue
        held.update({entry.digest: (bundle, path) for path, entry in bundle.manifest.files.items()})
    return held


def _find_rivals(store: Store, reference: HubReference, snapshot: Snapshot) -> list[Bundle]:
    """Return the versions that were pulled from the repository before, and that a pull must not be older than."""
    summary, revision = snapshot.summary, reference.revision
    known = read_revision(store.home, summary.repo_id, revision)
    if reference.digest is not None or is_commit(revision) or known == summary.commit:
        return []
    if revision not in {None, MAIN}:
        before = None if known is None else read_commit(store.home, summary.repo_id, known)
        found = None if before is None else find_version(store, before.name, before.digest)
        return [] if found is None else [found]
    rivals: list[Bundle] = []
    for number in store.versions(summary.name):
        with suppress(NpuPersistError):  # damaged, or removed meanwhile
            rival = store.resolve(StoreReference(summary.name, version=number))
            origin = read_origin(rival.path)
            if origin is not None and origin.source == snapshot.origin.source:
                rivals.append(rival)
    return rivals


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
