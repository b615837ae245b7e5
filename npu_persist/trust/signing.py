"""Detached signatures: `manifest.json.sig` and `compiled/<folder>/artifact.json.sig`.

    {
      "format_version": "1.0",
      "what": "manifest",                           or "artifact"
      "subject": "blake3:<64 hex digits>",          digest of the bytes of manifest.json or artifact.json
      "signatures": [
        {
          "algorithm": "ed25519",
          "key": "<64 hex digits>",
          "signed_at": "2026-11-21T07:40:04Z",      when, by the signer's clock
          "signature": "<128 hex digits>"
        }
      ]
    }

What is signed is the text `npu_persist signature 1.0` and the values of `what`, `subject`, `key` and `signed_at`, each
followed by a newline, so that a signature is valid only for these bytes, as this kind of file, by this key, with this
time. The manifest contains the digest of every file of the bundle, an artifact.json those of the bundle and of its own
files.

Signatures are not a part of the bundle: its digest stays the same.
"""

from __future__ import annotations

import logging
import os
import stat
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

import msgspec

from npu_persist.artifact.artifact import ARTIFACT_SIGNATURE_FILE, read_description
from npu_persist.artifact.attached import check_subject, list_attached
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
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE, ORIGIN_FILE, PARTIAL_SUFFIX
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import ArtifactError, SignatureError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import refuse_links, remove_file, replace_file, store_errors
from npu_persist.trust.keys import Place, PublicKey, public_key_of, require_cryptography

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from npu_persist.bundle.bundle import Bundle

log = logging.getLogger(__name__)

ALGORITHM: Literal["ed25519"] = "ed25519"

MAX_SIGNATURES_SIZE = 64 * 1024
"""Largest signature file, in bytes: about 200 signatures."""

MAX_CHECKED = 32
"""Most signatures of a file from elsewhere that are checked and kept."""

MAX_KEPT = 128
"""Most signatures of a file to which some from elsewhere are added."""

What: TypeAlias = Literal["manifest", "artifact"]


class Signed(NamedTuple):
    """A file that a known key signed."""

    path: Path
    """The signature file."""
    signer: str
    """The key's name."""
    signed_at: str
    """When, by the signer's clock, in UTC: `2026-11-21T07:40:04Z`."""


class Signer(NamedTuple):
    """A known key that signed something, and when: the latest, if several did."""

    name: str
    signed_at: str


class KeySignature(NamedTuple):
    """The signature of one key."""

    signed_at: str
    """When, by the signer's clock, in UTC: `2026-11-21T07:40:04Z`. Texts of this form sort by time."""
    signature: str
    """128 hex digits."""


class _Entry(Part, frozen=True):
    algorithm: Literal["ed25519"]
    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    signed_at: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}Z\Z")]
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


class _SignaturesDocument(Document, frozen=True):
    what: What
    subject: Digest
    signatures: tuple[_Entry, ...]


class Signatures(msgspec.Struct, frozen=True):
    """The content of a signature file, as in the module's docstring; signatures by public key in hex digits."""

    what: What
    subject: str
    signatures: Mapping[str, KeySignature]

    def to_json(self) -> bytes:
        """Return the file's content."""
        entries = [_Entry(ALGORITHM, key, *found) for key, found in sorted(self.signatures.items())]
        return encode(_SignaturesDocument(self.what, self.subject, tuple(entries)))


def sign_bundle(bundle: Bundle, key: Ed25519PrivateKey) -> Iterator[Path]:
    """Sign a bundle's manifest and its attached artifacts, and yield each signature file.

    Other keys' signatures for the same content stay in the files; one of this key is replaced by one of now. Does not
    verify the files; call `verify` first.
    """
    subjects: list[tuple[Path, What, str]] = [(bundle.path / MANIFEST_SIGNATURE_FILE, "manifest", bundle.digest)]
    for folder, artifact in list_attached(bundle):
        if isinstance(artifact, ArtifactError):
            raise artifact
        check_subject(bundle, folder, artifact)
        subjects.append((folder / ARTIFACT_SIGNATURE_FILE, "artifact", digest_bytes(read_description(folder))))
    for path, what, subject in subjects:
        _add_signature(path, what, subject, key, bundle)
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
        place = Place(bundle.manifest.name, read_origin(folder))
        yield Signed(path, *check_signature(path, "artifact", digest_bytes(read_description(folder)), keys, place))


