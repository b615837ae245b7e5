"""Who makes a bundle, copies one or sets the clock chooses the times of its files; nothing is decided by them.

An attached artifact with a time in the future won over each that was compiled after it, for ever. A manifest whose time
no calendar has (before 1970, after 9999) hid every version from `list`. Entries of the compile cache, staging folders
and half-copied files with a time in the future were never removed.
"""

from __future__ import annotations

import os
import shutil
import time
from errno import ENOLCK
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE
from npu_persist.artifact.attached import list_attached, prune_attached
from npu_persist.bundle.manifest import MANIFEST_FILE
from npu_persist.cache import CompileCache
from npu_persist.files import staging as staging_module
from npu_persist.files.staging import prune_staging
from npu_persist.store import Store
from tests.support.artifacts import publish as publish_entry
from tests.support.attached import attach_npu
from tests.support.blobs import real_blob
from tests.support.bundles import publish_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

LATER = int(time.time()) + 30 * 365 * 24 * 3600


def payload(bundle: Bundle) -> list[bytes]:
    return [(folder / BLOB_FILE).read_bytes()[:4] for folder, _ in list_attached(bundle)]


def blob(first: bytes) -> bytes:
    return first + real_blob()[len(first) :]


def test_an_artifact_from_the_future_is_replaced_all_the_same(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    old = attach_npu(bundle, blob(b"old!"))
    os.utime(old / ARTIFACT_FILE, (LATER, LATER))
    attach_npu(bundle, blob(b"new!"))
    assert payload(bundle) == [b"new!"]


def test_of_two_that_a_kill_has_left_the_one_from_the_future_goes(tmp_path: Path) -> None:
    bundle = publish_tiny(Store(tmp_path))
    place = attach_npu(bundle, blob(b"new!"))
    beside = place.with_name(f"{place.name}.0123abcd")
    shutil.copytree(place, beside)
    (beside / BLOB_FILE).chmod(0o644)
    (beside / BLOB_FILE).write_bytes(blob(b"old!"))
    os.utime(beside / ARTIFACT_FILE, (LATER, LATER))
    assert prune_attached(bundle.path, below=bundle.root) == [beside]
    assert payload(bundle) == [b"new!"]


@pytest.mark.parametrize("seconds", [-(2**40), 2**40, -1])
def test_a_time_that_no_calendar_has_hides_nothing(seconds: int, small_disk: Path) -> None:
    store = Store(small_disk)  # ext4 has no such times, tmpfs has
    odd, _ = publish_tiny(store), publish_tiny(store, "other")
    os.utime(odd.path / MANIFEST_FILE, (seconds, seconds))
    assert (odd.path / MANIFEST_FILE).lstat().st_mtime == seconds
    listed = npu_persist.list(store=store)
    assert [entry.reference for entry in listed] == ["other:1", "tiny:1"]
    assert 1970 <= npu_persist.open("tiny", store=store).created.year <= 9999


def test_a_use_in_the_future_keeps_no_entry(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    future, used = publish_entry(cache, graph="future"), publish_entry(cache, graph="used")
    for entry, seconds in ((future, LATER), (used, time.time() - 1000)):
        entry.mark_in_use()
        os.utime(entry.path / "used", (seconds, seconds))
    assert [one.path for one in cache.prune(max_size=used.size + 10)] == [future.path]
    assert [one.path for one in cache.prune(older_than=3600)] == []


def test_an_entry_of_the_future_is_not_used_for_long(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    entry = publish_entry(cache)
    entry.mark_in_use()
    os.utime(entry.path / "used", (LATER, LATER))
    assert [one.path for one in cache.prune(older_than=3600)] == [entry.path]


def test_a_clock_that_is_ahead_a_little_makes_no_entry_old(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    entry = publish_entry(cache)
    entry.mark_in_use()
    os.utime(entry.path / "used", (time.time() + 3600,) * 2)
    assert cache.prune(older_than=1) == []


def test_a_staging_folder_of_the_future_goes_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_: Path) -> None:
        raise OSError(ENOLCK, "no locks here")

    monkeypatch.setattr(staging_module, "try_lock", no_locks)
    future, fresh = tmp_path / ("f" * 16), tmp_path / ("0" * 16)
    for folder in (future, fresh):
        folder.mkdir()
    os.utime(future, (LATER, LATER))
    assert list(prune_staging(tmp_path, below=tmp_path)) == [future]
    assert fresh.exists()


def test_a_half_copied_file_of_the_future_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = publish_tiny(store).path / "model.bin.1234.partial"
    partial.touch()
    os.utime(partial, (LATER, LATER))
    assert store.prune() == [partial]
