"""Ed25519 keys: the public ones that are known here, and the private one that signs.

    $NPU_PERSIST_HOME/keys/acme.pem     a public key, as `openssl pkey -pubout` writes it; its name is `acme`

The promise: a key that is known was added by name; a file among the keys that is none is an error for everyone who asks
which keys are known. Public keys are read without any package; a private key is never stored or shown.
"""

from __future__ import annotations

import binascii
import os
import re
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.bundle.reference import validate_name
from npu_persist.errors import FileIntegrityError, InvalidNameError, MissingExtraError, NotFoundError, UsageError
from npu_persist.files.filesystem import remove_file, replace_file, store_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
else:
    from npu_persist.files.frozen import dataclass

KEYS_FOLDER = "keys"
"""Folder of the store's home with the keys that are known."""

KEY_SUFFIX = ".pem"
"""What the name of a key's file ends with."""

KEY_LENGTH = 32
"""Bytes of a public key (RFC 8032)."""

MAX_KEY_SIZE = 64 * 1024
"""Largest file of a key, in bytes."""

_PEM = re.compile(r"\s*-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*", re.ASCII)
_SSH = re.compile(r"\s*ssh-ed25519\s+([A-Za-z0-9+/=]+)(\s[^\n]*)?\s*")
_HEX = re.compile(rf"\s*([0-9a-fA-F]{{{2 * KEY_LENGTH}}})\s*", re.ASCII)
_DER_HEAD = bytes.fromhex("302a300506032b6570032100")
"""What stands before a key in a SubjectPublicKeyInfo (RFC 8410, section 4)."""

_SSH_HEAD = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
"""What stands before a key in OpenSSH's encoding (RFC 8709, section 4)."""

_FORMS = "a PEM file with an Ed25519 public key, a line `ssh-ed25519 …`, or 64 hex digits"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key.

    Attributes:
        raw: Its 32 bytes.
    """

    raw: bytes

    @property
    def hex(self) -> str:
        """Its 64 lowercase hex digits, which are also its identity."""
        return self.raw.hex()

    def to_pem(self) -> bytes:
        """Write it as OpenSSL does."""
        body = b64encode(_DER_HEAD + self.raw).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()


class KeyRing:
    """The public keys that are known, by name.

    Attributes:
        path: Their folder, which need not exist.
    """

    def __init__(self, home: Path) -> None:
        """Choose a store's keys; nothing is read yet.

        Args:
            home: The store's directory.
        """
        self.path = home / KEYS_FOLDER

    def read(self) -> dict[str, PublicKey]:
        """Return the keys by name, sorted.

        Raises:
            FileIntegrityError: A file among them is no key.
            StoreError: One cannot be read.
        """
        with store_errors(f"read the keys in {self.path}"):
            try:
                found = sorted(os.listdir(self.path))  # noqa: PTH208
            except FileNotFoundError:
                return {}
            names = [name for name in found if name.endswith(KEY_SUFFIX) and not name.startswith(".")]
            return {name.removesuffix(KEY_SUFFIX): self._read(self.path / name) for name in names}

    def add(self, name: str, key: PublicKey) -> None:
        """Make a key known. One that is known by that name stays; for another key the name has to be removed first.

        Raises:
            InvalidNameError: The name cannot be a file's, or is that of another key.
            StoreError: The file system refuses.
        """
        validate_name(name, "name of a key")
        for other, known in self.read().items():
            if other == name and known == key:
                return
            if other.lower() == name.lower():
                raise InvalidNameError(
                    f"there is a key {other!r} already: {known.hex}. Choose another name, or `npu-persist keys remove "
                    f"{other}` first"
                )
        with store_errors(f"add the key {name} in {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            temporary = self.path / f".{name}.{os.urandom(4).hex()}"
            try:
                replace_file(self.path / f"{name}{KEY_SUFFIX}", key.to_pem(), temporary=temporary)
            finally:
                with suppress(OSError):  # it is no key that is known
                    remove_file(temporary)

    def remove(self, name: str) -> None:
        """Forget a key.

        Raises:
            NotFoundError: There is none of that name.
            StoreError: The file system refuses.
        """
        path = self.path / f"{validate_name(name, 'name of a key')}{KEY_SUFFIX}"
        with store_errors(f"remove {path}"):
            if not os.path.lexists(path):
                raise NotFoundError(
                    f"there is no key {name!r} in {self.path}. `npu-persist keys list` shows those there"
                )
            remove_file(path)

    def _read(self, path: Path) -> PublicKey:
        try:
            return read_public_key(path)
        except UsageError as error:
            raise FileIntegrityError(
                f"{path}: {error}. Until it is replaced or removed (`npu-persist keys remove "
                f"{path.name.removesuffix(KEY_SUFFIX)}`) no signature is taken for that of a known key",
                path=str(path),
                expected=_FORMS,
                got="something else",
            ) from error


def parse_public_key(text: str) -> PublicKey:
    """Read a public key: PEM, OpenSSH's line or hex digits.

    Raises:
        UsageError: It is something else.

    >>> parse_public_key("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").to_pem().splitlines()[1]
    b'MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo='
    """
    if "PRIVATE KEY" in text:
        raise UsageError(
            f"expected {_FORMS}; got a private key, which belongs to whoever signs and to nobody else. `openssl pkey "
            "-in FILE -pubout` writes its public key"
        )
    if match := _HEX.fullmatch(text):
        return PublicKey(bytes.fromhex(match[1]))
    for pattern, head in ((_PEM, _DER_HEAD), (_SSH, _SSH_HEAD)):
        if match := pattern.fullmatch(text):
            with suppress(binascii.Error):
                data = b64decode("".join(match[1].split()), validate=True)
                if len(data) == len(head) + KEY_LENGTH and data.startswith(head):
                    return PublicKey(data[len(head) :])
    raise UsageError(f"expected {_FORMS}; got {len(text)} characters that are none")


def read_public_key(path: Path) -> PublicKey:
    """Read a file with a public key.

    Raises:
        UsageError: It is none.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_KEY_SIZE + 1)
    if len(data) > MAX_KEY_SIZE:
        raise UsageError(f"expected {_FORMS}; got more than {MAX_KEY_SIZE} bytes")
    return parse_public_key(data.decode("utf-8", "replace"))


