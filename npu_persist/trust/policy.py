"""Whether a load may import a compiled artifact, and read a graph in its own process.

Artifacts that were compiled here and bundles that were not pulled: always. Pulled ones only if they are trusted.

A pulled artifact is trusted if a known key signed exactly what is there, or if the caller trusts its repository or all
repositories. What cannot be read or checked is not trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from npu_persist.artifact.artifact import ARTIFACT_SIGNATURE_FILE, Artifact, read_description
from npu_persist.bundle.origin import read_origin, split_pattern
from npu_persist.errors import IntegrityError, MissingExtraError, StoreError, UsageError
from npu_persist.files.digest import digest_bytes

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.origin import Origin

    Trust: TypeAlias = bool | str | Sequence[str] | None
    """True trusts all repositories; patterns those that match: "org/unet" or "org/*" on Hugging Face's hub,
    "https://hub.example.com/org/*" on another."""

_EXPECTED = (
    "trust: expected True, or repositories: 'org/unet' or 'org/*' on Hugging Face's hub, "
    "'https://hub.example.com/org/*' on another"
)


class Decision(NamedTuple):
    """Whether an artifact may be imported."""

    is_trusted: bool
    reason: str
    """Why, as sentences; empty for one that was compiled here."""


class Policy:
    """The repositories and keys that one load trusts."""

    def __init__(self, trust: Trust, home: Path) -> None:
        """Check the caller's `trust`; the known keys in the store's `home` are read when they are needed."""
        self._all = trust is True
        self._patterns = () if trust is None or isinstance(trust, bool) else _check_patterns(trust)
        self._home = home

    def require_signature(self, bundle: Bundle) -> str:
        """Return the name of the known key that signed a bundle's manifest; SignatureError if none did."""
        from npu_persist.trust.keys import KeyRing
        from npu_persist.trust.signing import check_manifest

        return check_manifest(bundle, KeyRing(self._home).read()).signer

    def decide(self, folder: Path, artifact: Artifact, name: str) -> Decision:
        """Decide on the artifact that was read in a folder, attached to the bundle of this name in its manifest."""
        try:
            origin = read_origin(folder)
        except (IntegrityError, StoreError) as error:
            return Decision(is_trusted=False, reason=f"Its origin cannot be read: {error}.")
        if origin is None:
            return Decision(is_trusted=True, reason="")
        pulled = f"It was pulled from {origin.source}"
        if self._all:
            return Decision(is_trusted=True, reason=f"{pulled}, and trust=True allows that.")
        for pattern in self._patterns:
            if origin.matches(pattern):
                return Decision(is_trusted=True, reason=f"{pulled}, and trust={pattern!r} allows that.")
        try:
            signer = self._find_signer(folder, artifact, name, origin)
        except (IntegrityError, MissingExtraError, StoreError) as error:
            return Decision(
                is_trusted=False,
                reason=f"Not trusted: blobs are executed on the device. {pulled}, and no known key signed it: {error}. "
                f"Allow it with trust={origin.source!r} (`--trust {origin.source}`), or add the signer's key "
                "with `npu-persist keys add`.",
            )
        return Decision(is_trusted=True, reason=f"{pulled}, and is signed by {signer}.")

    def find_distrust(self, bundle: Bundle) -> str | None:
        """Return why a bundle's graph is not trusted, as a sentence; None for one that is, or was not pulled."""
        if self._all:
            return None
        try:
            origin = read_origin(bundle.path)
        except (IntegrityError, StoreError) as error:
            return f"The origin of {bundle.reference} cannot be read: {error}."
        if origin is None or any(origin.matches(pattern) for pattern in self._patterns):
            return None
        try:
            self.require_signature(bundle)
        except (IntegrityError, MissingExtraError, StoreError) as error:
            return (
                f"{bundle.reference} was pulled from {origin.source}, and no known key signed it: {error}. If you "
                f"trust it, add the signer's key with `npu-persist keys add`, or use trust={origin.source!r} "
                f"(`--trust {origin.source}`)."
            )
        return None

    def _find_signer(self, folder: Path, artifact: Artifact, name: str, origin: Origin) -> str:
        from npu_persist.trust.keys import KeyRing, Place
        from npu_persist.trust.signing import check_signature

        data = read_description(folder)
        # The load imports what was read earlier, so the signature has to be for that.
        if Artifact.from_json(data, source=str(folder)) != artifact:
            raise IntegrityError(f"{folder}: it changed while it was being read")
        keys, place = KeyRing(self._home).read(), Place(name, origin)
        return check_signature(folder / ARTIFACT_SIGNATURE_FILE, "artifact", digest_bytes(data), keys, place).name


def _check_patterns(trust: object) -> tuple[str, ...]:
    patterns = (trust,) if isinstance(trust, str) else trust
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"{_EXPECTED}; got {trust!r}")
    for pattern in patterns:
        try:
            split_pattern(pattern)
        except ValueError as error:
            raise UsageError(f"{_EXPECTED}; got {pattern!r}") from error
    return tuple(patterns)
