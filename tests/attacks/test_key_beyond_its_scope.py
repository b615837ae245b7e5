"""The owner of a known key, or its thief, signs bundles that the key was never meant for.

Before: a key that was added for the models of acme counted for every bundle of every repository. Now:
`keys add acme acme.pub --for "acme-*" --for-repo "acme/*"` gives it a scope, and beyond that it counts as unknown.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from npu_persist import load, sign, verify_signature
from npu_persist.artifact.artifact import read_artifact
from npu_persist.bundle.origin import write_origin
from npu_persist.cli.main import main
from npu_persist.errors import FileIntegrityError, InvalidNameError, SignatureError, UsageError
from npu_persist.hub.pull import pull
from npu_persist.store import Store
from npu_persist.trust.keys import KeyRing, Place, PublicKey, Scope
from npu_persist.trust.policy import Policy
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.pulls import REPO, put_folder
from tests.support.signers import ORIGIN, private_key, public_key, write_private_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_server import HubServer


def know_for(home: Path, name: str, *, names: tuple[str, ...] = (), repositories: tuple[str, ...] = ()) -> None:
    KeyRing(home).add(name, PublicKey(public_key(name).raw, Scope(names, repositories)))


def is_signed(home: Path, scope: dict[str, tuple[str, ...]], *, is_pulled: bool = True) -> bool:
    """Tell whether ada's signature counts for `tiny` of org/unet: for manifest and artifact, or for neither."""
    store = Store(home)
    bundle = publish_tiny(store)
    folder = attach_npu(bundle, b"a blob", name="acme-tiny")  # what it says itself does not count
    sign(bundle.path, write_private_key(home, "ada"))
    if is_pulled:
        for path in (bundle.path, folder):
            write_origin(path, ORIGIN)
    know_for(home, "ada", **scope)
    policy = Policy(None, home)
    decision, distrust = policy.decide(folder, read_artifact(folder), "tiny"), policy.find_distrust(bundle)
    place = Place("tiny", ORIGIN if is_pulled else None)
    if KeyRing(home).read()["ada"].scope.find_reason_against(place) is None:
        assert {signed.signer for signed in verify_signature("tiny", store=store)} == {"ada"}
        assert policy.require_signature(bundle) == "ada"
        assert decision.is_trusted
        assert distrust is None
        return True
    with pytest.raises(SignatureError, match="ada is known for"):
        verify_signature("tiny", store=store)
    with pytest.raises(SignatureError, match="ada is known for"):
        policy.require_signature(bundle)
    if is_pulled:
        assert not decision.is_trusted
        assert "ada is known for" in decision.reason
        assert "ada is known for" in str(distrust)
    return False


@pytest.mark.parametrize(
    "scope",
    [
        {"names": ("acme-*",)},
        {"names": ("Tiny", "tin")},
        {"repositories": ("acme/*",)},
        {"repositories": ("https://hub.example.com/org/*",)},
        {"names": ("tiny",), "repositories": ("acme/*",)},
        {"names": ("acme-*",), "repositories": ("org/*",)},
    ],
    ids=str,
)
def test_beyond_it(tmp_path: Path, scope: dict[str, tuple[str, ...]]) -> None:
    assert not is_signed(tmp_path, scope)


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"names": ("acme-*", "ti*")},
        {"repositories": ("acme/*", "org/unet")},
        {"names": ("tiny",), "repositories": ("https://huggingface.co/org/*",)},
    ],
    ids=str,
)
def test_within_it(tmp_path: Path, scope: dict[str, tuple[str, ...]]) -> None:
    assert is_signed(tmp_path, scope)


def test_what_was_not_pulled_is_from_no_repository(tmp_path: Path) -> None:
    assert not is_signed(tmp_path / "a", {"repositories": ("*/*",)}, is_pulled=False)
    assert is_signed(tmp_path / "b", {"names": ("tiny",)}, is_pulled=False)


