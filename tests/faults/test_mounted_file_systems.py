"""exFAT and NTFS through FUSE: a bundle's whole life on them, and what they lack, run out of or hold back.

exFAT has no links, no permissions, times in steps, and one name for `Unet` and `unet`. FUSE keeps the folder of an open
file that is removed, as NFS does.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.errors import BundleNotFoundError, InvalidNameError, StoreError
from npu_persist.store import Store
from tests.faults.test_poor_file_systems import use_everything
from tests.support.bundles import WEIGHTS, publish_tiny
from tests.support.graphs import publish_affine
from tests.support.loads import AFFINE_OF_GRID, GRID, attempts
from tests.support.mounts import MEGABYTES, made
from tests.support.processes import start_python
from tests.support.pulls import put_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.hub_server import HubServer
    from tests.support.mounts import Disk


@pytest.fixture(params=["exfat", "ntfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with made(request.param, tmp_path) as disk:
        yield disk


def answer(reference: str, home: Path) -> list[tuple[str, str, bool]]:
    """Load a bundle of `publish_affine`, check its answer, and return how it was loaded."""
    with npu_persist.load(reference, "CPU", store=home) as model:
        assert (model(GRID) == AFFINE_OF_GRID).all()
        return attempts(model)


def test_the_store_and_the_cache(disk: Disk) -> None:
    use_everything(disk.path / "home")


def test_a_bundle_is_loaded_pulled_and_compiled_and_read_where_nothing_is_written(disk: Disk, hub: HubServer) -> None:
    home, other = disk.path / "home", disk.path / "other"
    published = publish_affine(Store(home))
    assert answer("affine", home)[-1] == ("graph", "CPU", True)
    assert answer("affine", home)[-1] == ("cache", "CPU", True)
    put_folder(hub, published.path, repo="ci/affine")
    pulled = npu_persist.pull("hf://ci/affine", store=other)
    assert pulled.digest == published.digest
    (compiled,) = npu_persist.compile("affine", ["CPU"], store=other)
    assert compiled.path is not None
    with disk.read_only():
        assert answer("affine", home)[-1] == ("cache", "CPU", True)
        assert answer("affine", other)[-1] == ("attached", "CPU", True)
        with pytest.raises(StoreError, match="Read-only file system") as caught:
            publish_tiny(Store(home))
        assert caught.value.errno == errno.EROFS
        assert npu_persist.prune(store=home) == []


def test_files_that_are_equal_are_copied_where_there_are_no_links(disk: Disk) -> None:
    store = Store(disk.path / "home")
    first, second = (publish_tiny(store).path / "weights.safetensors" for _ in range(2))
    assert first.samefile(second) is (disk.kind == "ntfs")
    assert first.read_bytes() == second.read_bytes()


def test_names_that_differ_in_case(disk: Disk) -> None:
    store = Store(disk.path / "home")
    publish_tiny(store, "unet", alias="prod")
    with pytest.raises(InvalidNameError, match="would be the same on Windows"):
        publish_tiny(store, "Unet")
    with pytest.raises(InvalidNameError, match="would be the same on Windows"):
        store.alias("unet", "Prod")
    with pytest.raises(BundleNotFoundError):
        store.resolve("UNET")
    assert store.names() == ("unet",)


def test_prune_passes_over_files_that_are_open(disk: Disk) -> None:
    store = Store(disk.path / "home")
    paths = [publish_tiny(store).path for _ in range(3)]
    removed = store.home / "bundles" / "tiny" / "removed"
    with (paths[0] / "weights.safetensors").open("rb") as file:
        assert store.remove("tiny:1", force=True) == "tiny:1"
        assert store.remove("tiny:2", force=True) == "tiny:2"
        (leftover := store.home / "staging" / "0123456789abcdef").mkdir()
        assert store.prune() == [leftover]
        assert [len(list((removed / number).iterdir())) for number in ("1", "2")] == [1, 0]
        assert file.read().endswith(WEIGHTS)
    store.prune()
    assert [path.name for path in removed.rglob("*")] == ["2"]
    assert publish_tiny(store).version == 4


def test_a_full_disk_leaves_what_was_there(disk: Disk) -> None:
    store = Store(disk.path / "home")
    publish_tiny(store)
    half = os.urandom(MEGABYTES * 1024 * 1024 // 2)
    if disk.kind == "ntfs":  # which links model.bin to it
        publish_tiny(store, "first", weights=half)
    with pytest.raises(StoreError, match="Free some space") as caught:
        publish_tiny(store, "second", weights=half)
    assert caught.value.errno == errno.ENOSPC
    assert "second" not in store.names()
    store.verify()
    assert store.prune() == []
    if disk.kind == "ntfs":
        store.remove("first:1")
    assert publish_tiny(store, "second", weights=half[: len(half) // 2]).version == 1
    store.verify()


PUBLISH = """
import sys
from npu_persist.store import Store
from tests.support.bundles import publish_tiny, tiny_golden

store = Store(sys.argv[1])
for turn in range(1000):
    print(publish_tiny(store, golden=tiny_golden(f"{sys.argv[2]} {turn}"), alias="prod").version, flush=True)
"""


def test_publishers_that_are_killed(disk: Disk) -> None:
    store, published = Store(disk.path / "home"), set()
    for turn in range(4):
        with (
            start_python(PUBLISH, store.home, f"a{turn}") as first,
            start_python(PUBLISH, store.home, f"b{turn}") as second,
        ):
            for process in (first, second):
                assert process.stdout is not None
                for _ in range(turn + 1):
                    published.add(int(process.stdout.readline()))
                os.kill(process.pid, signal.SIGKILL)
    store.prune()
    assert published <= set(store.versions("tiny"))
    assert store.aliases("tiny")["prod"] in store.versions("tiny")
    assert list((store.home / "staging").iterdir()) == []
    store.verify()
