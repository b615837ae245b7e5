"""Taking what a pull decided on: files into staging directories, then a version, then what is compiled for it.

The promise: everything is downloaded and compared before the store changes. Then the version appears in one step, and
after it each artifact, each with its origin: a crash between leaves fewer artifacts, which the next pull brings.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from npu_persist.artifact import attached as attachment
from npu_persist.artifact.artifact import ARTIFACT_SIGNATURE_FILE
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import MANIFEST_FILE, MANIFEST_SIGNATURE_FILE
from npu_persist.bundle.origin import Origin, write_origin
from npu_persist.bundle.reference import StoreReference
from npu_persist.errors import BundleNotFoundError, IntegrityError, NpuPersistError, StoreError
from npu_persist.files.digest import digest_file
from npu_persist.files.filesystem import link_or_copy, store_errors, write_file
from npu_persist.trust.signing import renew_signatures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass
    from pathlib import Path

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.hub.plan import ChosenArtifact, Plan
    from npu_persist.hub.transfer import Download
    from npu_persist.store import Store

    Held = Mapping[str, tuple[Bundle, str]]
else:
    from npu_persist.files.frozen import dataclass

log = logging.getLogger(__name__)

_PERIOD = 0.1
"""Seconds between two reports of progress."""


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is.

    Attributes:
        path: The file that is coming.
        done: Bytes that came, of all files together.
        total: Bytes that come, of all files together.
        elapsed: Seconds since the first of them was asked for.
    """

    path: str
    done: int
    total: int
    elapsed: float


class Meter:
    """Counts what comes, and reports it now and then."""

    def __init__(self, report: Callable[[PullProgress], object] | None) -> None:
        self.total = 0
        self._report = report
        self._done = 0
        self._began = self._next = time.monotonic()

    def count(self, path: str, number: int) -> None:
        """Note that so many bytes of a file came."""
        self._done += number
        if self._report is not None and self.total and (now := time.monotonic()) >= self._next:
            self._next = now + _PERIOD
            self._report(PullProgress(path, self._done, self.total, now - self._began))


