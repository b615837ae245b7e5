"""Ed25519 keys: the known public keys, and the private key that signs.

    $NPU_PERSIST_HOME/keys/acme.pem     a public key, as `openssl pkey -pubout` writes it; its name is `acme`

Before the key, lines such as `for: acme-*` and `for-repo: acme/*` say what it is known for; without them, for all.
A malformed file among the known keys is an error for every signature that is checked. Public keys are read without the
package `cryptography`; a private key is never stored or shown.
"""

from __future__ import annotations

import binascii
import os
import re
from base64 import b64decode, b64encode
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from npu_persist.bundle.origin import split_pattern
from npu_persist.bundle.reference import validate_name
from npu_persist.errors import (
    FileIntegrityError,
    InvalidNameError,
    MissingExtraError,
    NotFoundError,
    SignatureError,
    UsageError,
)
from npu_persist.files.filesystem import (
    check_path,
    fsync_directory,
    remove_file,
    replace_file,
    store_errors,
)
from npu_persist.files.owners import find_distrust, is_own
from npu_persist.files.staging import staged

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from npu_persist.bundle.origin import Origin

KEY_SUFFIX = ".pem"

KEY_LENGTH = 32
"""Bytes of a public key (RFC 8032)."""

MAX_KEY_SIZE = 64 * 1024
"""Largest key file, in bytes."""

_SCOPE = re.compile(r"((?:for: [^\r\n]+\n)*)((?:for-repo: [^\r\n]+\n)*)")
_NAMES = re.compile(r"[A-Za-z0-9_.+*?\[\]!-]+")
_PEM = re.compile(r"\s*-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*", re.ASCII)
_SSH = re.compile(r"\s*ssh-ed25519\s+([A-Za-z0-9+/=]+)(\s[^\n]*)?\s*")
_HEX = re.compile(rf"\s*([0-9a-fA-F]{{{2 * KEY_LENGTH}}})\s*", re.ASCII)
_DER_HEAD = bytes.fromhex("302a300506032b6570032100")
"""Precedes the key in a SubjectPublicKeyInfo (RFC 8410, section 4)."""

_SSH_HEAD = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
"""Precedes the key in OpenSSH's encoding (RFC 8709, section 4)."""

_FORMS = "a PEM file with an Ed25519 public key, a line `ssh-ed25519 …`, or 64 hex digits"


class Place(NamedTuple):
    """The subject of a signature: a bundle by the name in its manifest, or an attached artifact, and its origin."""

    name: str
    origin: Origin | None


class Scope(msgspec.Struct, frozen=True):
    """The scope of a key.

    Attributes:
        names: Bundles, by patterns of their names; empty: all.
        repositories: Repositories, by patterns as in `origin.split_pattern`; empty: all, and what was not pulled.
    """

    names: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the patterns; UsageError for one that is none."""
        for name in self.names:
            if not _NAMES.fullmatch(name):
                raise UsageError(f"expected the name of a bundle, or a pattern such as 'acme-*'; got {name!r}")
        for repository in self.repositories:
            try:
                split_pattern(repository if repository.isprintable() and " " not in repository else "")
            except ValueError as error:
                raise UsageError(
                    "expected repositories: 'org/unet' or 'org/*' on Hugging Face's hub, "
                    f"'https://hub.example.com/org/*' on another; got {repository!r}"
                ) from error

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns."""
        return self.names + self.repositories

    def find_reason_against(self, place: Place) -> str | None:
        """Return why a key is not known for something, to follow its name; None if it is."""
        if self.names and not any(fnmatchcase(place.name, name) for name in self.names):
            return f"is known for {', '.join(self.names)} only, not for {place.name}"
        if self.repositories and not (place.origin and any(map(place.origin.matches, self.repositories))):
            source = "bundles that were not pulled" if place.origin is None else place.origin.source
            return f"is known for {', '.join(self.repositories)} only, not for {source}"
        return None


class PublicKey(msgspec.Struct, frozen=True):
    """An Ed25519 public key, as its 32 bytes, and its scope."""

    raw: bytes
    scope: Scope = Scope()

    @property
    def hex(self) -> str:
        """Its 64 lowercase hex digits, which identify it."""
        return self.raw.hex()

    def to_pem(self) -> bytes:
        """Format it as OpenSSL does."""
        body = b64encode(_DER_HEAD + self.raw).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()


