"""Detached signatures: `manifest.json.sig` and `compiled/<folder>/artifact.json.sig`.

    {
      "format_version": "1.0",
      "what": "manifest",                           or "artifact"
      "subject": "blake3:<64 hex digits>",          digest of the bytes of manifest.json or artifact.json
      "signatures": [
        {"algorithm": "ed25519", "key": "<64 hex digits>", "signature": "<128 hex digits>"}
      ]
    }

What is signed is the text `npu_persist signature 1.0`, the three values `what`, `subject` and `key`, each followed by a
newline: a signature holds for these bytes, as this kind of thing, by this key. The manifest has the digest of every
file of the bundle, an artifact.json that of the bundle and of its blob: both are what is trusted in the end.

The promise: a signature counts only if a known key made it over exactly what is there. What cannot be read, is for
something else or is wrong is a `SignatureError`. Signatures are no part of the bundle: it keeps its identity.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, MAX_ARTIFACT_SIZE
from npu_persist.artifact.attached import list_attached
from npu_persist.bundle.bundle import PARTIAL_SUFFIX
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE, ORIGIN_FILE, strict_json
from npu_persist.bundle.manifest.values import ValueReader
from npu_persist.errors import ArtifactError, ManifestError, SignatureError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import remove_file, replace_file, store_errors
from npu_persist.trust.keys import public_key_of, require_cryptography

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from dataclasses import dataclass
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.trust.keys import PublicKey
else:
    from npu_persist.files.frozen import dataclass

log = logging.getLogger(__name__)

FORMAT_VERSION = "1.0"
"""The format of a file with signatures, and of what is signed."""

ALGORITHM = "ed25519"
"""The only algorithm."""

MAX_SIGNATURES_SIZE = 64 * 1024
"""Largest file with signatures, in bytes: some 300 of them."""

What = Literal["manifest", "artifact"]
_WHATS: tuple[What, ...] = ("manifest", "artifact")
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{128}", re.ASCII)


class Signed(NamedTuple):
    """Something that is signed by a known key."""

    path: Path
    """The file with the signature."""
    signer: str
    """The key's name."""


@dataclass(frozen=True, slots=True)
class Signatures:
    """What a file with signatures says; the module's docstring shows it.

    Attributes:
        what: The kind of what is signed.
        subject: The digest of what is signed.
        signatures: Signature by public key, both in hex.
    """

    what: What
    subject: str
    signatures: Mapping[str, str]

    def to_json(self) -> bytes:
        """Write the file."""
        entries = [
            {"algorithm": ALGORITHM, "key": key, "signature": signature}
            for key, signature in sorted(self.signatures.items())
        ]
        document = {"format_version": FORMAT_VERSION, "what": self.what, "subject": self.subject, "signatures": entries}
        return strict_json.dump(document)


def sign_bundle(bundle: Bundle, key: Ed25519PrivateKey) -> Iterator[Path]:
    """Sign a bundle's manifest and everything that is attached to it; yield each file with signatures.

    Signatures of others over the same stay in the files. Whoever signs vouches: nothing is checked here.

    Raises:
        ArtifactError: An artifact's description cannot be read, or it was compiled from another bundle.
        SignatureError: There is a file of the signatures' name that is none.
        StoreError: The file system refuses.
    """
    subjects: list[tuple[Path, What, str]] = [(bundle.path / MANIFEST_SIGNATURE_FILE, "manifest", bundle.digest)]
    for folder, artifact in list_attached(bundle):
        if isinstance(artifact, ArtifactError):
            raise artifact
        if artifact.subject != bundle.digest:
            raise ArtifactError(
                f"{folder}: expected what was compiled from {bundle.reference}, {bundle.digest}; got what was compiled "
                f"from {artifact.subject}. It is not signed with this bundle; remove the folder",
                path=str(folder),
                expected=bundle.digest,
                got=artifact.subject,
            )
        subjects.append((folder / ARTIFACT_SIGNATURE_FILE, "artifact", digest_bytes(read_description(folder))))
    for path, what, subject in subjects:
        _add_signature(path, what, subject, key, partial_in=bundle.path)
        yield path


