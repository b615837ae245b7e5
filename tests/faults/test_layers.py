"""A store that was baked into a container's image: overlayfs does not rename directories of a lower layer (EXDEV)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.artifact.artifact import ARTIFACT_FILE
from npu_persist.artifact.attached import list_attached
from npu_persist.cache import CompileCache
from npu_persist.compilation.toolchains.install import uninstall
from npu_persist.errors import BundleNotFoundError, StoreError
from npu_persist.store import Store
from tests.support.artifacts import KEY, damage, names, publish, quarantined
from tests.support.attached import attach_npu
from tests.support.bundles import publish_tiny
from tests.support.faults import before_call
from tests.support.layers import bake as bake  # noqa: PLC0414 (a fixture is found by its name here)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Bake = Callable[[Path], Path]


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    """A home with two versions, the first with an alias and an attached artifact, and one that was removed."""
    home = tmp_path / "lower"
    store = Store(home)
    publish_tiny(store)
    store.remove("tiny:1")
    attach_npu(publish_tiny(store, alias="prod"), folder="npu-4000")
    publish_tiny(store)
    return home


def test_a_version_of_a_lower_layer_is_removed(lower: Path, bake: Bake) -> None:
    store = Store(bake(lower))
    folder = store.home / "bundles" / "tiny"
    assert store.remove("tiny:2", force=True) == "tiny:2"
    assert (store.versions("tiny"), store.aliases("tiny")) == ((3,), {})
    assert {path.name for path in folder.iterdir()} == {"3", "aliases", "removed"}
    assert [path.name for path in folder.glob("removed/*")] == ["2"]
    assert list(folder.glob("removed/*/*")) == []
    store.verify()
    assert store.remove("tiny:3") == "tiny:3"
    assert publish_tiny(store).version == 4
    store.remove("tiny:4")
    assert publish_tiny(store).version == 5
    assert store.prune() == []


@pytest.mark.parametrize("number", range(1, 40))
def test_a_removal_that_fails_at_some_step_changes_nothing_or_is_completed_by_prune(
    lower: Path, bake: Bake, number: int
) -> None:
    store = Store(bake(lower))

    def fail(call: int, name: str) -> None:
        if call == number:
            raise OSError(errno.EIO, f"broken {name}")

    removed = False
    with before_call(fail, ("mkdir", "rename", "unlink", "rmdir")):
        try:
            removed = store.remove("tiny:2", force=True) == "tiny:2"
        except StoreError:
            assert store.aliases("tiny") == {"prod": 2}
            assert store.versions("tiny") == (2, 3)
            store.verify()
    if removed:
        with pytest.raises(BundleNotFoundError):
            store.resolve("tiny:2")
        assert store.versions("tiny") == (3,)
        assert [found.problem for found in store.list("tiny")] == [None]
        store.prune()
        assert store.aliases("tiny") == {}
        assert not (store.home / "bundles" / "tiny" / "2").exists()
        assert list((store.home / "bundles" / "tiny" / "removed").glob("*/*")) == []


def test_a_version_that_was_put_back_by_hand_stays(lower: Path, bake: Bake) -> None:
    store = Store(bake(lower))
    bundle = store.resolve("tiny:3")
    files = {relative: (bundle.path / relative).read_bytes() for relative in (*bundle.manifest.files, "manifest.json")}
    store.remove("tiny:3")
    for relative, data in files.items():
        (bundle.path / relative).parent.mkdir(exist_ok=True)
        (bundle.path / relative).write_bytes(data)
    store.prune()
    assert store.versions("tiny") == (2, 3)
    store.verify("tiny:3")
    store.remove("tiny:3")
    assert store.versions("tiny") == (2,)


def test_an_artifact_of_a_lower_layer_is_replaced_and_every_prune_works(lower: Path, bake: Bake) -> None:
    store = Store(bake(lower))
    bundle = store.resolve("tiny:2")
    for seconds in (5.0, 6.0):
        attach_npu(bundle, seconds=seconds)
        store.prune()
        ((path, artifact),) = list_attached(bundle)
        assert path.name == "npu-4000"
        assert artifact.seconds == seconds  # type: ignore[union-attr]
        store.verify()
        assert {path.name for path in bundle.path.glob("compiled/*")} <= {"npu-4000", ".staging"}


def test_an_artifact_that_cannot_be_moved_to_its_place_stays_where_it_is(tmp_path: Path, bake: Bake) -> None:
    """A killed replacement in the image's build left the new artifact beside its place."""
    bundle = publish_tiny(Store(tmp_path / "lower"))
    attach_npu(bundle, folder="npu-4000.0123abcd")
    store = Store(bake(tmp_path / "lower"))
    for _ in range(2):
        assert store.prune() == []
        ((path, _artifact),) = list_attached(store.resolve("tiny"))
        assert path.name == "npu-4000.0123abcd"
    store.verify()


