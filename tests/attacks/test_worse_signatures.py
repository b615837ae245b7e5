"""A hub replaces good signatures by worse ones, or puts one beside them that spoils them.

Before: signatures of something else and wrong ones of the same key replaced what was here; one wrong signature of a
known key vetoed a valid one of another; and another repository's artifact for the same purpose displaced the one that
a known key had signed. Now: only what is valid for these bytes is kept or replaces anything, one
valid signature is enough, and what a known key signed gives way only to what a known key signed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist import load, sign, verify_signature
from npu_persist.artifact.artifact import ARTIFACT_SIGNATURE_FILE, read_artifact, read_description
from npu_persist.artifact.attached import list_attached
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE
from npu_persist.bundle.reference import HubReference
from npu_persist.errors import SignatureError
from npu_persist.files.digest import digest_bytes
from npu_persist.hub.pull import fetch, pull
from npu_persist.store import Store
from npu_persist.trust import signing
from npu_persist.trust.keys import public_key_of
from npu_persist.trust.policy import Policy
from npu_persist.trust.signing import (
    MAX_CHECKED,
    MAX_KEPT,
    MAX_SIGNATURES_SIZE,
    Signatures,
    make_signature,
    read_signatures,
)
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.pulls import REPO, asked, make_fixed, put_folder, put_tiny
from tests.support.signers import WHEN, know, make_signatures, public_key, write_private_key

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from tests.support.hub_server import HubServer

EVIL = "evil/tiny"
ARTIFACT = f"compiled/npu-4000/{ARTIFACT_SIGNATURE_FILE}"
OTHER = f"blake3:{'0' * 64}"


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    """A bundle with an artifact, both signed by ada, as its maker has it."""
    bundle = publish_tiny(Store(tmp_path / "maker"))
    attach_npu(bundle, inputs=make_fixed(bundle))
    sign(bundle.path, write_private_key(tmp_path, "ada"))
    return bundle


@pytest.fixture
def store(hub: HubServer, made: Bundle, tmp_path: Path) -> Store:
    """A store that knows ada, and has pulled it."""
    put_folder(hub, made.path)
    store = Store(tmp_path / "home")
    know(store.home, "ada")
    pull(REPO, target="NPU:4000", store=store)
    hub.forget()
    return store


def sign_as(what: signing.What, subject: str, *names: str, **wrong: str) -> bytes:
    """Return a signature file of these signers; `wrong` are signatures in hex by signer."""
    return make_signatures(what, subject, *names, wrong=wrong).to_json()


def make_worse(what: signing.What, subject: str) -> dict[str, bytes | None]:
    return {
        "nothing": None,
        "garbage": b"garbage",
        "depth": b"[" * 60_000,
        "size": b" " * (MAX_SIGNATURES_SIZE + 1),
        "of another": sign_as(what, OTHER, "ada"),
        "of another kind": sign_as("artifact" if what == "manifest" else "manifest", subject, "ada"),
        "wrong": sign_as(what, subject, ada="00" * 64),
        "no key's": sign_as(what, subject, nobody="ff" * 64),
        "of somebody else": sign_as(what, subject, "mallory"),
    }


@pytest.mark.parametrize("kind", make_worse("manifest", OTHER))
def test_good_ones_stay(hub: HubServer, made: Bundle, store: Store, kind: str) -> None:
    here = store.resolve("tiny")
    (folder,) = (folder for folder, _ in list_attached(here))
    description = digest_bytes(read_description(folder))
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: make_worse("manifest", made.digest)[kind]})
    hub.put(REPO, {ARTIFACT: make_worse("artifact", description)[kind]})
    pull(REPO, compiled="all", store=store)
    fetch(HubReference(REPO), ["NPU:4000"], store, require_signature=True)
    assert {signed.signer for signed in verify_signature("tiny", store=store)} == {"ada"}
    known = {public_key("ada").hex}
    for path in (here.path / MANIFEST_SIGNATURE_FILE, folder / ARTIFACT_SIGNATURE_FILE):
        found = read_signatures(path)
        assert found is not None
        expected = known | ({public_key("mallory").hex} if kind == "of somebody else" else set())
        assert set(found.signatures) == expected


@pytest.mark.parametrize("kind", [kind for kind in make_worse("manifest", OTHER) if kind != "of somebody else"])
def test_bad_ones_are_not_kept(hub: HubServer, made: Bundle, tmp_path: Path, kind: str) -> None:
    put_folder(hub, made.path)
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: make_worse("manifest", made.digest)[kind]})
    store = Store(tmp_path / "other")
    know(store.home, "ada")
    bundle = pull(REPO, compiled="none", store=store)
    assert not (bundle.path / MANIFEST_SIGNATURE_FILE).exists()


def test_a_wrong_one_beside_a_valid_one(hub: HubServer, made: Bundle, tmp_path: Path) -> None:
    """Of a known key, of the signer's file of another bundle, of a key that is not known."""
    put_folder(hub, made.path)
    wrong = {"bob": "00" * 64, "nobody": "ff" * 64}
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: sign_as("manifest", made.digest, "ada", **wrong)})
    store = Store(tmp_path / "other")
    know(store.home, "bob", "ada")
    bundle = pull(REPO, require_signature=True, compiled="none", store=store)
    found = read_signatures(bundle.path / MANIFEST_SIGNATURE_FILE)
    assert found is not None
    assert list(found.signatures) == [public_key("ada").hex]


