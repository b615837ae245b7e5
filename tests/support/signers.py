"""Signers of tests: Ed25519 keys from a seed, their files, and what they signed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from npu_persist.bundle.origin import Origin, write_origin
from npu_persist.trust.keys import KeyRing, PublicKey, public_key_of
from npu_persist.trust.signing import KeySignature, Signatures, make_signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from npu_persist.trust.signing import What

ORIGIN = Origin(
    repo="org/unet",
    commit="5f0c2ab1" * 5,
    revision="v3",
    endpoint="https://huggingface.co",
    pulled_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
    name=None,
)


def private_key(name: str) -> Ed25519PrivateKey:
    """Return the same key for the same name."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"\0"))


def public_key(name: str) -> PublicKey:
    return public_key_of(private_key(name))


def write_private_key(folder: Path, name: str, password: str | None = None) -> Path:
    """Write a private key as OpenSSL does, and return its file."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password.encode())
    path = folder / f"{name}.key"
    path.write_bytes(
        private_key(name).private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return path


WHEN = "2026-11-21T07:40:04Z"
"""When the signers of tests sign, unless they are told otherwise."""


def make_signatures(
    what: What, subject: str, *names: str, when: str = WHEN, wrong: Mapping[str, str] | None = None
) -> Signatures:
    """Return what these signers signed; `wrong` are signatures in hex by public key, or by signer."""
    made = {public_key(name).hex: make_signature(what, subject, private_key(name), when) for name in names}
    invalid = {
        key if len(key) == 64 else public_key(key).hex: KeySignature(when, text) for key, text in (wrong or {}).items()
    }
    return Signatures(what, subject, {**made, **invalid})


def know(home: Path, *names: str) -> None:
    """Make these signers' keys known in a store."""
    for name in names:
        KeyRing(home).add(name, public_key(name))


def pulled(*folders: Path) -> None:
    """Let a bundle's or an artifact's folder be one that was pulled from org/unet."""
    for folder in folders:
        write_origin(folder, ORIGIN)
