"""Signers of tests: Ed25519 keys from a seed, their files, and what they signed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from npu_persist.bundle.origin import Origin, write_origin
from npu_persist.trust.keys import KeyRing, PublicKey, public_key_of

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = Origin("org/unet", "5f0c2ab1" * 5, "v3", "http://127.0.0.1:1", datetime(2026, 11, 21, tzinfo=timezone.utc))


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


def know(home: Path, *names: str) -> None:
    """Make these signers' keys known in a store."""
    for name in names:
        KeyRing(home).add(name, public_key(name))


def pulled(*folders: Path) -> None:
    """Let a bundle's or an artifact's folder be one that was pulled from org/unet."""
    for folder in folders:
        write_origin(folder, ORIGIN)