def test_what_was_spoilt_here_is_mended_by_the_next_pull(hub: HubServer, made: Bundle, store: Store) -> None:
    path = store.resolve("tiny").path / MANIFEST_SIGNATURE_FILE
    for spoilt in (b"garbage", sign_as("manifest", made.digest, ada="00" * 64), sign_as("manifest", OTHER, "ada")):
        path.write_bytes(spoilt)
        hub.put(REPO, {"README.md": spoilt})  # another commit
        pull(REPO, require_signature=True, store=store)
        assert path.read_bytes() == (made.path / MANIFEST_SIGNATURE_FILE).read_bytes()


def test_a_file_full_of_signatures_costs_little(
    hub: HubServer, made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of them are not looked at, but the one of the known key is, wherever it is in the file."""
    put_folder(hub, made.path)
    many = {f"{number:064x}": "00" * 64 for number in range(150)}
    known = public_key("ada").hex
    full = make_signatures("manifest", made.digest, "ada", wrong=many).to_json()
    assert len(full) < MAX_SIGNATURES_SIZE
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: full})
    store = Store(tmp_path / "other")
    know(store.home, "ada")
    checked: list[str] = []
    is_valid = signing._is_valid

    def count(what: Any, subject: str, key: Any, found: Any) -> bool:
        checked.append(key.hex)
        return is_valid(what, subject, key, found)

    monkeypatch.setattr(signing, "_is_valid", count)
    bundle = pull(REPO, compiled="none", store=store)
    assert len(checked) == MAX_CHECKED
    found = read_signatures(bundle.path / MANIFEST_SIGNATURE_FILE)
    assert found is not None
    assert list(found.signatures) == [known]


def test_signatures_without_end(hub: HubServer, made: Bundle, store: Store) -> None:
    """Each pull brings those of other keys: the file grows no further, and what was here stays."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = store.resolve("tiny").path / MANIFEST_SIGNATURE_FILE
    for _ in range(MAX_KEPT // MAX_CHECKED + 2):
        keys = [Ed25519PrivateKey.generate() for _ in range(MAX_CHECKED)]
        many = {public_key_of(key).hex: make_signature("manifest", made.digest, key, WHEN) for key in keys}
        hub.put(REPO, {MANIFEST_SIGNATURE_FILE: Signatures("manifest", made.digest, many).to_json()})
        pull(REPO, require_signature=True, store=store)
    found = read_signatures(path)
    assert found is not None
    assert len(found.signatures) == MAX_KEPT
    assert public_key("ada").hex in found.signatures
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: sign_as("manifest", made.digest, "bob")})
    know(store.home, "bob")
    pull(REPO, store=store)
    found = read_signatures(path)
    assert found is not None
    assert {public_key("ada").hex, public_key("bob").hex} <= set(found.signatures)