def check_manifest(bundle: Bundle, keys: Mapping[str, PublicKey]) -> Signed:
    """Check that a known key signed a bundle's manifest as it was when the bundle was opened."""
    path = bundle.path / MANIFEST_SIGNATURE_FILE
    place = Place(bundle.manifest.name, read_origin(bundle.path))
    return Signed(path, *check_signature(path, "manifest", bundle.digest, keys, place))


def check_signature(path: Path, what: What, subject: str, keys: Mapping[str, PublicKey], place: Place) -> Signer:
    """Return the known key that signed a file of kind `what` with the digest `subject`.

    `path` is that of the signature file. One valid signature is enough, whatever else is in the file. A key that is not
    known for the `place` counts as unknown.
    """
    return find_signer(read_signatures(path), str(path), what, subject, keys, place)


def find_signer(  # noqa: PLR0913, PLR0917 (what is there, what is expected, who counts)
    found: Signatures | None, path: str, what: What, subject: str, keys: Mapping[str, PublicKey], place: Place
) -> Signer:
    """Like `check_signature`, but for the content of a signature file; errors name it by `path`."""
    if found is None:
        raise SignatureError(f"{path}: expected a signature, got nothing: it is not signed")
    if (found.what, found.subject) != (what, subject):
        raise SignatureError(
            f"{path}: expected a signature over the {what} {subject}; got one over the {found.what} {found.subject}"
        )
    signers = {name: key for name, key in keys.items() if key.hex in found.signatures}
    against = {name: reason for name, key in signers.items() if (reason := key.scope.find_reason_against(place))}
    signers = {name: key for name, key in signers.items() if name not in against}
    if not signers and against:
        reasons = "; ".join(f"{name} {reason}" for name, reason in against.items())
        raise SignatureError(
            f"{path}: expected a signature by a key whose scope covers it; {reasons}. `npu-persist keys remove` and "
            "`keys add` give a key another scope"
        )
    if not signers:
        by = ", ".join(found.signatures) or "nobody"
        raise SignatureError(
            f"{path}: expected a signature by a known key ({', '.join(keys) or 'there is none'}); got {by}. To add the "
            "signer's public key: npu-persist keys add NAME FILE"
        )
    valid = _select(found, [key.hex for key in signers.values()]).signatures
    if valid:
        dated = (Signer(name, valid[key.hex].signed_at) for name, key in signers.items() if key.hex in valid)
        return max(dated, key=lambda signer: signer.signed_at)
    names = ", ".join(f"{name} ({key.hex})" for name, key in signers.items())
    raise SignatureError(f"{path}: the signature of {names} is not valid")


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
    return parse_signatures(data, str(path))


def parse_signatures(data: bytes, path: str) -> Signatures:
    """Read the content of a signature file, which errors call `path`, without checking the signatures."""
    if len(data) > MAX_SIGNATURES_SIZE:
        raise SignatureError(f"{path}: expected at most {MAX_SIGNATURES_SIZE} bytes of signatures, got more")
    problems = Problems()
    try:
        found = decode(data, _SignaturesDocument)
        check_digest(found.subject, "subject", problems)
        signatures = {entry.key: KeySignature(entry.signed_at, entry.signature) for entry in found.signatures}
        if len(signatures) < len(found.signatures):
            problems.add("signatures", "expected one signature per key, got several")
        problems.raise_if_any()
    except DocumentError as error:
        raise SignatureError(f"{path}: expected signatures; got {len(data)} other bytes ({error})") from error
    return Signatures(found.what, found.subject, signatures)


