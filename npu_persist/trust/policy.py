"""Whether a load may import a compiled artifact: this machine's own always, a pulled one only if somebody said so.

The promise: a pulled artifact is imported only with a signature of a known key over exactly what is there, or where the
caller trusts the repository it was pulled from, or all for this call. Everything else, also what cannot be read or
checked, is a reason against it.
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
    """True: all for this call. Texts: what was pulled from these repositories, "org/unet" or "org/*"."""

_EXPECTED = "trust: expected True, or repositories such as 'org/unet' or 'org/*'"


class Decision(NamedTuple):
    """Whether an artifact may be imported."""

    is_trusted: bool
    reason: str
    """Why, as sentences; empty for one of this machine's own."""


class Policy:
    """What one load trusts.

    Args:
        trust: What the caller said.
        home: The store's directory, where the known keys are.

    Raises:
        UsageError: `trust` is nothing of that kind.
    """

    def __init__(self, trust: Trust, home: Path) -> None:
        self._all = trust is True
        self._patterns = () if trust is None or isinstance(trust, bool) else _check_patterns(trust)
        self._home = home

    def require_signature(self, bundle: Bundle) -> str:
        """Return the name of the known key that signed a bundle's manifest.

        Raises:
            SignatureError: None did.
            IntegrityError: A file among the known keys is no key.
            MissingExtraError: The package `cryptography` is not installed.
            StoreError: The signature or the keys cannot be read.
        """
        from npu_persist.trust.keys import KeyRing
        from npu_persist.trust.signing import check_manifest

        return check_manifest(bundle, KeyRing(self._home).read()).signer

    def decide(self, folder: Path, artifact: Artifact) -> Decision:
        """Decide on an attached artifact.

        Args:
            folder: Where it is.
            artifact: What was read there.
        """
        try:
            origin = read_origin(folder)
        except (IntegrityError, StoreError) as error:
            return Decision(is_trusted=False, reason=f"It is not known where it came from: {error}.")
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
                reason=f"Not trusted: a device runs what is in it. {pulled}, and no known key vouches for it: {error}. "
                f"Allow it with trust={origin.repo!r} (`--trust {origin.repo}`), or make the signer's key known with "
                "`npu-persist keys add`.",
            )
        return Decision(is_trusted=True, reason=f"{pulled}, and is signed by {signer}.")

    def _find_signer(self, folder: Path, artifact: Artifact) -> str:
        from npu_persist.trust.keys import KeyRing
        from npu_persist.trust.signing import check_signature, read_description

        data = read_description(folder)
        # What is imported is what was read earlier: the signature has to be over that.
        if Artifact.from_json(data, source=str(folder)) != artifact:
            raise IntegrityError(f"{folder}: it changed while it was looked at")
        keys = KeyRing(self._home).read()
        return check_signature(folder / ARTIFACT_SIGNATURE_FILE, "artifact", digest_bytes(data), keys)


def _check_patterns(trust: object) -> tuple[str, ...]:
    patterns = (trust,) if isinstance(trust, str) else trust
    if not isinstance(patterns, Sequence):
        raise UsageError(f"{_EXPECTED}; got {trust!r}")
    for pattern in patterns:
        # One without an owner would match nothing, or everything.
        if not isinstance(pattern, str) or len([part for part in pattern.split("/") if part]) != 2:  # noqa: PLR2004
            raise UsageError(f"{_EXPECTED}; got {pattern!r}")
    return tuple(patterns)
