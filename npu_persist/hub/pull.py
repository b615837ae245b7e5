"""Pull a bundle from a repository on the hub into the store, with the compiled artifacts that its machines can use.

Everything is downloaded and checked before the store changes. Then the version appears in one step, and after it each
artifact; a crash in between leaves fewer artifacts, which the next pull brings.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, overload

from npu_persist.bundle.reference import HUB_SCHEME, HubReference, parse, validate_name
from npu_persist.errors import HubError, MissingExtraError, NpuPersistError, UsageError
from npu_persist.files.filesystem import store_errors
from npu_persist.hub.client import ANSWER_SECONDS, Repository, get_endpoint, is_refusal
from npu_persist.hub.install import install
from npu_persist.hub.plan import make_plan
from npu_persist.hub.pulled import find_pulled
from npu_persist.hub.snapshot import Request, find_version, make_origin, take_snapshot
from npu_persist.store.api import open_store
from npu_persist.trust.keys import KeyRing
from npu_persist.trust.signing import check_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.device.machine import Machine
    from npu_persist.hub.client import Token
    from npu_persist.hub.plan import PullPlan
    from npu_persist.progress import ProgressCallback
    from npu_persist.store import Store
    from npu_persist.store.api import AnyStore

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
    chosen = open_store(store)
    if local_files_only:
        if name is not None:
            raise UsageError("name: the name is chosen when a bundle is pulled; leave out local_files_only")
        bundle = find_pulled(chosen, reference)
        if require_signature:
            check_manifest(bundle, KeyRing(chosen.home).read())
        if alias is not None:
            if not adopt:
                source = make_origin(reference, reference.revision or "", get_endpoint())
                chosen.check_origin(bundle.name, source, alias, bundle.version)
            chosen.alias(bundle.reference, alias)
        return bundle
    request = Request(
        store=chosen,
        repository=Repository(reference.repo_id, token),
        reference=reference,
        compiled=compiled != "none",
        alias=alias,
        name=name,
        adopt=adopt,
        allow_older=allow_older,
        require_signature=require_signature,
    )
    with store_errors(f"pull {reference}"):
        snapshot, signatures = take_snapshot(request)
        devices = [device or target or "AUTO"] if compiled == "fitting" else None
        plan = make_plan(chosen.home, snapshot, signatures, devices, asks_again=True)
        return plan if dry_run else install(request, snapshot, signatures, plan, progress)


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
    pulled = _find_intact(store, reference)
    repository = Repository(reference.repo_id, token, answer_within=None if pulled is None else ANSWER_SECONDS)
    request = Request(store=store, repository=repository, reference=reference, require_signature=require_signature)
    try:
        with store_errors(f"pull {reference}"):
            snapshot, signatures = take_snapshot(request)
            plan = make_plan(store.home, snapshot, signatures, devices, asks_again=False)
            return install(request, snapshot, signatures, plan, progress)
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
    return find_version(store, bundle.name, bundle.digest)


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