def test_a_pull_by_another_name_or_from_elsewhere(hub: HubServer, tmp_path: Path) -> None:
    """The name is the one that was signed, not the one that it is given here."""
    made = publish_tiny(Store(tmp_path / "maker"))
    sign(made.path, write_private_key(tmp_path, "ada"))
    put_folder(hub, made.path)
    for number, scope in enumerate(({"names": ("acme-*",)}, {"repositories": ("org/*",)})):
        store = Store(tmp_path / f"home{number}")
        know_for(store.home, "ada", **scope)
        for name in (None, "acme-tiny"):
            with pytest.raises(SignatureError, match="ada is known for"):
                pull(REPO, name=name, require_signature=True, store=store)
        with pytest.raises(SignatureError, match="ada is known for"):
            load(f"hf://{REPO}", require_signature=True, store=store)
        assert store.names() == ()
    store = Store(tmp_path / "home")
    know_for(store.home, "ada", names=("tiny",), repositories=(f"{hub.url}/org/*",))
    assert pull(REPO, name="other", require_signature=True, store=store).reference == "other:1"


def test_one_that_counts_beside_one_that_does_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish_tiny(store)
    for signer in ("ada", "bob"):
        sign("tiny", write_private_key(tmp_path, signer), store=store)
    know_for(tmp_path, "ada", names=("acme-*",))
    know_for(tmp_path, "bob", names=("tiny",))
    assert [signed.signer for signed in verify_signature("tiny", store=store)] == ["bob"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path)]
    key = public_key("ada").hex
    scope = ["--for", "acme-*", "--for", "x", "--for-repo", "acme/*"]
    assert main(["keys", "add", "ada", key, *scope, *store]) == 0
    assert capsys.readouterr().out == f"ada is {key} (acme-*, x, acme/* only)\n"
    assert main(["keys", "add", "ada", key, *scope, *store]) == 0
    assert main(["keys", "list", "--json", *store]) == 0
    described = {"name": "ada", "key": key, "for": ["acme-*", "x"], "for_repo": ["acme/*"]}
    assert json.loads(capsys.readouterr().out.partition("\n")[2]) == [described]
    assert main(["keys", "list", *store]) == 0
    assert "acme-*, x, acme/*" in capsys.readouterr().out
    assert main(["keys", "add", "ada", key, *store]) == 2  # the same key for more is another one
    for wrong in (["--for", "a b"], ["--for", ""], ["--for-repo", "acme"], ["--for-repo", "acme/x\nfor: *"]):
        assert main(["keys", "add", "bob", key, *wrong, *store]) == 2
    assert list(KeyRing(tmp_path).read()) == ["ada"]


def test_the_file_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    know_for(tmp_path, "ada", names=("acme-*",), repositories=("acme/*", "https://hub.example.com/acme/*"))
    ring, path = KeyRing(tmp_path), tmp_path / "keys" / "ada.pem"
    scope = ring.read()["ada"].scope
    assert scope == Scope(("acme-*",), ("acme/*", "https://hub.example.com/acme/*"))
    with pytest.raises(InvalidNameError, match=r"acme-\*"):
        ring.add("ada", replace(public_key("ada")))
    text = path.read_text()
    for old, new in (("for: ", "For: "), ("for: ", "to: "), ("acme-*", "a b"), ("acme/*", "acme"), ("for: ", "for:")):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(FileIntegrityError, match=r"ada\.pem"):
            ring.read()


@pytest.mark.parametrize("pattern", ["acme/*\n", "acme /*", "acme/*\rfor: *", "acme/\x00"])
def test_a_pattern_that_is_another_line(pattern: str) -> None:
    with pytest.raises(UsageError, match="expected repositories"):
        Scope((), (pattern,))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed; Debian's and CI's have it")
def test_openssl_reads_it_too(tmp_path: Path) -> None:
    know_for(tmp_path, "ada", names=("acme-*",), repositories=("acme/*",))
    command = ["openssl", "pkey", "-pubin", "-in", str(tmp_path / "keys" / "ada.pem"), "-pubout"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == public_key("ada").to_pem()
    assert private_key("ada").public_key().public_bytes_raw() == public_key("ada").raw
