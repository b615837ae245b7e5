from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, BLOB_FILE
from npu_persist.artifact.attached import verify_attached
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE
from npu_persist.errors import ArtifactError, MissingExtraError, SignatureError, StoreError
from npu_persist.store import Store
from npu_persist.trust import signing
from npu_persist.trust.keys import Place
from npu_persist.trust.signing import (
    MAX_SIGNATURES_SIZE,
    KeySignature,
    Signatures,
    check_bundle,
    check_manifest,
    check_signature,
    read_signatures,
    sign_bundle,
)
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.loads import spoil
from tests.support.signers import WHEN, make_signatures, private_key, public_key, pulled

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.trust.keys import PublicKey

SUBJECT = "blake3:" + "ab" * 32
NAMES = ("format_version", "what", "subject", "signatures")
KNOWN = {"ada": public_key("ada")}
NO_SIGNATURE = KeySignature(WHEN, "00" * 64)
ENTRY = {"algorithm": "ed25519", "key": "ab" * 32, "signed_at": WHEN, "signature": "cd" * 64}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return publish_tiny(Store(tmp_path / "home"))


def attach(bundle: Bundle, **changes: Any) -> Path:
    return attach_npu(bundle, b"a blob", **changes)


def sign(bundle: Bundle, name: str = "ada") -> list[Path]:
    return list(sign_bundle(bundle, private_key(name)))


def check(bundle: Bundle, keys: dict[str, PublicKey] | None = None) -> list[str]:
    return [signed.signer for signed in check_bundle(bundle, KNOWN if keys is None else keys)]


def test_signing_covers_the_manifest_and_what_is_attached(bundle: Bundle) -> None:
    folders = [attach(bundle), attach(bundle, properties={"NPU_TURBO": "YES"})]
    written = sign(bundle)
    assert set(written) == {
        bundle.path / MANIFEST_SIGNATURE_FILE,
        *(folder / ARTIFACT_SIGNATURE_FILE for folder in folders),
    }
    assert check(bundle) == ["ada"] * 3


def test_a_signed_bundle_is_the_same_bundle_and_sound(bundle: Bundle) -> None:
    attach(bundle)
    sign(bundle)
    again = Bundle.open(bundle.path)
    assert again.digest == bundle.digest
    again.verify()
    verify_attached(again)
    assert not list(bundle.path.rglob("*.partial"))