@pytest.mark.parametrize("what", ["garbage", "no cryptography"])
def test_useless_ones_are_not_asked_for_at_every_load(
    hub: HubServer, made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    commit = put_folder(hub, made.path)
    if what == "garbage":
        commit = hub.put(REPO, {MANIFEST_SIGNATURE_FILE: b"garbage", ARTIFACT: b"garbage"})
    store = Store(tmp_path / "other")
    with monkeypatch.context() as patch:
        if what == "no cryptography":
            patch.setitem(sys.modules, "cryptography", None)
        bundle = fetch(HubReference(REPO, commit), ["NPU:4000"], store)
        assert not (bundle.path / MANIFEST_SIGNATURE_FILE).exists()
        hub.forget()
        assert fetch(HubReference(REPO, commit), ["NPU:4000"], store).reference == bundle.reference
        assert asked(hub) == []
    if what == "no cryptography":  # it was installed since
        know(store.home, "ada")
        pull(REPO, revision=commit, target="NPU:4000", store=store)
        assert [signed.signer for signed in verify_signature("tiny", store=store)] == ["ada", "ada"]


def offer(hub: HubServer, folder: Path, repo: str, *signers: str, seconds: float = 9.0) -> None:
    """Put the same bundle on the hub with another artifact for the same purpose."""
    bundle = publish_tiny(Store(folder))
    attach_npu(bundle, b"another blob", inputs=make_fixed(bundle), seconds=seconds)
    for name in signers:
        sign(bundle.path, write_private_key(folder, name))
    put_folder(hub, bundle.path, repo=repo)


def find_attached(store: Store) -> tuple[Path, float | None]:
    ((folder, artifact),) = list_attached(store.resolve("tiny"))
    return folder, getattr(artifact, "seconds", None)


@pytest.mark.parametrize("repo", [REPO, EVIL])
@pytest.mark.parametrize("signers", [(), ("mallory",)])
def test_a_trusted_artifact_is_not_displaced(
    hub: HubServer, store: Store, tmp_path: Path, repo: str, signers: tuple[str, ...]
) -> None:
    before = find_attached(store)
    offer(hub, tmp_path / "evil", repo, *signers)
    plan = pull(repo, target="NPU:4000", dry_run=True, store=store)
    assert "which a known key signed, is kept" in plan.skipped[0].reason
    assert pull(repo, target="NPU:4000", store=store).reference == "tiny:1"
    assert find_attached(store) == before
    folder = before[0]
    assert Policy(None, store.home).decide(folder, read_artifact(folder), "tiny").is_trusted


@pytest.mark.parametrize("repo", [REPO, EVIL])
def test_it_is_by_one_that_is_trusted_too(hub: HubServer, store: Store, tmp_path: Path, repo: str) -> None:
    offer(hub, tmp_path / "newer", repo, "ada")
    pull(repo, target="NPU:4000", store=store)
    folder, seconds = find_attached(store)
    assert seconds == 9.0
    assert Policy(None, store.home).decide(folder, read_artifact(folder), "tiny").is_trusted


def test_of_two_that_nobody_trusts_the_first_repository_s_is_kept(hub: HubServer, tmp_path: Path) -> None:
    """`trust="org/*"` may be what decides when it is loaded."""
    store = Store(tmp_path / "home")
    offer(hub, tmp_path / "first", REPO, seconds=1.0)
    pull(REPO, target="NPU:4000", store=store)
    offer(hub, tmp_path / "evil", EVIL)
    pull(EVIL, target="NPU:4000", store=store)
    assert find_attached(store)[1] == 1.0
    offer(hub, tmp_path / "second", REPO, seconds=2.0)
    pull(REPO, target="NPU:4000", store=store)
    assert find_attached(store)[1] == 2.0


def test_the_signature_of_the_bundle_before(hub: HubServer, store: Store, tmp_path: Path) -> None:
    put_tiny(hub, tmp_path / "next", model=b"<net name='next'/>\n")  # beside the signature of the one before
    with pytest.raises(SignatureError, match="over the manifest"):
        load(f"hf://{REPO}", require_signature=True, store=store)
    assert store.versions("tiny") == (1,)
