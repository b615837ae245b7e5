"""A bundle that is refused becomes the newest version of its name, which the next `load("tiny")` takes.

Before: `load("hf://org/tiny", require_signature=True)` pulled and published, and then refused. `pull` could not require
a signature at all, and with `--alias prod` moved the alias. Now: what is not signed, or not the bundle that was asked
for, is refused before anything of it is published, and before more than its manifest is downloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from npu_persist import load, sign
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE
from npu_persist.cli.main import main
from npu_persist.errors import FileIntegrityError, IntegrityError, InvalidNameError, SignatureError
from npu_persist.hub.pull import pull
from npu_persist.store import Store
from tests.support.bundles import publish_tiny
from tests.support.pulls import REPO, all_files, asked, change_manifest, digest_of, put_folder, put_tiny
from tests.support.signers import know, make_signatures, write_private_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_server import HubServer

HOSTILE = b"<net name='hostile'/>\n"
ANOTHERS = make_signatures("manifest", f"blake3:{'0' * 64}", "ada").to_json()


@pytest.fixture
def store(hub: HubServer, tmp_path: Path) -> Store:
    """A store with a version that ada signed, pulled, with the alias prod; the hub has a hostile one now."""
    made = publish_tiny(Store(tmp_path / "maker"))
    sign(made.path, write_private_key(tmp_path, "ada"))
    put_folder(hub, made.path, tag="v1")
    store = Store(tmp_path / "home")
    know(store.home, "ada")
    pull(f"{REPO}@v1", alias="prod", require_signature=True, store=store)
    put_tiny(hub, tmp_path / "hostile", model=HOSTILE)
    hub.forget()
    return store


def is_as_before(store: Store, before: dict[str, bytes]) -> bool:
    (found,) = store.list("tiny")
    return all_files(store) == before and (found.reference, found.aliases) == ("tiny:1", ("prod",))


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        b"garbage",
        b"",
        ANOTHERS,
        "mallory",
        "ada",  # her name, and no signature of hers
    ],
)
def test_what_no_known_key_signed(hub: HubServer, store: Store, signatures: bytes | str | None) -> None:
    if isinstance(signatures, str):
        wrong = {signatures: "00" * 64}
        signatures = make_signatures("manifest", f"blake3:{digest_of(hub)}", wrong=wrong).to_json()
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: signatures})
    before = all_files(store)
    with pytest.raises(SignatureError, match=r"manifest\.json\.sig"):
        load(f"hf://{REPO}", require_signature=True, store=store)
    assert is_as_before(store, before)
    with pytest.raises(SignatureError):
        pull(REPO, alias="prod", require_signature=True, store=store)
    assert main(["pull", REPO, "--alias", "prod", "--require-signature", "--store", str(store.home)]) == 4
    assert is_as_before(store, before)
    assert not asked(hub, "weights") + asked(hub, "model.xml")


def test_signatures_that_change_between_check_and_use(hub: HubServer, store: Store, tmp_path: Path) -> None:
    made = publish_tiny(Store(tmp_path / "other"), model=b"<net name='next'/>\n")
    sign(made.path, write_private_key(tmp_path, "ada"))
    put_folder(hub, made.path)
    hub.forget()
    pulled = pull(REPO, require_signature=True, store=store)
    assert len(asked(hub, MANIFEST_SIGNATURE_FILE)) == 1
    assert (pulled.path / MANIFEST_SIGNATURE_FILE).read_bytes() == (made.path / MANIFEST_SIGNATURE_FILE).read_bytes()


@pytest.mark.parametrize(
    ("changes", "reference", "error"),
    [
        ({}, f"hf://{REPO}#{'0' * 64}", FileIntegrityError),  # not what was pinned
        ({"name": "TINY"}, REPO, InvalidNameError),
        ({"name": "../tiny"}, REPO, IntegrityError),
        ({"format_version": "9.0"}, REPO, Exception),
    ],
)
def test_what_is_not_what_was_asked_for(
    hub: HubServer, store: Store, changes: dict[str, Any], reference: str, error: type[Exception]
) -> None:
    if changes:
        change_manifest(hub, **changes)
    before = all_files(store)
    with pytest.raises(error):
        pull(reference, alias="prod", store=store)
    assert is_as_before(store, before)


def test_a_byte_that_is_not_the_manifest_s(hub: HubServer, store: Store) -> None:
    hub.fail("GET .*/resolve/.*model.xml", corrupt=True, times=9)
    before = all_files(store)
    with pytest.raises(FileIntegrityError):
        pull(REPO, alias="prod", allow_older=True, store=store)
    assert is_as_before(store, before)


def test_what_was_pulled_before_is_judged_too(hub: HubServer, store: Store) -> None:
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: None})
    pull(REPO, allow_older=True, store=store)
    for local_files_only in (False, True):
        with pytest.raises(SignatureError):
            pull(REPO, alias="prod", require_signature=True, local_files_only=local_files_only, store=store)
    assert store.aliases("tiny") == {"prod": 1}


def test_what_is_signed_after_it_was_pulled_is_accepted_then(hub: HubServer, store: Store, tmp_path: Path) -> None:
    """By commit too, where the hub is asked for nothing that is here."""
    made = publish_tiny(Store(tmp_path / "other"), model=b"<net name='next'/>\n")
    sign(made.path, write_private_key(tmp_path, "ada"))
    commit = put_folder(hub, made.path)
    pulled = pull(f"{REPO}@{commit}", store=store)
    (pulled.path / MANIFEST_SIGNATURE_FILE).unlink()
    assert pull(f"{REPO}@{commit}", require_signature=True, store=store).reference == pulled.reference
    hub.forget()
    assert pull(f"{REPO}@{commit}", require_signature=True, store=store).reference == pulled.reference
    assert asked(hub) == []
