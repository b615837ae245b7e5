from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist.artifact.artifact import ARTIFACT_FILE, read_artifact
from npu_persist.bundle.manifest import ORIGIN_FILE
from npu_persist.errors import FileIntegrityError, MissingExtraError, SignatureError, UsageError
from npu_persist.trust.policy import Decision, Policy
from npu_persist.trust.signing import sign_bundle
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.signers import know, private_key, pulled

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

OWN = Decision(is_trusted=True, reason="")


@pytest.fixture
def bundle(store: Store) -> Bundle:
    return publish_tiny(store)


@pytest.fixture
def folder(bundle: Bundle) -> Path:
    """A pulled artifact of a pulled bundle."""
    folder = attach_npu(bundle, b"a blob")
    pulled(bundle.path, folder)
    return folder


def decide(folder: Path, store: Store, trust: Any = None) -> Decision:
    return Policy(trust, store.home).decide(folder, read_artifact(folder), "tiny")


def test_this_machine_s_own_is_trusted_in_a_pulled_bundle_too(bundle: Bundle, store: Store) -> None:
    pulled(bundle.path)
    assert decide(attach_npu(bundle, b"a blob"), store) == OWN


def test_a_pulled_one_is_not_and_the_reason_says_how(folder: Path, store: Store) -> None:
    decision = decide(folder, store)
    assert not decision.is_trusted
    for part in ("pulled from org/unet", "it is not signed", "trust='org/unet'", "--trust org/unet", "keys add"):
        assert part in decision.reason


@pytest.mark.parametrize("trust", [True, "org/unet", "org/*", ["other/a", "org/un*"], ("*/unet",)])
def test_the_caller_may_trust_it(folder: Path, store: Store, trust: Any) -> None:
    decision = decide(folder, store, trust)
    assert decision.is_trusted
    assert "It was pulled from org/unet, and trust=" in decision.reason


@pytest.mark.parametrize("trust", [None, False, (), "org/unet2", "Org/unet", "org/une", "other/*", ["unet/org"]])
def test_what_the_caller_says_of_others_is_not_enough(folder: Path, store: Store, trust: Any) -> None:
    assert not decide(folder, store, trust).is_trusted


@pytest.mark.parametrize(
    "trust", ["", "*", "unet", "org/", "/unet", "a/b/c", 1, [True], {"org/unet"}, ["org/unet", ""]]
)
def test_what_names_no_repository_is_a_usage_error(store: Store, trust: Any) -> None:
    with pytest.raises(UsageError, match="trust: expected True, or repositories"):
        Policy(trust, store.home)


def test_a_signature_of_a_known_key_is_enough(bundle: Bundle, folder: Path, store: Store) -> None:
    list(sign_bundle(bundle, private_key("ada")))
    assert "by a known key (there is none)" in decide(folder, store).reason
    know(store.home, "bob")
    assert "by a known key (bob)" in decide(folder, store).reason
    know(store.home, "ada")
    assert decide(folder, store) == Decision(
        is_trusted=True, reason="It was pulled from org/unet, and is signed by ada."
    )


def test_the_signature_is_over_what_was_read(bundle: Bundle, folder: Path, store: Store) -> None:
    know(store.home, "ada")
    list(sign_bundle(bundle, private_key("ada")))
    swapped = replace(read_artifact(folder), seconds=1.0)
    decision = Policy(None, store.home).decide(folder, swapped, "tiny")
    assert not decision.is_trusted
    assert "it changed while it was being read" in decision.reason


def test_an_origin_that_cannot_be_read_is_no_reason_to_trust(folder: Path, store: Store) -> None:
    (folder / ORIGIN_FILE).write_text("{}")
    for trust in (None, True, "org/unet"):
        decision = decide(folder, store, trust)
        assert not decision.is_trusted
        assert "Its origin cannot be read" in decision.reason
    (folder / ORIGIN_FILE).unlink()
    (folder / ORIGIN_FILE).symlink_to("nowhere")
    assert not decide(folder, store, trust=True).is_trusted


def test_a_key_that_is_none_is_no_reason_to_trust(bundle: Bundle, folder: Path, store: Store) -> None:
    know(store.home, "ada")
    list(sign_bundle(bundle, private_key("ada")))
    (store.home / "keys" / "bob.pem").write_text("")
    assert "bob.pem: expected" in decide(folder, store).reason
    with pytest.raises(FileIntegrityError, match=r"bob\.pem"):
        Policy(None, store.home).require_signature(bundle)


def test_without_the_package_no_signature_counts(
    bundle: Bundle, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(store.home, "ada")
    list(sign_bundle(bundle, private_key("ada")))
    monkeypatch.setitem(sys.modules, "cryptography", None)
    decision = decide(folder, store)
    assert not decision.is_trusted
    assert "npu_persist[sign]" in decision.reason
    with pytest.raises(MissingExtraError):
        Policy(None, store.home).require_signature(bundle)
    assert decide(folder, store, "org/unet").is_trusted


def test_a_missing_description_is_no_reason_to_trust(folder: Path, store: Store) -> None:
    artifact = read_artifact(folder)
    (folder / ARTIFACT_FILE).unlink()
    decision = Policy(None, store.home).decide(folder, artifact, "tiny")
    assert not decision.is_trusted
    assert "could not read" in decision.reason


def test_a_manifest_s_signature_can_be_required(bundle: Bundle, store: Store) -> None:
    policy = Policy(None, store.home)
    with pytest.raises(SignatureError, match="it is not signed"):
        policy.require_signature(bundle)
    list(sign_bundle(bundle, private_key("ada")))
    with pytest.raises(SignatureError, match="a known key"):
        policy.require_signature(bundle)
    know(store.home, "ada")
    assert policy.require_signature(bundle) == "ada"