def check_bundle(bundle: Bundle, keys: Mapping[str, PublicKey]) -> Iterator[Signed]:
    """Check that a bundle's manifest and what is attached to it are signed by known keys; yield each with its signer.

    In a pulled bundle, artifacts that were compiled here after that need no signature.

    Raises:
        SignatureError: The first thing that is not.
        MissingExtraError: The package `cryptography` is not installed.
        StoreError: Something cannot be read.
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
    """Check that a bundle's manifest, as it was when the bundle was opened, is signed by a known key.

    Raises:
        SignatureError: It is not.
        MissingExtraError: The package `cryptography` is not installed.
        StoreError: The signature cannot be read.
    """
    path = bundle.path / MANIFEST_SIGNATURE_FILE
    return Signed(path, check_signature(path, "manifest", bundle.digest, keys))


def check_signature(path: Path, what: What, subject: str, keys: Mapping[str, PublicKey]) -> str:
    """Return the name of a known key that signed something.

    Args:
        path: The file with the signatures.
        what: The kind of thing.
        subject: Its digest.
        keys: The known keys by name.

    Raises:
        SignatureError: There is no signature, it is for something else, of no known key, or wrong.
        MissingExtraError: The package `cryptography` is not installed.
        StoreError: The file cannot be read.
    """
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
            raise SignatureError(f"{path}: the signature of {name} ({key.hex}) is wrong: it was changed, or never made")
    return next(iter(signers))


def read_signatures(path: Path) -> Signatures | None:
    """Read a file with signatures, none of which is checked; None if there is no such file.

    Raises:
        SignatureError: It is something else.
        StoreError: It cannot be read.
    """
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
    try:
        return _parse(data, path)
    except ManifestError as error:
        problems = "; ".join(map(str, error.problems))
        raise SignatureError(
            f"{path}: expected signatures; got {len(data)} bytes that are none ({problems})"
        ) from error


def renew_signatures(path: Path, data: bytes, *, partial_in: Path) -> None:
    """Take over what a hub has in place of a file with signatures now; those of others over the same stay in it.

    What is none is not taken over, and nothing is checked here.

    Raises:
        StoreError: The file system refuses.
    """
    try:
        found = _read_bytes(data, str(path))
    except SignatureError as error:
        log.warning("not taken from the hub: %s", error)
        return
    try:
        here = read_signatures(path)
    except SignatureError as error:
        log.warning("replaced by what the hub has: %s", error)
        here = None
    if here is not None and (here.what, here.subject) == (found.what, found.subject):
        merged = Signatures(found.what, found.subject, {**here.signatures, **found.signatures}).to_json()
        if merged == here.to_json():
            return
        data = merged if len(merged) <= MAX_SIGNATURES_SIZE else data
    _write(path, data, partial_in)


def read_description(folder: Path) -> bytes:
    """Return the bytes of a folder's `artifact.json`.

    Raises:
        StoreError: It cannot be read.
    """
    path = folder / ARTIFACT_FILE
    with store_errors(f"read {path}"), path.open("rb") as file:
        return file.read(MAX_ARTIFACT_SIZE + 1)  # one more than whoever parses it takes


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
    # Not beside it: an artifact's folder holds nothing that its description does not know, at no time.
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


def _parse(data: bytes, source: str) -> Signatures:
    problems = strict_json.Problems(source)
    reader = ValueReader(problems)
    document = strict_json.load(data, problems)
    got = reader.members(document, "", "format_version", "what", "subject", "signatures")
    reader.choice(got["format_version"], "format_version", (FORMAT_VERSION,))
    entries = reader.array(got["signatures"], "signatures", lambda value, where: _entry(reader, value, where))
    signatures = dict(entries)
    if len(signatures) < len(entries):
        problems.add("signatures", "expected one signature a key, got several")
    found = Signatures(
        what=reader.choice(got["what"], "what", _WHATS),
        subject=reader.digest(got["subject"], "subject"),
        signatures=signatures,
    )
    problems.raise_if_any()
    return found


def _entry(reader: ValueReader, value: Any, where: str) -> tuple[str, str]:
    got = reader.members(value, where, "algorithm", "key", "signature")
    reader.choice(got["algorithm"], f"{where}.algorithm", (ALGORITHM,))
    found = []
    for name, pattern in (("key", _KEY), ("signature", _SIGNATURE)):
        text = reader.text(got[name], f"{where}.{name}")
        if text and not pattern.fullmatch(text):
            reader.expected("lowercase hex digits, 64 for a key and 128 for a signature", text, f"{where}.{name}")
        found.append(text)
    return found[0], found[1]