class Taking:
    """What a pull decided on, on its way into the store."""

    def __init__(self, store: Store, download: Download, origin: Origin, held: Held) -> None:
        """Prepare.

        Args:
            store: The store.
            download: The commit.
            origin: What `origin.json` is to say.
            held: By digest, the files that the store has: of which bundle, and their path in it.
        """
        self._store, self._download, self._origin, self._held = store, download, origin, held

    def take(self, plan: Plan, existing: Bundle | None, manifest: bytes) -> Bundle:
        """Take everything, and return the bundle in the store.

        Args:
            plan: What is decided.
            existing: The version that is there already; None makes one.
            manifest: The bytes of the manifest.

        Raises:
            IntegrityError: A file is not what the manifest or its artifact says.
            HubError: The hub refuses, or cannot be reached.
            StoreError: The file system refuses.
        """
        sizes = {file.path: file.size for file in plan.files if not file.is_here}
        with ExitStack() as stack:
            filled = [(chosen, self._fill_artifact(stack, chosen, sizes)) for chosen in plan.artifacts]
            signatures = [(path, self._download.read(name, sizes[name])) for name, path in plan.signatures]
            bundle = existing or self._publish(manifest, sizes.get(MANIFEST_SIGNATURE_FILE))
            for path, data in signatures:
                try:
                    renew_signatures(path, data, partial_in=bundle.path)
                except StoreError as error:  # another user's store: whoever needs the signature says that it is missing
                    log.warning("%s: the hub's signatures could not be kept: %s", bundle.reference, error)
            for chosen, folder in filled:
                _attach(bundle, chosen, folder)
        return bundle

    def _publish(self, manifest: bytes, signature_size: int | None) -> Bundle:
        with self._store.stage() as staging:
            files = Bundle(staging, manifest, 0.0).manifest.files
            for path, entry in files.items():
                target = staging / path
                with store_errors(f"write {target}"):
                    target.parent.mkdir(parents=True, exist_ok=True)
                if not self._link(target, entry):
                    self._save(path, target, entry)
            with store_errors(f"write to {staging}"):
                if signature_size is not None:
                    data = self._download.read(MANIFEST_SIGNATURE_FILE, signature_size)
                    write_file(staging / MANIFEST_SIGNATURE_FILE, data)
                write_origin(staging, self._origin)
                write_file(staging / MANIFEST_FILE, manifest)
            staged = Bundle.open(staging)
            # Another process may have pulled the same meanwhile.
            return find_version(self._store, staged.name, staged.digest) or self._store.publish(staging)

    def _fill_artifact(self, stack: ExitStack, chosen: ChosenArtifact, sizes: Mapping[str, int]) -> Path:
        staging = stack.enter_context(self._store.stage())
        for path, entry in chosen.artifact.files.items():
            target = staging / path
            with store_errors(f"write {target}"):
                target.parent.mkdir(parents=True, exist_ok=True)
            self._save(f"{chosen.folder}/{path}", target, entry)
        if chosen.is_signed:
            path = f"{chosen.folder}/{ARTIFACT_SIGNATURE_FILE}"
            with store_errors(f"write to {staging}"):
                write_file(staging / ARTIFACT_SIGNATURE_FILE, self._download.read(path, sizes[path]))
        with store_errors(f"write to {staging}"):
            write_origin(staging, self._origin)
        return staging

    def _save(self, path: str, target: Path, entry: FileEntry) -> None:
        with store_errors(f"write {target}"):
            self._download.save(path, target, entry)

    def _link(self, target: Path, entry: FileEntry) -> bool:
        """Take a file from a version that has it; tell whether that was possible."""
        if entry.digest not in self._held:
            return False
        bundle, path = self._held[entry.digest]
        try:
            source = bundle.file(path)
            with store_errors(f"link {source}"):
                if digest_file(source) != entry.digest:
                    raise IntegrityError(f"{source}: expected {entry.digest}, got something else")
                link_or_copy(source, target)
        except NpuPersistError as error:  # damaged or removed: the hub has it too
            log.warning("%s is of no use: %s", bundle.reference, error)
            return False
        return True


def make_origin(download: Download, revision: str | None) -> Origin:
    """Return what `origin.json` is to say of what is pulled now."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return Origin(download.remote.repo, download.commit, revision, download.remote.endpoint, now)


def find_version(store: Store, name: str, digest: str) -> Bundle | None:
    """Return the newest version of a bundle's content whose files are there, as far as their sizes tell."""
    try:
        bundle = store.resolve(StoreReference(name, digest=digest.partition(":")[2]))
        for path in bundle.manifest.files:
            bundle.file(path)
    except BundleNotFoundError:
        return None
    except NpuPersistError as error:
        log.warning("%s@%s is damaged, and pulled anew: %s", name, digest, error)
        return None
    return bundle


def find_held(store: Store, name: str) -> Held:
    """Return the files that the versions of a name have, by digest."""
    held: dict[str, tuple[Bundle, str]] = {}
    for number in store.versions(name):
        try:
            bundle = store.resolve(StoreReference(name, version=number))
        except NpuPersistError as error:  # damaged, or removed meanwhile
            log.info("%s:%d has nothing to take over: %s", name, number, error)
            continue
        held.update({entry.digest: (bundle, path) for path, entry in bundle.manifest.files.items()})
    return held


def _attach(bundle: Bundle, chosen: ChosenArtifact, folder: Path) -> None:
    with attachment.stage(bundle) as place:
        with store_errors(f"attach {chosen.folder}"):
            for name in os.listdir(folder):  # noqa: PTH208
                os.rename(folder / name, place / name)  # noqa: PTH104
        attachment.attach(bundle, chosen.artifact, place)