class KeyRing:
    """The known public keys of a store, by name; their folder `path` need not exist."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.path = home / "keys"
        self._staging = home / "staging"

    def read(self) -> dict[str, PublicKey]:
        """Return the keys, sorted by name.

        Raises:
            FileIntegrityError: One of the files is not a key.
            SignatureError: Other users may have put keys there.
        """
        with store_errors(f"read the keys in {self.path}"):
            try:
                found = sorted(os.listdir(self.path))  # noqa: PTH208
            except FileNotFoundError:
                return {}
            if distrust := find_distrust(self.path):
                raise SignatureError(f"the known keys are not trusted: {distrust}")
            names = [name for name in found if name.endswith(KEY_SUFFIX) and not name.startswith(".")]
            return {name.removesuffix(KEY_SUFFIX): self._read(self.path / name) for name in names}

    def add(self, name: str, key: PublicKey) -> None:
        """Add a key, unless it is there already; InvalidNameError if another key, or scope, has that name."""
        validate_name(name, "name of a key")
        for other, known in self.read().items():
            if other == name and known == key:
                return
            if other.lower() == name.lower():
                raise InvalidNameError(
                    f"there is a key {other!r} already: {known.hex}{describe_scope(known.scope)}. Choose another name, "
                    f"or `npu-persist keys remove {other}` first"
                )
        with staged(self._staging, below=self._home) as staging, store_errors(f"add the key {name} in {self.path}"):
            path = self.path / f"{name}{KEY_SUFFIX}"
            data = _format_scope(key.scope).encode() + key.to_pem()
            replace_file(path, data, temporary=staging / name, below=self._home)

    def remove(self, name: str) -> None:
        """Remove a key; NotFoundError if there is none of that name."""
        path = self.path / f"{validate_name(name, 'name of a key')}{KEY_SUFFIX}"
        with store_errors(f"remove {path}"):
            if not os.path.lexists(path):
                raise NotFoundError(
                    f"there is no key {name!r} in {self.path}. `npu-persist keys list` shows the known keys"
                )
            remove_file(path, below=self._home)
            fsync_directory(self.path)  # a power failure must not bring it back

    def _read(self, path: Path) -> PublicKey:
        if not is_own(path.stat()):
            raise SignatureError(
                f"the known keys are not trusted: other users can write to {path}. Remove it or, if it is the right "
                "key, copy it to a file that only you may write to"
            )
        try:
            text = _read_text(path)
            match = _SCOPE.match(text)
            names, repositories = match.groups() if match else ("", "")
            key = parse_public_key(text[len(names) + len(repositories) :])
            return msgspec.structs.replace(key, scope=Scope(_read_lines(names), _read_lines(repositories)))
        except UsageError as error:
            raise FileIntegrityError(
                f"{path}: {error}. No signature can be checked until it is replaced or removed: `npu-persist keys "
                f"remove {path.name.removesuffix(KEY_SUFFIX)}`",
                path=str(path),
                expected=_FORMS,
                got="something else",
            ) from error


def parse_public_key(text: str) -> PublicKey:
    """Parse a public key in PEM, OpenSSH's format or hex digits; UsageError if it is something else.

    >>> parse_public_key("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").to_pem().splitlines()[1]
    b'MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo='
    """
    if "PRIVATE KEY" in text:
        raise UsageError(
            f"expected {_FORMS}; got a private key, which only its owner should have. `openssl pkey -in FILE "
            "-pubout` writes its public key"
        )
    if match := _HEX.fullmatch(text):
        return PublicKey(bytes.fromhex(match[1]))
    for pattern, head in ((_PEM, _DER_HEAD), (_SSH, _SSH_HEAD)):
        if match := pattern.fullmatch(text):
            with suppress(binascii.Error):
                data = b64decode("".join(match[1].split()), validate=True)
                if len(data) == len(head) + KEY_LENGTH and data.startswith(head):
                    return PublicKey(data[len(head) :])
    raise UsageError(f"expected {_FORMS}; got {len(text)} other characters")


def read_public_key(path: Path) -> PublicKey:
    """Read a public key's file; UsageError if it is something else."""
    return parse_public_key(_read_text(path))


def describe_scope(scope: Scope) -> str:
    """Describe a key's scope in parentheses, to follow the key; empty for all."""
    return f" ({', '.join(scope.patterns)} only)" if scope.patterns else ""


def _format_scope(scope: Scope) -> str:
    names = "".join(f"for: {name}\n" for name in scope.names)
    return names + "".join(f"for-repo: {repository}\n" for repository in scope.repositories)


def _read_lines(text: str) -> tuple[str, ...]:
    return tuple(line.partition(": ")[2] for line in text.splitlines())


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_KEY_SIZE + 1)
    if len(data) > MAX_KEY_SIZE:
        raise UsageError(f"expected {_FORMS}; got more than {MAX_KEY_SIZE} bytes")
    return data.decode("utf-8", "replace")


def find_public_key(source: str | os.PathLike[str]) -> PublicKey:
    """Read a public key that is given as text or as a file's path."""
    if isinstance(source, str) and any(pattern.fullmatch(source) for pattern in (_HEX, _PEM, _SSH)):
        return parse_public_key(source)
    check_path(source, "key")
    path = Path(source)
    with store_errors(f"read {path}"):
        try:
            return read_public_key(path)
        except FileNotFoundError as error:
            raise NotFoundError(f"{path}: no such file; expected {_FORMS}") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


def read_private_key(path: Path, password: str | Callable[[], str] | None = None) -> Ed25519PrivateKey:
    """Read a private key, in PEM (PKCS #8, as `openssl genpkey -algorithm ed25519` writes it) or OpenSSH's format."""
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    check_path(path, "key")
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
    secret: bytes | None = None
    try:
        try:
            secret = _encode(password) if isinstance(password, str) else None
            key = load(data, secret)
        except TypeError:
            if not callable(password):
                raise
            key = load(data, _encode(password()))
    except TypeError as error:  # a password for an unencrypted key, or none for an encrypted one
        wants = (
            "the key is encrypted, but no password was given"
            if secret is None
            else "a password was given, but the key is not encrypted"
        )
        raise UsageError(f"{path}: {wants}") from error
    except UsageError:  # of the function that asks for the password
        raise
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: expected an Ed25519 private key in PEM, and its password; {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: expected an Ed25519 private key; got a {type(key).__name__}")
    return key


def _encode(password: str) -> bytes:
    # A variable of the environment that is not UTF-8 is the bytes that it was.
    return password.encode("utf-8", "surrogateescape")


def public_key_of(key: Ed25519PrivateKey) -> PublicKey:
    """Return a private key's public key."""
    return PublicKey(key.public_key().public_bytes_raw())


def require_cryptography() -> None:
    """Raise MissingExtraError if the package `cryptography` is not installed."""
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "signatures need the package cryptography, which is not installed here: python -m pip install "
            "'npu_persist[sign]'",
            extra="sign",
            name=error.name,
        ) from error
