"""Download what a pull needs, check it, and publish it in the store."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from npu_persist.artifact import attached
from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, read_description
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import MANIFEST_FILE, MANIFEST_SIGNATURE_FILE
from npu_persist.bundle.origin import write_origin
from npu_persist.errors import IntegrityError, NpuPersistError, StoreError
from npu_persist.files.digest import digest_bytes, digest_file
from npu_persist.files.filesystem import link_or_copy, make_folder, rename, store_errors, write_file
from npu_persist.hub.client import RemoteCommit
from npu_persist.hub.pulled import read_commit, read_revision, write_commit, write_revision
from npu_persist.hub.snapshot import find_version
from npu_persist.hub.transfer import Download
from npu_persist.progress import Reporter
from npu_persist.trust.signing import renew_signatures

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.hub.plan import PlannedArtifact, PullPlan
    from npu_persist.hub.pulled import CommitSummary
    from npu_persist.hub.signatures import HubSignatures
    from npu_persist.hub.snapshot import Request, Snapshot
    from npu_persist.progress import ProgressCallback
    from npu_persist.store import Store
    from npu_persist.trust.signing import Signatures

log = logging.getLogger(__name__)


def install(
    request: Request,
    snapshot: Snapshot,
    signatures: HubSignatures,
    plan: PullPlan,
    progress: ProgressCallback | None,
) -> Bundle:
    """Download what is planned, and return the bundle in the store."""
    store, repository, bundle = request.store, request.repository, snapshot.existing
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
            bundle = _Installer(request, download, snapshot, signatures).run(plan)
    _remember(store, snapshot.summary, snapshot.origin.revision)
    if request.alias is not None:
        store.alias(bundle.reference, request.alias)
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

    def __init__(self, request: Request, download: Download, snapshot: Snapshot, signatures: HubSignatures) -> None:
        self._store, self._adopt = request.store, request.adopt
        self._download, self._snapshot, self._signatures = download, snapshot, signatures

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
            found = find_version(self._store, summary.name, summary.digest)
            return found or self._store.publish(Bundle.open(staging), adopt=self._adopt)

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


def _attach(bundle: Bundle, planned: PlannedArtifact, folder: Path) -> None:
    with attached.stage(bundle) as place:
        with store_errors(f"attach {planned.folder}"):
            for name in os.listdir(folder):  # noqa: PTH208
                rename(folder / name, place / name, below=bundle.root)
        attached.attach(bundle, planned.artifact, place)
