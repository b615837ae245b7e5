"""`pull`: a bundle of a repository comes into the store, with what was compiled for the machines that it is for.

The promise: the manifest comes first; by it and by verdicts is decided what else does, and every byte of that is
compared with a digest while it comes. What fails leaves the store as it was. A commit that the store has seen is not
asked for again, and neither is a file that it has.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, overload

from npu_persist.bundle.bundle import Bundle, read_manifest
from npu_persist.bundle.reference import HUB_SCHEME, HubReference, parse
from npu_persist.errors import (
    BundleNotFoundError,
    FileIntegrityError,
    HubError,
    MissingExtraError,
    StoreError,
    UsageError,
)
from npu_persist.files.digest import ALGORITHM
from npu_persist.hub.download import Meter, Taking, find_held, find_version, make_origin
from npu_persist.hub.plan import make_plan
from npu_persist.hub.pulled import find_commit, find_pulled, find_revision, note_commit, note_revision
from npu_persist.hub.remote import Remote, is_commit, is_offline, may_pass
from npu_persist.hub.remote_manifest import look
from npu_persist.hub.transfer import Download
from npu_persist.store.api import find_machine, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from npu_persist.device.machine import Machine
    from npu_persist.hub.download import Held, PullProgress
    from npu_persist.hub.plan import Choice, Plan
    from npu_persist.hub.pulled import Seen
    from npu_persist.store import Store
    from npu_persist.store.api import AnyStore

log = logging.getLogger(__name__)

CHOICES = ("fitting", "none", "all")
"""Which artifacts a pull can take."""


@overload
def pull(
    reference: str | HubReference,
    *,
    revision: str | None = ...,
    device: str | Machine | None = ...,
    target: str | None = ...,
    compiled: Choice = ...,
    alias: str | None = ...,
    store: AnyStore = ...,
    dry_run: Literal[False] = ...,
    progress: Callable[[PullProgress], object] | None = ...,
) -> Bundle: ...


@overload
def pull(
    reference: str | HubReference,
    *,
    revision: str | None = ...,
    device: str | Machine | None = ...,
    target: str | None = ...,
    compiled: Choice = ...,
    alias: str | None = ...,
    store: AnyStore = ...,
    dry_run: Literal[True],
    progress: Callable[[PullProgress], object] | None = ...,
) -> Plan: ...


def pull(  # noqa: PLR0913 (each is something that whoever pulls decides)
    reference: str | HubReference,
    *,
    revision: str | None = None,
    device: str | Machine | None = None,
    target: str | None = None,
    compiled: Choice = "fitting",
    alias: str | None = None,
    store: AnyStore = None,
    dry_run: bool = False,
    progress: Callable[[PullProgress], object] | None = None,
) -> Bundle | Plan:
    """Bring a bundle from a repository of the hub into the store, and compare every byte on the way.

    It keeps the name that its manifest has; where the store has a version of the same content, it is that version.
    Compiled artifacts are judged before they are downloaded. `load` imports them only if its `trust` says so.

    Args:
        reference: `org/unet`, `hf://org/unet@v3`, or `hf://org/unet@v3#<digest>`, which takes that bundle and no other.
        revision: Branch, tag or commit, where the reference has none; None for the default branch.
        device: The device of this machine that artifacts are to run on; None, and no `target`, for any that it has.
        target: What artifacts are to run on elsewhere: "NPU:4000", "lunar-lake".
        compiled: "fitting" takes the artifacts that may run there, "all" all of the bundle, "none" none.
        alias: An alias that is to point to the version.
        store: A store, its directory, or None for the default one.
        dry_run: Change nothing, and return what would be done.
        progress: Called about ten times a second.

    Returns:
        The bundle in the store; with `dry_run` the plan.

    Raises:
        HubNotFoundError: There is no such repository or revision, or no bundle in it.
        HubAccessError: A token is missing, or may not read it.
        HubError: The hub refuses or cannot be reached, and the store has not seen the revision.
        IntegrityError: The bundle is damaged or hostile, or its digest is not the reference's.
        FormatVersionError: The manifest is of a format that this version does not read.
        StoreError: The file system refuses.
        MissingExtraError: huggingface_hub is not installed.
        UsageError: An argument is none of the above.

    Example:
        >>> import npu_persist
        >>> bundle = npu_persist.pull("hf://org/unet@v3", device="NPU")  # doctest: +SKIP
        >>> plan = npu_persist.pull("hf://org/unet@v3", target="NPU:4000", dry_run=True)  # doctest: +SKIP
        >>> plan.download_size  # doctest: +SKIP
        1722304211
    """
    parsed = _parse(reference, revision)
    if compiled not in CHOICES:
        raise UsageError(f"compiled: expected one of {', '.join(CHOICES)}; got {compiled!r}")
    if device is not None and target is not None:
        raise UsageError(f"expected a device of this machine or a target, got both: {device} and {target}")
    work = _Pull(open_store(store), parsed, progress)
    work.look(compiled=compiled != "none")
    wanted = device or target or "AUTO"
    plan = work.plan([wanted] if compiled == "fitting" else None)
    return plan if dry_run else work.run(plan, alias)


def fetch(reference: HubReference, devices: Sequence[str], store: Store) -> Bundle:
    """Return the bundle that a reference to the hub means, with what these devices can use: what `load` does first.

    Where the hub does not answer, it is what the store has seen of it.

    Raises:
        NpuPersistError: As `pull` does.
    """
    work = _Pull(store, reference, None)
    try:
        work.look(compiled=True)
        return work.run(work.plan(devices), None)
    except (HubError, MissingExtraError) as error:
        if isinstance(error, HubError) and not may_pass(error):
            raise
        try:
            bundle = find_pulled(store, reference)
        except BundleNotFoundError:
            raise error from error.__cause__
        log.warning("%s. Going on with %s, which was pulled before", error, bundle.reference)
        return bundle


class _Pull:
    """One pull: what a commit holds, and what the store has of it."""

    def __init__(
        self, store: Store, reference: HubReference, progress: Callable[[PullProgress], object] | None
    ) -> None:
        self._store, self._reference = store, reference
        self._meter = Meter(progress)
        self._commit = ""
        self._seen: Seen
        self._manifest = b""
        self._is_new = False
        self._existing: Bundle | None = None
        self._held: Held = {}

    def look(self, *, compiled: bool) -> None:
        """Find out which commit it is, what that holds, and what of it the store has."""
        self._commit = self._find_commit()
        seen = find_commit(self._store.home, self._reference.repository, self._commit)
        if seen is not None and (seen.descriptions is not None or not compiled):
            self._check_pin(seen)
            self._existing = find_version(self._store, seen.name, seen.digest)
            if self._existing is not None:
                self._seen, self._manifest = seen, read_manifest(self._existing.path)[0]
                return
        self._seen, self._manifest = look(self._download(), compiled=compiled)
        self._is_new = True
        self._check_pin(self._seen)
        self._existing = find_version(self._store, self._seen.name, self._seen.digest)

    def plan(self, devices: Sequence[str | Machine] | None) -> Plan:
        """Decide what to take: artifacts for these devices, or with None all."""
        if self._existing is None:
            self._held = find_held(self._store, self._seen.name)
        machines = None
        if devices is not None:  # OpenVINO is not asked, nor imported, where there is nothing to judge
            machines = _find_machines(devices) if self._seen.descriptions else []
        bundle = Bundle(self._nowhere(), self._manifest, 0.0)
        return make_plan(bundle, self._existing, self._held, self._seen, machines, is_new=self._is_new)

    def run(self, plan: Plan, alias: str | None) -> Bundle:
        """Take what is planned, and return the bundle in the store."""
        self._store.check_names(plan.name, alias)
        bundle = self._existing
        if bundle is None or not all(file.is_here for file in plan.files):
            self._meter.total = plan.download_size
            download = self._download()
            origin = make_origin(download, self._reference.revision)
            bundle = Taking(self._store, download, origin, self._held).take(plan, bundle, self._manifest)
        self._note()
        if alias is not None:
            self._store.alias(bundle.reference, alias)
        return bundle

    def _find_commit(self) -> str:
        repo, revision = self._reference.repository, self._reference.revision
        if revision is not None and is_commit(revision):
            return revision
        noted = find_revision(self._store.home, repo, revision)
        if noted is not None and self._reference.digest is not None:
            seen = find_commit(self._store.home, repo, noted)
            if seen is not None and seen.digest == self._pin():
                return noted  # wherever the tag is by now, this is what is wanted
        remote = Remote(repo)
        if noted is not None and is_offline():
            return noted
        return remote.find_commit(revision)

    def _pin(self) -> str:
        return f"{ALGORITHM}:{self._reference.digest}"

    def _check_pin(self, seen: Seen) -> None:
        if self._reference.digest is not None and seen.digest != self._pin():
            raise FileIntegrityError(
                f"{self._reference}: expected the bundle {self._pin()}; {seen.repo} has {seen.digest} at "
                f"{self._commit}. The tag or branch was moved, or the repository changed by someone else: find out "
                "which before you pull without the digest",
                path=str(self._reference),
                expected=self._pin(),
                got=seen.digest,
            )

    def _download(self) -> Download:
        remote = Remote(self._reference.repository)
        return Download(remote, self._commit, self._store.home / "staging", self._meter.count)

    def _nowhere(self) -> Path:
        """Return a path where nothing is: what is judged is judged by its description."""
        return self._store.home / "hub" / "nowhere"

    def _note(self) -> None:
        home, repo, revision = self._store.home, self._seen.repo, self._reference.revision
        try:
            if find_commit(home, repo, self._commit) != self._seen:
                note_commit(home, self._seen)
            if revision != self._commit and find_revision(home, repo, revision) != self._commit:
                note_revision(home, repo, revision, self._commit)
        except StoreError as error:  # another user's store: it will be asked for again
            log.warning("what was seen of %s could not be kept: %s", self._seen.repo, error)


def _parse(reference: str | HubReference, revision: str | None) -> HubReference:
    text = str(reference)
    parsed = parse(text if text.startswith(HUB_SCHEME) else f"{HUB_SCHEME}{text}")
    if isinstance(parsed, HubReference) and revision is not None:
        if parsed.revision not in {None, revision}:
            raise UsageError(f"expected one revision, got two: {parsed.revision} in {parsed}, and {revision}")
        parsed = parse(str(HubReference(parsed.repository, revision, parsed.digest)))
    if not isinstance(parsed, HubReference):
        raise UsageError(f"expected a repository such as org/unet or hf://org/unet@v3, got {reference!r}")
    return parsed


def _find_machines(devices: Sequence[str | Machine]) -> list[Machine]:
    from npu_persist.device.core import get_core
    from npu_persist.device.devices import is_virtual, list_candidates

    found: list[Machine] = []
    for device in devices:
        if isinstance(device, str) and is_virtual(device):  # what it can run on is compiled for, not it
            found += map(find_machine, list_candidates(get_core(), device))
        else:
            found.append(find_machine(device))
    return found