def test_signing_again_is_a_signature_of_now_and_others_stay(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(["2026-11-21T07:40:04Z", "2026-11-21T07:40:05Z", "2026-11-20T00:00:00Z"])
    monkeypatch.setattr(signing, "_now", lambda: next(times))
    sign(bundle, "bob")
    sign(bundle)
    assert [check_manifest(bundle, KNOWN).signed_at] == ["2026-11-21T07:40:05Z"]
    sign(bundle)
    assert [check_manifest(bundle, KNOWN).signed_at] == ["2026-11-20T00:00:00Z"]
    assert check(bundle) == ["ada"]
    assert check(bundle, {"bob": public_key("bob")}) == ["bob"]
    both = {**KNOWN, "bob": public_key("bob")}
    assert check_manifest(bundle, both) == (
        bundle.path / MANIFEST_SIGNATURE_FILE,
        "bob",
        "2026-11-21T07:40:04Z",
    )  # the latest


def test_the_time_is_signed(bundle: Bundle) -> None:
    (path,) = sign(bundle)
    found = check_manifest(bundle, KNOWN)
    path.write_text(path.read_text().replace(found.signed_at, "2099-01-01T00:00:00Z"))
    with pytest.raises(SignatureError, match=r"the signature of ada .* is not valid"):
        check(bundle)


def test_what_was_signed_before_a_change_is_signed_anew(bundle: Bundle) -> None:
    sign(bundle, "bob")
    (bundle.path / MANIFEST_SIGNATURE_FILE).rename(bundle.path / "old")
    other = make_signatures("manifest", SUBJECT, wrong={"bob": "00" * 64})
    (bundle.path / MANIFEST_SIGNATURE_FILE).write_bytes(other.to_json())
    sign(bundle)
    found = read_signatures(bundle.path / MANIFEST_SIGNATURE_FILE)
    assert found is not None
    assert list(found.signatures) == [public_key("ada").hex]


def test_nothing_is_signed_by_nobody(bundle: Bundle) -> None:
    with pytest.raises(SignatureError, match="it is not signed"):
        check(bundle)
    sign(bundle)
    with pytest.raises(SignatureError, match=r"a known key \(there is none\); got [0-9a-f]{64}"):
        check(bundle, {})
    with pytest.raises(SignatureError, match=r"a known key \(bob\)"):
        check(bundle, {"bob": public_key("bob")})


def test_every_flipped_bit_of_a_signature_counts(bundle: Bundle) -> None:
    (path,) = sign(bundle)
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(SignatureError):
            check(bundle)
    path.write_bytes(data)
    assert check(bundle) == ["ada"]


def test_every_flipped_bit_of_a_description_counts(bundle: Bundle) -> None:
    folder = attach(bundle)
    sign(bundle)
    path = folder / ARTIFACT_FILE
    data = path.read_bytes()
    path.chmod(0o644)
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises((SignatureError, ArtifactError)):
            check(bundle)
    path.write_bytes(data)
    assert check(bundle) == ["ada", "ada"]


def test_a_changed_blob_is_what_its_description_is_for(bundle: Bundle) -> None:
    folder = attach(bundle)
    sign(bundle)
    spoil(folder / BLOB_FILE)
    assert check(bundle) == ["ada", "ada"]
    with pytest.raises(ArtifactError):
        verify_attached(bundle)


def test_a_signature_of_another_artifact_or_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    first, second = attach(bundle), attach(bundle, properties={"NPU_TURBO": "YES"})
    sign(bundle)
    shutil.copyfile(first / ARTIFACT_SIGNATURE_FILE, second / ARTIFACT_SIGNATURE_FILE)
    with pytest.raises(SignatureError, match="expected a signature over the artifact"):
        check(bundle)
    other = publish_tiny(Store(tmp_path / "other"), weights=b"\1" * 5000)
    shutil.copyfile(bundle.path / MANIFEST_SIGNATURE_FILE, other.path / MANIFEST_SIGNATURE_FILE)
    with pytest.raises(SignatureError, match="expected a signature over the manifest"):
        check_manifest(other, KNOWN)


@pytest.mark.parametrize("changes", [{"what": "artifact"}, {"subject": "blake3:" + "00" * 32}])
def test_a_signature_holds_for_what_and_for_which(changes: dict[str, Any], bundle: Bundle) -> None:
    """Somebody writes what is asked for into the file; the signature was over something else."""
    (path,) = sign(bundle)
    document = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps(document))
    with pytest.raises(SignatureError, match=r"the signature of ada .* is not valid"):
        check_signature(path, document["what"], document["subject"], KNOWN, Place("tiny", None))


def test_a_signature_of_one_key_is_none_of_another(bundle: Bundle) -> None:
    (path,) = sign(bundle, "mallory")
    path.write_text(path.read_text().replace(public_key("mallory").hex, public_key("ada").hex))
    with pytest.raises(SignatureError, match=r"the signature of ada .* is not valid"):
        check(bundle)


def test_a_wrong_signature_of_a_known_key_vetoes_no_valid_one(bundle: Bundle) -> None:
    (path,) = sign(bundle)
    found = read_signatures(path)
    assert found is not None
    path.write_bytes(make_signatures(found.what, found.subject, "ada", wrong={"bob": "00" * 64}).to_json())
    assert check(bundle) == ["ada"]
    assert check(bundle, {"bob": public_key("bob"), **KNOWN}) == ["ada"]
    with pytest.raises(SignatureError, match="the signature of bob"):
        check(bundle, {"bob": public_key("bob")})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format_version": "2.0"}, "format_version"),
        ({"what": "weights"}, "what: expected a known value, got 'weights'"),
        ({"subject": "sha256:00"}, "subject: expected a digest"),
        ({"signatures": {}}, "signatures: expected an array"),
        ({"signatures": [7]}, r"signatures\[0\]: expected an object"),
        ({"signatures": [ENTRY | {"algorithm": "rsa"}]}, "algorithm"),
        ({"signatures": [ENTRY | {"key": "AB" * 32}]}, r"key: expected text matching"),
        ({"signatures": [ENTRY | {"signature": "cd" * 63}]}, r"signature: expected text matching"),
        ({"signatures": [ENTRY | {"signed_at": "2026-11-21T07:40:04+01:00"}]}, r"signed_at: expected text matching"),
        ({"signatures": [ENTRY | {"signed_at": "2026-11-21T07:40:04Z\n"}]}, r"signed_at: expected text matching"),
        ({"signatures": [{name: ENTRY[name] for name in ENTRY if name != "signed_at"}]}, "signed_at"),
        ({"signatures": [ENTRY] * 2}, "several"),
        ({"certificate": "x"}, "certificate: unknown"),
    ],
)
def test_a_malformed_file_is_an_error(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = tmp_path / MANIFEST_SIGNATURE_FILE
    path.write_text(json.dumps(json.loads(Signatures("manifest", SUBJECT, {}).to_json()) | changes))
    with pytest.raises(SignatureError, match=problem):
        read_signatures(path)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 1000, b" " * (MAX_SIGNATURES_SIZE + 1)])