def select_valid(data: bytes, path: str, what: What, subject: str, known: Collection[str] = ()) -> Signatures | None:
    """Return the valid signatures in the content of a signature file from elsewhere; None if there are none.

    No more than `MAX_CHECKED` are looked at, those of `known` keys (in hex) first. `path` says in the log where it is.
    """
    try:
        found = parse_signatures(data, path)
    except SignatureError as error:
        log.warning("malformed signatures are ignored: %s", error)
        return None
    if (found.what, found.subject) != (what, subject):
        log.warning("%s is ignored: it is for the %s %s", path, found.what, found.subject)
        return None
    keys = sorted(found.signatures, key=lambda key: key not in known)
    if len(keys) > MAX_CHECKED:
        log.warning("%s has %d signatures; only %d are checked", path, len(keys), MAX_CHECKED)
    valid = _select(found, keys[:MAX_CHECKED])
    if len(valid.signatures) < len(keys[:MAX_CHECKED]):
        log.warning("signatures that are not valid are ignored: %s", path)
    return valid if valid.signatures else None


def renew_signatures(bundle: Bundle, path: Path, new: Signatures, known: Collection[str] = ()) -> None:
    """Add valid signatures to a signature file of a bundle, and take out of it what is not valid.

    If all of them do not fit, those of keys that are not `known` (in hex) are left out, the new ones first.
    """
    try:
        here = read_signatures(path)
    except SignatureError as error:
        log.warning("malformed signatures are replaced: %s", error)
        here = None
    kept: Mapping[str, KeySignature] = {}
    if here is not None and (here.what, here.subject) == (new.what, new.subject):
        kept = _select(here, here.signatures).signatures
    merged = {**new.signatures, **kept}
    for key in new.signatures.keys() & kept.keys():
        merged[key] = max(new.signatures[key], kept[key])  # the later one
    keys = sorted(merged, key=lambda key: (key not in known, key not in kept))
    size = max(MAX_KEPT, len(kept))
    data = Signatures(new.what, new.subject, {key: merged[key] for key in keys[:size]}).to_json()
    if here is None or data != here.to_json():
        _write(path, data, bundle)


def _select(found: Signatures, keys: Iterable[str]) -> Signatures:
    """Return the valid ones of some keys' signatures."""
    valid = {
        key: found.signatures[key]
        for key in keys
        if _is_valid(found.what, found.subject, PublicKey(bytes.fromhex(key)), found.signatures[key])
    }
    return Signatures(found.what, found.subject, valid)


def _add_signature(path: Path, what: What, subject: str, key: Ed25519PrivateKey, bundle: Bundle) -> None:
    public = public_key_of(key).hex
    found = read_signatures(path)
    others = found.signatures if found is not None and (found.what, found.subject) == (what, subject) else {}
    data = Signatures(what, subject, {**others, public: make_signature(what, subject, key, _now())}).to_json()
    if len(data) > MAX_SIGNATURES_SIZE:
        raise SignatureError(
            f"{path}: expected at most {MAX_SIGNATURES_SIZE} bytes of signatures; there is no room for another"
        )
    _write(path, data, bundle)


def _write(path: Path, data: bytes, bundle: Bundle) -> None:
    # Not beside it: an artifact's folder must never contain files that `artifact.json` does not name.
    temporary = bundle.path / f"{path.name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}"
    with store_errors(f"write {path}"):
        refuse_links(path.parent, below=bundle.root)
        try:
            replace_file(path, data, temporary=temporary, below=bundle.root)
        finally:
            remove_file(temporary, below=bundle.root)


def make_signature(what: What, subject: str, key: Ed25519PrivateKey, signed_at: str) -> KeySignature:
    """Sign a file of kind `what` with the digest `subject`."""
    message = _message(what, subject, public_key_of(key).hex, signed_at)
    return KeySignature(signed_at, key.sign(message).hex())


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _message(what: What, subject: str, key: str, signed_at: str) -> bytes:
    return f"npu_persist signature {FORMAT_VERSION}\n{what}\n{subject}\n{key}\n{signed_at}\n".encode()


def _is_valid(what: What, subject: str, key: PublicKey, found: KeySignature) -> bool:
    require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        message = _message(what, subject, key.hex, found.signed_at)
        Ed25519PublicKey.from_public_bytes(key.raw).verify(bytes.fromhex(found.signature), message)
    except InvalidSignature:
        return False
    return True
