"""A hub, or who may write to it, moves a branch back to an older version that is signed as well, but has known faults.

Before: any signed bundle was as good as another; the older one was used again, or published as the newest. Now: a
signature says when it was made, and what was signed earlier than what is here from the same repository, or by no known
key, is refused, unless it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from npu_persist import load, sign
from npu_persist.artifact.attached import list_attached
from npu_persist.bundle.manifest import MANIFEST_SIGNATURE_FILE
from npu_persist.bundle.reference import HubReference
from npu_persist.cli.main import main
from npu_persist.errors import RollbackError
from npu_persist.hub.pull import fetch, pull
from npu_persist.store import Store
from npu_persist.trust import signing
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.pulls import REPO, all_files, digest_of, make_fixed, put_folder
from tests.support.signers import know, write_private_key

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from tests.support.hub_server import HubServer

TIMES = {1: "2026-01-01T00:00:00Z", 2: "2026-02-01T00:00:00Z", 3: "2026-03-01T00:00:00Z"}


class Maker:
    """Makes versions, signs them at their times, and puts them on the hub."""

    def __init__(self, hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self.folder, self.patch = hub, folder, monkeypatch
        self.made: dict[int, Bundle] = {}

    def sign(self, number: int, when: str, signer: str = "ada") -> None:
        with self.patch.context() as patch:
            patch.setattr(signing, "_now", lambda: when)
            sign(self.made[number].path, write_private_key(self.folder, signer))

    def put(self, number: int, *, tag: str | None = None, signed: bool = True) -> str:
        if number not in self.made:
            model = f"<net name='version {number}'/>\n".encode()
            self.made[number] = publish_tiny(Store(self.folder / f"maker{number}"), model=model)
            if signed:
                self.sign(number, TIMES[number])
        if not signed:
            (self.made[number].path / MANIFEST_SIGNATURE_FILE).unlink(missing_ok=True)
        paths = self.hub.repos[REPO].tree if REPO in self.hub.repos else {}
        if not (self.made[number].path / MANIFEST_SIGNATURE_FILE).exists() and MANIFEST_SIGNATURE_FILE in paths:
            self.hub.put(REPO, {MANIFEST_SIGNATURE_FILE: None})
        return put_folder(self.hub, self.made[number].path, tag=tag)


@pytest.fixture
def maker(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    folder = tmp_path / "makers"
    folder.mkdir()
    return Maker(hub, folder, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    know(store.home, "ada")
    return store


def refuse(store: Store, revision: str | None = None, **options: Any) -> RollbackError:
    before = all_files(store)
    with pytest.raises(RollbackError) as caught:
        pull(REPO, revision=revision, store=store, **options)
    with pytest.raises(RollbackError):
        load(f"hf://{REPO}" + (f"@{revision}" if revision else ""), store=store)
    assert all_files(store) == before
    return caught.value


@pytest.mark.parametrize("is_here", [False, True])
def test_an_older_version_after_a_newer(maker: Maker, store: Store, *, is_here: bool) -> None:
    if is_here:
        maker.put(1)
        pull(REPO, store=store)
    maker.put(2)
    newer = pull(REPO, alias="prod", store=store).reference
    maker.put(1)
    error = refuse(store, alias="prod", require_signature=True)
    assert (error.newer, error.newer_signed_at, error.signed_at) == (newer, TIMES[2], TIMES[1])
    for part in (REPO, newer, TIMES[1], TIMES[2], "ada", "--allow-older"):
        assert part in str(error)
    refuse(store, "main")
    refuse(store, dry_run=True)
    assert main(["pull", REPO, "--store", str(store.home)]) == 4
    maker.put(3)
    assert pull(REPO, store=store).version == store.versions("tiny")[-1]


@pytest.mark.parametrize("signer", [None, "mallory"])
def test_without_a_signature_that_counts(maker: Maker, store: Store, signer: str | None) -> None:
    """Else it would be enough to leave the signature away."""
    maker.put(2)
    pull(REPO, store=store)
    maker.put(3, signed=False)
    if signer is not None:
        maker.sign(3, TIMES[3], signer)
        maker.put(3)
    error = refuse(store)
    assert error.signed_at is None
    assert "no known key signed" in str(error)
    assert pull(REPO, allow_older=True, store=store).reference == "tiny:2"


def test_asked_for_it_is_taken(maker: Maker, store: Store) -> None:
    maker.put(2)
    pull(REPO, store=store)
    maker.put(1)
    assert main(["pull", REPO, "--allow-older", "--alias", "prod", "--store", str(store.home)]) == 0
    assert store.aliases("tiny") == {"prod": 2}
    # It is what the branch has, from now on.
    assert fetch(HubReference(REPO), ["CPU"], store).reference == "tiny:2"
    assert pull(REPO, store=store).reference == "tiny:2"


def test_pinned_it_is_what_was_asked_for(maker: Maker, store: Store, hub: HubServer) -> None:
    commit = maker.put(1, tag="v1")
    digest = digest_of(hub)
    maker.put(2, tag="v2")
    pull(REPO, store=store)
    assert pull(REPO, revision=commit, store=store).digest == maker.made[1].digest
    assert pull(f"hf://{REPO}@v1#{digest}", store=store).digest == maker.made[1].digest
    assert pull(REPO, revision="v1", store=store).digest == maker.made[1].digest  # a tag, for the first time
    assert fetch(HubReference(REPO, "v1"), ["CPU"], store).digest == maker.made[1].digest
    assert pull(REPO, revision="v2", store=store).digest == maker.made[2].digest
    assert pull(REPO, store=store).digest == maker.made[2].digest


def test_a_tag_that_is_moved_back(maker: Maker, store: Store, hub: HubServer) -> None:
    old = maker.put(1)
    maker.put(2, tag="stable")
    pull(REPO, revision="stable", store=store)
    hub.repos[REPO].tags["stable"] = old
    assert refuse(store, "stable").newer == "tiny:1"


def test_what_is_removed_is_no_reason(maker: Maker, store: Store) -> None:
    """Its owner found the newer one to be wrong, and took it out of the store."""
    maker.put(2)
    pull(REPO, store=store)
    store.remove("tiny:1")
    maker.put(1)
    assert pull(REPO, store=store).reference == "tiny:2"


def test_signed_anew_it_is_the_newest(maker: Maker, store: Store) -> None:
    """So the owner says that devices should go back."""
    maker.put(1)
    pull(REPO, store=store)
    maker.put(2)
    pull(REPO, store=store)
    maker.sign(1, TIMES[3])
    maker.put(1)
    assert pull(REPO, store=store).reference == "tiny:1"
    maker.put(2)
    assert refuse(store).signed_at == TIMES[2]


def test_an_older_signature_does_not_make_it_older(maker: Maker, store: Store, hub: HubServer) -> None:
    maker.put(1)
    old = hub.read(REPO, MANIFEST_SIGNATURE_FILE)
    maker.sign(1, TIMES[3])
    maker.put(1)
    path = pull(REPO, store=store).path / MANIFEST_SIGNATURE_FILE
    newest = path.read_bytes()
    assert newest != old
    hub.put(REPO, {MANIFEST_SIGNATURE_FILE: old})
    pull(REPO, store=store)
    assert path.read_bytes() == newest


def test_only_the_same_repository_s_count(maker: Maker, store: Store) -> None:
    maker.put(3)
    own = publish_tiny(store)
    sign(own.path, write_private_key(maker.folder, "ada"), store=store)
    assert pull(REPO, adopt=True, store=store).reference == "tiny:2"


def test_without_a_known_key_there_is_no_order(maker: Maker, tmp_path: Path) -> None:
    store = Store(tmp_path / "stranger")
    maker.put(2)
    pull(REPO, store=store)
    maker.put(1)
    assert pull(REPO, store=store).reference == "tiny:2"


def test_an_older_artifact(maker: Maker, store: Store, hub: HubServer) -> None:
    def attach(folder: str, seconds: float, when: str) -> None:
        bundle = publish_tiny(Store(maker.folder / folder))
        attach_npu(bundle, inputs=make_fixed(bundle), seconds=seconds)
        maker.made[0] = bundle
        maker.sign(0, when)
        put_folder(hub, bundle.path)

    def find() -> float:
        ((_, artifact),) = list_attached(store.resolve("tiny"))
        return getattr(artifact, "seconds", 0.0)

    for folder, seconds, when, expected in (
        ("a", 2.0, TIMES[2], 2.0),
        ("b", 1.0, TIMES[1], 2.0),
        ("c", 3.0, TIMES[3], 3.0),
    ):
        attach(folder, seconds, when)
        pull(REPO, target="NPU:4000", store=store)
        assert find() == expected
