"""Detached signatures: `manifest.json.sig` and `compiled/<folder>/artifact.json.sig`.

    {
      "format_version": "1.0",
      "what": "manifest",                           or "artifact"
      "subject": "blake3:<64 hex digits>",          digest of the bytes of manifest.json or artifact.json
      "signatures": [
        {"algorithm": "ed25519", "key": "<64 hex digits>", "signature": "<128 hex digits>"}
      ]
    }

What is signed is the text `npu_persist signature 1.0` and the values of `what`, `subject` and `key`, each followed by a
newline, so that a signature is valid only for these bytes, as this kind of file, by this key. The manifest contains the
digest of every file of the bundle, an artifact.json those of the bundle and of its own files.

Signatures are not a part of the bundle: its digest stays the same.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

import msgspec

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, MAX_ARTIFACT_SIZE
from npu_persist.artifact.attached import check_subject, list_attached
from npu_persist.bundle.bundle import PARTIAL_SUFFIX
from npu_persist.bundle.document import (
    FORMAT_VERSION,
    Digest,
    Document,
    DocumentError,
    Part,
    Problems,
    check_digest,
    decode,
    encode,
)
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE, ORIGIN_FILE
from npu_persist.errors import ArtifactError, SignatureError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import remove_file, replace_file, store_errors
from npu_persist.trust.keys import public_key_of, require_cryptography

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.trust.keys import PublicKey

log = logging.getLogger(__name__)

ALGORITHM: Literal["ed25519"] = "ed25519"

MAX_SIGNATURES_SIZE = 64 * 1024
"""Largest signature file, in bytes: about 300 signatures."""

What: TypeAlias = Literal["manifest", "artifact"]


class Signed(NamedTuple):
    """A file that a known key signed."""

    path: Path
    """The signature file."""
    signer: str
    """The key's name."""


class _Entry(Part, frozen=True):
    algorithm: Literal["ed25519"]
    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


class _SignaturesDocument(Document, frozen=True):
    what: What
    subject: Digest
    signatures: tuple[_Entry, ...]


class Signatures(msgspec.Struct, frozen=True):
    """The content of a signature file, as in the module's docstring; signatures by public key, both in hex digits."""

    what: What
    subject: str
    signatures: Mapping[str, str]

    def to_json(self) -> bytes:
        """Return the file's content."""
        entries = [_Entry(ALGORITHM, key, signature) for key, signature in sorted(self.signatures.items())]
        return encode(_SignaturesDocument(self.what, self.subject, tuple(entries)))


def sign_bundle(bundle: Bundle, key: Ed25519PrivateKey) -> Iterator[Path]:
    """Sign a bundle's manifest and its attached artifacts, and yield each signature file.

    Other signatures for the same content stay in the files. Does not verify the files; call `verify` first.
    """
    subjects: list[tuple[Path, What, str]] = [(bundle.path / MANIFEST_SIGNATURE_FILE, "manifest", bundle.digest)]
    for folder, artifact in list_attached(bundle):
        if isinstance(artifact, ArtifactError):
            raise artifact
        check_subject(bundle, folder, artifact)
        subjects.append((folder / ARTIFACT_SIGNATURE_FILE, "artifact", digest_bytes(read_description(folder))))
    for path, what, subject in subjects:
        _add_signature(path, what, subject, key, partial_in=bundle.path)
        yield path


def check_bundle(bundle: Bundle, keys: Mapping[str, PublicKey]) -> Iterator[Signed]:
    """Check that known keys signed a bundle's manifest and its attached artifacts; yield each with its signer.

    Artifacts that were compiled here for a pulled bundle need no signature.
    """
    yield check_manifest(bundle, keys)
    is_pulled = os.path.lexists(bundle.path / ORIGIN_FILE)
    for folder, artifact in list_attached(bundle):
        if is_pulled and not os.path.lexists(folder / ORIGIN_FILE):
            continue
        if isinstance(artifact, ArtifactError):
            raise artifact
        path = folder / ARTIFACT_SIGNATURE_FILE
        yield Signed(path, check_signature(path, "artifact", digest_bytes(read_description(folder)), keys))


def check_manifest(bundle: Bundle, keys: Mapping[str, PublicKey]) -> Signed:
    """Check that a known key signed a bundle's manifest as it was when the bundle was opened."""
    path = bundle.path / MANIFEST_SIGNATURE_FILE
    return Signed(path, check_signature(path, "manifest", bundle.digest, keys))


