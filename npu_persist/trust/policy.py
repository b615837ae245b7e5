"""Whether a load may import a compiled artifact: those compiled here always, pulled ones only if they are trusted.

A pulled artifact is trusted if a known key signed exactly what is there, or if the caller trusts its repository or all
repositories. What cannot be read or checked is not trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from npu_persist.artifact.artifact import ARTIFACT_SIGNATURE_FILE, Artifact
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import IntegrityError, MissingExtraError, StoreError, UsageError
from npu_persist.files.digest import digest_bytes

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias

    from npu_persist.bundle.bundle import Bundle

    Trust: TypeAlias = bool | str | Sequence[str] | None
    """True trusts all repositories, patterns such as "org/unet" or "org/*" those that match."""

_EXPECTED = "trust: expected True, or repositories such as 'org/unet' or 'org/*'"


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

    def decide(self, folder: Path, artifact: Artifact) -> Decision:
        """Decide on the attached artifact that was read in a folder."""
        try:
            origin = read_origin(folder)
        except (IntegrityError, StoreError) as error:
            return Decision(is_trusted=False, reason=f"Its origin cannot be read: {error}.")
        if origin is None:
            return Decision(is_trusted=True, reason="")
        pulled = f"It was pulled from {origin.repo}"
        if self._all:
            return Decision(is_trusted=True, reason=f"{pulled}, and trust=True allows that.")
        for pattern in self._patterns:
            if fnmatchcase(origin.repo, pattern):
                return Decision(is_trusted=True, reason=f"{pulled}, and trust={pattern!r} allows that.")
        try:
            signer = self._find_signer(folder, artifact)
        except (IntegrityError, MissingExtraError, StoreError) as error:
            return Decision(
                is_trusted=False,
                reason=f"Not trusted: it is code that runs on a device. {pulled}, and no known key signed it: {error}. "
                f"Allow it with trust={origin.repo!r} (`--trust {origin.repo}`), or make the signer's key known with "
                "`npu-persist keys add`.",
            )
        return Decision(is_trusted=True, reason=f"{pulled}, and is signed by {signer}.")

    def _find_signer(self, folder: Path, artifact: Artifact) -> str:
        from npu_persist.trust.keys import KeyRing
        from npu_persist.trust.signing import check_signature, read_description

        data = read_description(folder)
        # The load imports what was read earlier, so the signature has to be for that.
        if Artifact.from_json(data, source=str(folder)) != artifact:
            raise IntegrityError(f"{folder}: it changed while it was being read")
        keys = KeyRing(self._home).read()
        return check_signature(folder / ARTIFACT_SIGNATURE_FILE, "artifact", digest_bytes(data), keys)


def _check_patterns(trust: object) -> tuple[str, ...]:
    patterns = (trust,) if isinstance(trust, str) else trust
    if not isinstance(patterns, Sequence):
        raise UsageError(f"{_EXPECTED}; got {trust!r}")
    for pattern in patterns:
        # Without an owner it would match nothing, or everything.
        if not isinstance(pattern, str) or len([part for part in pattern.split("/") if part]) != 2:  # noqa: PLR2004
            raise UsageError(f"{_EXPECTED}; got {pattern!r}")
    return tuple(patterns)