def test_what_holds_no_signatures_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "sig").write_bytes(data)
    with pytest.raises(SignatureError):
        read_signatures(tmp_path / "sig")


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([SUBJECT, "manifest", "1.0"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner),
    max_leaves=10,
) | st.fixed_dictionaries({name: st.sampled_from([[], {}, [{}], "1.0", "manifest", SUBJECT, 7]) for name in NAMES})


@given(document=DOCUMENTS)
def test_any_document_is_signatures_or_an_error(document: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.sig"
    path.write_text(json.dumps(document))
    with suppress(SignatureError):
        assert isinstance(read_signatures(path), Signatures)


def test_a_link_or_folder_in_its_place_is_an_error(bundle: Bundle) -> None:
    (path,) = sign(bundle)
    path.rename(bundle.path / "elsewhere")
    path.symlink_to("elsewhere")
    with pytest.raises(SignatureError, match="a regular file"):
        check(bundle)
    path.unlink()
    path.mkdir()
    with pytest.raises(SignatureError, match="a regular file"):
        sign(bundle)


def test_the_file_takes_no_more_signers_than_it_can_hold(bundle: Bundle) -> None:
    many = {f"{number:064x}": NO_SIGNATURE for number in range(MAX_SIGNATURES_SIZE // 300)}
    while len(Signatures("manifest", bundle.digest, many).to_json()) < MAX_SIGNATURES_SIZE - 300:
        many[f"{len(many):064x}"] = NO_SIGNATURE
    while len(data := Signatures("manifest", bundle.digest, many).to_json()) > MAX_SIGNATURES_SIZE:
        many.popitem()
    path = bundle.path / MANIFEST_SIGNATURE_FILE
    path.write_bytes(data)
    with pytest.raises(SignatureError, match="no room for another"):
        sign(bundle)
    assert path.read_bytes() == data


def test_foreign_and_damaged_artifacts_are_not_signed(bundle: Bundle) -> None:
    folder = attach(bundle, folder="npu-4000", subject=SUBJECT)
    with pytest.raises(ArtifactError, match="expected an artifact compiled from"):
        sign(bundle)
    (folder / ARTIFACT_FILE).write_bytes(b"{}")
    with pytest.raises(ArtifactError):
        sign(bundle)
    assert not (bundle.path / MANIFEST_SIGNATURE_FILE).exists()


def test_what_was_compiled_here_after_a_pull_needs_no_signature(bundle: Bundle) -> None:
    folder = attach(bundle)
    sign(bundle)
    attach(bundle, properties={"NPU_TURBO": "YES"})
    with pytest.raises(SignatureError, match="it is not signed"):
        check(bundle)
    pulled(bundle.path, folder)
    assert check(bundle) == ["ada", "ada"]


def test_a_full_disk_is_a_store_error_and_the_old_file_stays(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = sign(bundle)
    data = path.read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(StoreError, match="No space left"):
        sign(bundle, "bob")
    assert path.read_bytes() == data
    assert not list(bundle.path.rglob("*.partial"))


def test_without_the_package_only_a_known_key_s_signature_is_out_of_reach(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(bundle)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(SignatureError, match="a known key"):
        check(bundle, {})
    with pytest.raises(MissingExtraError, match=r"npu_persist\[sign\]"):
        check(bundle)