def test_damaged_entries_of_a_lower_layer_are_quarantined(
    tmp_path: Path, bake: Bake, caplog: pytest.LogCaptureFixture
) -> None:
    image = CompileCache(tmp_path / "lower")
    damage(publish(image), ARTIFACT_FILE, b"{")
    bare = publish(image, graph="bare")
    (bare.path / ARTIFACT_FILE).unlink()
    cache = CompileCache(bake(tmp_path / "lower"))
    assert cache.find(KEY) is None
    assert cache.find(bare.key) is None
    assert caplog.text.count("was quarantined") == 2
    assert names(cache) == set()
    publish(cache).verify()
    assert cache.find(KEY) is not None
    assert len(cache.sweep()) == 2
    assert quarantined(cache) == []


def test_entries_of_a_lower_layer_are_pruned_and_replaced(tmp_path: Path, bake: Bake) -> None:
    image = CompileCache(tmp_path / "lower")
    for graph in ("main", "other"):
        publish(image, graph=graph)
    cache = CompileCache(bake(tmp_path / "lower"))
    for entry in cache.entries():
        entry.verify()
    old = cache.find(KEY)
    with cache.stage() as staging:
        from tests.support.artifacts import fill

        new = cache.publish(fill(staging, {"model.blob": b"newer"}), staging, instead_of=old)
    new.verify()
    assert cache.find(KEY) == new
    held = cache.entries()[0].mark_in_use()
    assert held is not None
    assert len(cache.prune(max_size=0)) == 2  # the replaced one, which was in quarantine, and the one not in use
    held.release()
    assert len(cache.prune(max_size=0)) == 1
    assert names(cache) == set()
    assert quarantined(cache) == []
    assert npu_persist.prune(store=cache.home) == []


def test_a_toolchain_of_a_lower_layer_is_removed(tmp_path: Path, bake: Bake) -> None:
    folder = tmp_path / "lower" / "wine-2025.1.0"
    (folder / "prefix").mkdir(parents=True)
    for name in ("toolchain.json", "prefix/system.reg"):
        (folder / name).touch()
    home = bake(tmp_path / "lower")
    assert uninstall(home) == [home / folder.name]
    assert [path.name for path in home.iterdir()] == ["staging"]


def test_the_folder_goes_only_after_its_decisive_file(tmp_path: Path, bake: Bake) -> None:
    """Killed in between, an entry without description is left, which counts as damaged."""
    publish(CompileCache(tmp_path / "lower"))
    cache = CompileCache(bake(tmp_path / "lower"))

    def refuse(_call: int, name: str) -> None:
        raise OSError(errno.EIO, f"broken {name}")

    with before_call(refuse, ("unlink", "rmdir")):
        assert len(cache.prune(max_size=0)) == 1
    assert cache.find(KEY) is None
    publish(cache).verify()
    assert os.listdir(cache.path / KEY)  # noqa: PTH208
