"""A repository calls its bundle as another one's, or as one that was made here, to become that name's newest version.

Before: `pull("evil/tiny")` published `tiny:2` after the `tiny:1` of org/tiny, so that `load("tiny")` took it; with
`--alias prod` it moved the alias; and what one hub had said of a commit counted for every other hub. Now: a name
belongs to where its versions came from. Another repository's bundle is refused, kept under a name of its own, or
adopted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from npu_persist import load
from npu_persist.bundle.origin import Origin, read_origin, write_origin
from npu_persist.bundle.reference import HubReference
from npu_persist.cli.main import main
from npu_persist.errors import BundleNotFoundError, OriginError, UsageError
from npu_persist.hub.pull import fetch, pull
from npu_persist.hub.pulled import resolve_offline
from npu_persist.store import Store
from tests.support.bundles import publish_tiny, write_tiny
from tests.support.hub_server import HubServer
from tests.support.pulls import REPO, all_files, asked, put_folder, put_tiny
from tests.support.signers import ORIGIN

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "evil/tiny"
OTHER = b"<net name='other'/>\n"
NEXT = b"<net name='next'/>\n"


def put_evil(hub: HubServer, folder: Path, model: bytes = OTHER) -> str:
    folder.mkdir()
    write_tiny(folder, model=model)
    return put_folder(hub, folder, repo=EVIL)


@pytest.fixture
def store(hub: HubServer, tmp_path: Path) -> Store:
    """A store with org/tiny's bundle, which has the alias prod; evil/tiny's is on the hub."""
    store = Store(tmp_path / "home")
    put_tiny(hub, tmp_path / "a")
    pull(REPO, alias="prod", store=store)
    put_evil(hub, tmp_path / "b")
    hub.forget()
    return store


def refuse(store: Store, reference: str, **options: Any) -> OriginError:
    before = all_files(store)
    with pytest.raises(OriginError) as caught:
        pull(reference, store=store, **options)
    assert all_files(store) == before
    assert store.aliases("tiny") == {"prod": 1}
    return caught.value


def test_the_name_of_another_repository(hub: HubServer, store: Store) -> None:
    error = refuse(store, EVIL)
    assert (error.name, error.owner, error.source) == ("tiny", f"{hub.url}/{REPO}", f"{hub.url}/{EVIL}")
    for part in (REPO, EVIL, "tiny:1", "--name evil-tiny", "--adopt"):
        assert part in str(error)
    refuse(store, EVIL, alias="prod")
    refuse(store, EVIL, alias="other")
    refuse(store, EVIL, dry_run=True)
    with pytest.raises(OriginError):
        load(f"hf://{EVIL}", store=store)
    assert main(["pull", EVIL, "--alias", "prod", "--store", str(store.home)]) == 4
    assert not asked(hub, "model.xml")


def test_the_name_of_what_was_made_here(hub: HubServer, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    publish_tiny(store, alias="prod")
    put_evil(hub, tmp_path / "b")
    assert refuse(store, EVIL, alias="prod").owner == "this machine"


def test_the_same_repository_on_another_hub(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may give another bundle for the same commit, too: what one hub said is not believed of the other."""
    from huggingface_hub import constants

    with HubServer(tmp_path / "mirror") as mirror:
        folder = tmp_path / "c"
        folder.mkdir()
        write_tiny(folder, model=OTHER)
        put_folder(mirror, folder, tag="v1")
        monkeypatch.setattr(constants, "ENDPOINT", mirror.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", mirror.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        assert refuse(store, REPO).source == f"{mirror.url}/{REPO}"
        with pytest.raises(BundleNotFoundError):
            resolve_offline(store, f"hf://{REPO}")


def test_an_old_version_of_another_s_again(hub: HubServer, store: Store, tmp_path: Path) -> None:
    """The same bytes are the same version, whoever has them; but the alias is not moved back to it."""
    put_tiny(hub, tmp_path / "next", model=NEXT)
    pull(REPO, alias="prod", store=store)
    put_evil(hub, tmp_path / "old", model=b"<net name='tiny'/>\n")
    assert pull(EVIL, store=store).reference == "tiny:1"
    with pytest.raises(OriginError, match="the alias tiny:prod points to tiny:2"):
        pull(EVIL, alias="prod", store=store)
    with pytest.raises(OriginError):
        pull(EVIL, alias="prod", local_files_only=True, store=store)
    assert store.aliases("tiny") == {"prod": 2}
    assert pull(EVIL, alias="fallback", store=store).reference == "tiny:1"
    assert pull(EVIL, alias="prod", adopt=True, store=store).reference == "tiny:1"
    assert store.aliases("tiny") == {"fallback": 1, "prod": 1}


def test_kept_apart_under_a_name_of_its_own(hub: HubServer, store: Store, tmp_path: Path) -> None:
    bundle = pull(EVIL, name="evil", alias="prod", store=store)
    assert (bundle.reference, bundle.manifest.name, store.aliases("evil")) == ("evil:1", "tiny", {"prod": 1})
    assert (store.versions("tiny"), store.aliases("tiny")) == ((1,), {"prod": 1})
    again = store.resolve("evil:prod")
    assert (again.reference, again.digest) == ("evil:1", bundle.digest)
    store.verify()
    assert {found.reference: found.problem for found in store.list()} == {"evil:1": None, "tiny:1": None}
    origin = read_origin(bundle.path)
    assert origin is not None
    assert (origin.repo, origin.name) == (EVIL, "evil")
    # Later pulls and loads find it there, and go on there.
    assert resolve_offline(store, f"hf://{EVIL}").reference == "evil:1"
    assert pull(EVIL, store=store).reference == "evil:1"
    put_evil(hub, tmp_path / "more", model=NEXT)
    assert fetch(HubReference(EVIL), ["CPU"], store).reference == "evil:2"
    assert main(["pull", EVIL, "--name", "third", "--store", str(store.home)]) == 0
    assert store.versions("third") == (1,)


def test_a_name_of_its_own_is_judged_as_any(store: Store) -> None:
    publish_tiny(store, "mine")
    refuse(store, EVIL, name="mine")
    for name in ("../x", "con", ""):
        with pytest.raises(UsageError):
            pull(EVIL, name=name, store=store)
    with pytest.raises(UsageError, match="TINY"):
        pull(EVIL, name="TINY", store=store)
    with pytest.raises(UsageError, match="local_files_only"):
        pull(EVIL, name="evil", local_files_only=True, store=store)


def test_moved_by_hand_it_is_not_under_that_name(store: Store) -> None:
    bundle = pull(EVIL, name="evil", store=store)
    (store.home / "bundles" / "more").mkdir()
    bundle.path.rename(store.home / "bundles" / "more" / "1")
    (found,) = store.list("more")
    assert found.problem is None
    with pytest.raises(Exception, match="was moved here"):
        store.resolve("more:1")


def test_adopted_once_both_have_the_name(hub: HubServer, store: Store, tmp_path: Path) -> None:
    assert pull(EVIL, adopt=True, alias="prod", store=store).reference == "tiny:2"
    put_evil(hub, tmp_path / "more", model=NEXT)
    assert pull(EVIL, alias="prod", store=store).reference == "tiny:3"
    put_tiny(hub, tmp_path / "own", model=b"<net name='own'/>\n")
    assert pull(REPO, store=store).reference == "tiny:4"
    with pytest.raises(OriginError):  # it is evil's now
        pull(REPO, alias="prod", store=store)
    for version in (2, 3):
        store.remove(f"tiny:{version}", force=True)
    put_evil(hub, tmp_path / "last", model=b"<net name='last'/>\n")
    with pytest.raises(OriginError):
        pull(EVIL, store=store)


def test_of_two_that_are_pulled_at_once_one_has_the_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found the name free; the later of the two is not published."""
    store.remove("tiny:1", force=True)
    publish = Store.publish

    def be_overtaken(self: Store, staged: Any, *arguments: Any, **options: Any) -> Any:
        with self.stage() as staging:
            write_tiny(staging)
            write_origin(staging, ORIGIN)
            publish(self, staging)
        return publish(self, staged, *arguments, **options)

    monkeypatch.setattr(Store, "publish", be_overtaken)
    with pytest.raises(OriginError):
        pull(EVIL, store=store)
    assert [found.reference for found in store.list()] == ["tiny:2"]


def test_an_origin_that_cannot_be_read_is_nobody_s(hub: HubServer, store: Store, tmp_path: Path) -> None:
    path = store.resolve("tiny:1").path / "origin.json"
    path.chmod(0o644)
    path.write_text("{}")
    refuse(store, EVIL)
    put_tiny(hub, tmp_path / "next", model=NEXT)
    assert "cannot be known" in str(refuse(store, REPO).owner)


def test_a_mirror_s_address_is_part_of_the_source() -> None:
    assert ORIGIN.source == "org/unet"
    mirror = Origin("org/unet", "0" * 40, None, "https://hub.example.com", ORIGIN.pulled_at, None)
    assert mirror.source == "https://hub.example.com/org/unet"