def find_public_key(source: str | os.PathLike[str]) -> PublicKey:
    """Read a public key that is given as a text, or as the path of a file.

    Raises:
        NotFoundError: The text is no key, and there is no such file.
        UsageError: The file is none.
        StoreError: It cannot be read.
    """
    if isinstance(source, str) and any(pattern.fullmatch(source) for pattern in (_HEX, _PEM, _SSH)):
        return parse_public_key(source)
    path = Path(source)
    with store_errors(f"read {path}"):
        try:
            return read_public_key(path)
        except FileNotFoundError as error:
            raise NotFoundError(f"{path}: no such file; expected {_FORMS}") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


def read_private_key(path: Path, password: str | Callable[[], str] | None = None) -> Ed25519PrivateKey:
    """Read the private key that signs: a PEM file (PKCS #8), as `openssl genpkey -algorithm ed25519` writes it.

    Args:
        path: The file; OpenSSH's format is read, too.
        password: What it is encrypted with, or what asks for it, called only if it is; None if it is not.

    Raises:
        UsageError: It is no Ed25519 private key, or the password does not fit.
        NotFoundError: There is no such file.
        StoreError: It cannot be read.
        MissingExtraError: The package `cryptography` is not installed.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with store_errors(f"read {path}"):
        try:
            with path.open("rb") as file:
                data = file.read(MAX_KEY_SIZE)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{path}: no such file; expected a private key. `openssl genpkey -algorithm ed25519 -out {path}` makes "
                "one"
            ) from error
    is_ssh = b"OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if is_ssh else serialization.load_pem_private_key
    secret = password.encode() if isinstance(password, str) else None
    try:
        try:
            key = load(data, secret)
        except TypeError:
            if not callable(password):
                raise
            key = load(data, password().encode())
    except TypeError as error:  # a password for a key that is not encrypted, or none for one that is
        wants = (
            "it is encrypted, and no password was given" if secret is None else "a password, but it is not encrypted"
        )
        raise UsageError(f"{path}: {wants}") from error
    except UsageError:  # of whoever was asked for the password
        raise
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path}: expected an Ed25519 private key in PEM, and the password that fits; {error}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: expected an Ed25519 private key; got a {type(key).__name__}")
    return key


def public_key_of(key: Ed25519PrivateKey) -> PublicKey:
    """Return the public key that belongs to a private one."""
    return PublicKey(key.public_key().public_bytes_raw())


def require_cryptography() -> None:
    """Check that the package `cryptography` is there, before names are imported from it.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "signatures need the package cryptography, which is not installed here: python -m pip install "
            "'npu_persist[sign]'",
            extra="sign",
            name=error.name,
        ) from error
