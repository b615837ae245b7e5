"""The signatures of a commit: read once, and kept only if valid.

What is required is checked before anything is published; what was checked is what is kept, since the hub may give
others when it is asked again. Signatures of keys that are not known here are kept, too: the key may be added later.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_SIGNATURE_FILE
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import IntegrityError, MissingExtraError, RollbackError, SignatureError, StoreError
from npu_persist.files.digest import digest_bytes
from npu_persist.hub.client import RemoteCommit
from npu_persist.trust.keys import KeyRing, Place
from npu_persist.trust.policy import Policy
from npu_persist.trust.signing import (
    Signer,
    check_manifest,
    check_signature,
    find_signer,
    parse_signatures,
    select_valid,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.origin import Origin
    from npu_persist.hub.client import Repository
    from npu_persist.hub.pulled import CommitSummary
    from npu_persist.trust.keys import PublicKey
    from npu_persist.trust.signing import Signatures, What

log = logging.getLogger(__name__)


class HubSignatures:
    """The signature files of a commit.

    Attributes:
        read_files: The content of those that were read so far, by path.
    """

    def __init__(self, repository: Repository, summary: CommitSummary, name: str, origin: Origin, home: Path) -> None:
        """Prepare; nothing is requested yet. `name` is the bundle's in its manifest."""
        self._repository, self._summary, self._origin, self._home = repository, summary, origin, home
        self._place = Place(name, origin)
        self.read_files: dict[str, bytes] = {}

    def read(self, path: str) -> bytes | None:
        """Return the content of a signature file; None if the commit has none of that path."""
        if path not in self._summary.sizes:
            return None
        if path not in self.read_files:
            commit = self._summary.commit
            self._repository.require_answer(commit)
            remote = RemoteCommit(self._repository, commit)
            self.read_files[path] = remote.read(path, self._summary.sizes[path])
        return self.read_files[path]

    def require(self, existing: Bundle | None) -> None:
        """Check that a known key signed the manifest, in the store's version with this content or on the hub."""
        keys = KeyRing(self._home).read()
        if existing is not None:
            with suppress(SignatureError):  # the hub's may have been made since
                check_manifest(existing, keys)
                return
        self._find_signer(MANIFEST_SIGNATURE_FILE, "manifest", self._summary.digest, keys)

    def check_age(self, existing: Bundle | None, rivals: Iterable[Bundle], *, is_read: bool) -> None:
        """Raise RollbackError if one of `rivals`, versions of the same repository, was signed later than this manifest.

        Only signatures of known keys count. `existing` is the store's version with this content; with `is_read` the
        hub's signatures count as well.
        """
        keys = self._keys
        dated = [(signer.signed_at, rival, signer) for rival in rivals if (signer := _find_signer_of(rival, keys))]
        if not dated:
            return
        newest, rival, by = max(dated, key=lambda each: each[0])
        times = [] if existing is None else [_find_signer_of(existing, keys)]
        if is_read:
            with suppress(IntegrityError):
                times.append(self._find_signer(MANIFEST_SIGNATURE_FILE, "manifest", self._summary.digest, keys))
        signed_at = max((signer.signed_at for signer in times if signer is not None), default=None)
        if signed_at is not None and signed_at >= newest:
            return
        found = "that no known key signed" if signed_at is None else f"that was signed earlier, at {signed_at}"
        repo_id, revision = self._summary.repo_id, self._origin.revision
        where = f"{repo_id} at {revision or 'its default branch'}"
        again = f"npu-persist pull {repo_id}" + (f" --revision {revision}" if revision else "")
        raise RollbackError(
            f"{rival.reference}, which was pulled from {repo_id}, was signed by {by.name} at {newest}; {where} now has "
            f"a bundle {found}. Somebody may have moved it back. If this is intended, `{again} --allow-older` "
            "accepts it",
            newer=rival.reference,
            newer_signed_at=newest,
            signed_at=signed_at,
        )

    def select(self, path: str, what: What, subject: str) -> Signatures | None:
        """Return the valid signatures of a signature file; None if there are none."""
        data = self.read(path)
        if data is None:
            return None
        try:
            return select_valid(data, self._name(path), what, subject, self.known)
        except MissingExtraError as error:
            log.info("the signatures of %s are not kept: %s", self._summary.repo_id, error)
            return None

    def find_reason_to_keep(self, folder: Path, artifact: Artifact, place: str, offered: Artifact) -> str | None:
        """Return why an attached artifact that was pulled is not replaced by another one for the same; None if it is.

        One that a known key signed, or that is from another repository, gives way only to one that a known key signed,
        and not earlier. `place` is the folder in the repository of the one that is offered.
        """
        try:
            origin = read_origin(folder)
        except (IntegrityError, StoreError):
            return None
        source = "this machine" if origin is None else origin.source
        is_trusted = Policy(None, self._home).decide(folder, artifact, self._place.name).is_trusted
        if not is_trusted and source == self._origin.source:
            return None
        path, subject = f"{place}/{ARTIFACT_SIGNATURE_FILE}", digest_bytes(offered.to_json())
        try:
            signer = self._find_signer(path, "artifact", subject, self._keys)
        except (IntegrityError, MissingExtraError):
            signed = ", which a known key signed," if is_trusted else ""
            return f"No known key signed it: the artifact of {source} for the same purpose{signed} is kept."
        here, subject = folder / ARTIFACT_SIGNATURE_FILE, digest_bytes(artifact.to_json())
        with suppress(IntegrityError, StoreError):
            kept = check_signature(here, "artifact", subject, self._keys, Place(self._place.name, origin))
            if kept.signed_at > signer.signed_at:
                return f"It was signed at {signer.signed_at}: the newer local artifact for the same purpose is kept."
        return None

    @cached_property
    def known(self) -> frozenset[str]:
        """The keys that are known here, in hex."""
        return frozenset(key.hex for key in self._keys.values())

    @cached_property
    def _keys(self) -> Mapping[str, PublicKey]:
        try:
            return KeyRing(self._home).read()
        except (IntegrityError, StoreError) as error:
            log.warning("no key is known: %s", error)
            return {}

    def _find_signer(self, path: str, what: What, subject: str, keys: Mapping[str, PublicKey]) -> Signer:
        data = self.read(path)
        found = None if data is None else parse_signatures(data, self._name(path))
        return find_signer(found, self._name(path), what, subject, keys, self._place)

    def _name(self, path: str) -> str:
        return f"{path} of {self._summary.repo_id}"


def _find_signer_of(bundle: Bundle, keys: Mapping[str, PublicKey]) -> Signer | None:
    try:
        signed = check_manifest(bundle, keys)
    except (IntegrityError, MissingExtraError, StoreError):
        return None
    return Signer(signed.signer, signed.signed_at)