def check_signature(path: Path, what: What, subject: str, keys: Mapping[str, PublicKey]) -> str:
    """Return the name of a known key that signed a file of kind `what` with the digest `subject`."""
    found = read_signatures(path)
    if found is None:
        raise SignatureError(f"{path}: expected a signature, got nothing: it is not signed")
    if (found.what, found.subject) != (what, subject):
        raise SignatureError(
            f"{path}: expected a signature over the {what} {subject}; got one over the {found.what} {found.subject}"
        )
    signers = {name: key for name, key in keys.items() if key.hex in found.signatures}
    if not signers:
        by = ", ".join(found.signatures) or "nobody"
        raise SignatureError(
            f"{path}: expected a signature of a known key ({', '.join(keys) or 'there is none'}); got {by}. To add the "
            "signer's public key: npu-persist keys add NAME FILE"
        )
    for name, key in signers.items():
        if not _is_valid(key, bytes.fromhex(found.signatures[key.hex]), _message(what, subject, key.hex)):
            raise SignatureError(f"{path}: the signature of {name} ({key.hex}) is not valid")
    return next(iter(signers))


def read_signatures(path: Path) -> Signatures | None:
    """Read a signature file without checking the signatures; None if there is no such file."""
    with store_errors(f"read {path}"):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            raise SignatureError(f"{path}: expected a regular file, got something else")
        with path.open("rb") as file:
            data = file.read(MAX_SIGNATURES_SIZE + 1)
    return _read_bytes(data, str(path))


def _read_bytes(data: bytes, path: str) -> Signatures:
    if len(data) > MAX_SIGNATURES_SIZE:
        raise SignatureError(f"{path}: expected at most {MAX_SIGNATURES_SIZE} bytes of signatures, got more")
    problems = Problems()
    try:
        found = decode(data, _SignaturesDocument)
        check_digest(found.subject, "subject", problems)
        signatures = {entry.key: entry.signature for entry in found.signatures}
        if len(signatures) < len(found.signatures):
            problems.add("signatures", "expected one signature per key, got several")
        problems.raise_if_any()
    except DocumentError as error:
        raise SignatureError(f"{path}: expected signatures; got {len(data)} other bytes ({error})") from error
    return Signatures(found.what, found.subject, signatures)


def renew_signatures(path: Path, data: bytes, *, partial_in: Path) -> None:
    """Update a signature file with its content on a hub, keeping other signatures for the same content.

    Malformed content is ignored, and no signature is checked.
    """
    try:
        found = _read_bytes(data, str(path))
    except SignatureError as error:
        log.warning("malformed signatures on the hub are ignored: %s", error)
        return
    try:
        here = read_signatures(path)
    except SignatureError as error:
        log.warning("malformed signatures are replaced by the hub's: %s", error)
        here = None
    if here is not None and (here.what, here.subject) == (found.what, found.subject):
        merged = Signatures(found.what, found.subject, {**here.signatures, **found.signatures}).to_json()
        if merged == here.to_json():
            return
        data = merged if len(merged) <= MAX_SIGNATURES_SIZE else data
    _write(path, data, partial_in)


def read_description(folder: Path) -> bytes:
    """Return the bytes of a folder's `artifact.json`."""
    path = folder / ARTIFACT_FILE
    with store_errors(f"read {path}"), path.open("rb") as file:
        return file.read(MAX_ARTIFACT_SIZE + 1)  # one more than its parser accepts


def _add_signature(path: Path, what: What, subject: str, key: Ed25519PrivateKey, *, partial_in: Path) -> None:
    public = public_key_of(key).hex
    found = read_signatures(path)
    others = found.signatures if found is not None and (found.what, found.subject) == (what, subject) else {}
    signature = key.sign(_message(what, subject, public)).hex()
    data = Signatures(what, subject, {**others, public: signature}).to_json()
    if len(data) > MAX_SIGNATURES_SIZE:
        raise SignatureError(
            f"{path}: expected at most {MAX_SIGNATURES_SIZE} bytes of signatures; this is one too many"
        )
    _write(path, data, partial_in)


def _write(path: Path, data: bytes, partial_in: Path) -> None:
    # Not beside it: an artifact's folder must never contain files that `artifact.json` does not name.
    temporary = partial_in / f"{path.name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}"
    with store_errors(f"write {path}"):
        try:
            replace_file(path, data, temporary=temporary)
        finally:
            remove_file(temporary)


def _message(what: What, subject: str, key: str) -> bytes:
    return f"npu_persist signature {FORMAT_VERSION}\n{what}\n{subject}\n{key}\n".encode()


def _is_valid(key: PublicKey, signature: bytes, message: bytes) -> bool:
    require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, message)
    except InvalidSignature:
        return False
    return True
