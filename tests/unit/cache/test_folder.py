from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.cache import CacheEntry, CompileCache
from npu_persist.cache.folder import Folder
from npu_persist.files.filesystem import FEW_ITEMS
from tests.support.artifacts import BLOB, KEY, age, held, names, publish, quarantined
from tests.support.faults import path_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> CompileCache:
    return CompileCache(tmp_path / "home")


def aged(cache: CompileCache, count: int = 4, **changes: Any) -> list[CacheEntry]:
    """Publish entries, the first least recently used."""
    entries = [publish(cache, graph=f"graph {number}", **changes) for number in range(count)]
    for number, entry in enumerate(entries):
        age(entry, 1000 * (count - number))
    return entries


def test_the_least_recently_used_go_until_the_size_is_kept(cache: CompileCache) -> None:
    entries = aged(cache)
    removed = cache.prune(max_size=2 * entries[0].size + 10)
    assert [one.path for one in removed] == [entry.path for entry in entries[:2]]
    assert {one.reason for one in removed} == {"least recently used"}
    assert removed[0].size > len(BLOB)
    assert removed[0].reference == entries[0].reference
    assert removed[0].device == "CPU"
    assert {entry.key for entry in cache.entries()} == {entry.key for entry in entries[2:]}
    assert quarantined(cache) == []


def test_a_use_moves_an_entry_to_the_end(cache: CompileCache) -> None:
    entries = aged(cache)
    with held(entries[0]):
        pass
    removed = cache.prune(max_size=2 * entries[0].size + 10)
    assert [one.path for one in removed] == [entry.path for entry in entries[1:3]]


def test_what_is_in_use_counts_but_stays(cache: CompileCache) -> None:
    entries = aged(cache)
    with held(entries[0]):
        age(entries[0], 9999)
        removed = cache.prune(max_size=2 * entries[0].size + 10)
    assert [one.path for one in removed] == [entry.path for entry in entries[1:3]]


def test_two_that_prune_at_once_do_not_remove_twice_as_much(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = aged(cache)
    limit = 2 * entries[0].size + 10
    move_out = Folder.move_out

    def move_late(folder: Folder, entry: CacheEntry) -> Path | None:
        monkeypatch.setattr(Folder, "move_out", move_out)
        assert len(cache.prune(max_size=limit)) == 2  # by another process
        return folder.move_out(entry)

    monkeypatch.setattr(Folder, "move_out", move_late)
    assert cache.prune(max_size=limit) == []
    assert {entry.key for entry in cache.entries()} == {entry.key for entry in entries[2:]}


def test_what_may_not_be_removed_stays_and_the_rest_goes(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = aged(cache)
    rename = os.rename

    def refuse(source: str, target: str, *, src_dir_fd: int | None = None, **folder: int | None) -> None:
        if path_at(source, src_dir_fd) == entries[0].path:
            raise PermissionError(13, "another user's", source)
        rename(source, target, src_dir_fd=src_dir_fd, **folder)

    monkeypatch.setattr(os, "rename", refuse)
    assert [one.path for one in cache.prune(max_size=0)] == [entry.path for entry in entries[1:]]
    assert f"{entries[0].path} cannot be removed" in caplog.text


def test_what_was_not_used_for_long_goes(cache: CompileCache) -> None:
    entries = aged(cache)
    assert [one.path for one in cache.prune(older_than=2500)] == [entry.path for entry in entries[:2]]
    assert cache.prune(older_than=2500) == []


def test_only_entries_of_a_device_go(cache: CompileCache) -> None:
    npu, gpu, automatic = (
        publish(cache, device="NPU"),
        publish(cache, device="GPU.1"),
        publish(cache, device="AUTO:NPU"),
    )
    assert [one.path for one in cache.prune(device="gpu")] == [gpu.path]
    assert cache.prune(device="NPU", older_than=1000) == []
    assert [one.path for one in cache.prune(device="NPU")] == [npu.path]
    assert cache.entries() == (automatic,)


def test_pruning_without_arguments_keeps_the_quota(tmp_path: Path) -> None:
    entries = aged(CompileCache(tmp_path))
    cache = CompileCache(tmp_path, quota=entries[0].size + 10)
    assert [one.path for one in cache.prune()] == [entry.path for entry in entries[:3]]


def test_the_quota_is_kept_after_each_publish_and_the_new_entry_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    entries = aged(CompileCache(tmp_path))
    cache = CompileCache(tmp_path, quota=2 * entries[0].size + 10)
    newest = publish(cache, graph="newest")
    assert {entry.key for entry in cache.entries()} == {entries[-1].key, newest.key}
    assert "to keep the quota" in caplog.text
    for graph in ("one", "two"):
        last = publish(CompileCache(tmp_path, quota=0), graph=graph)
        assert [entry.key for entry in cache.entries()] == [last.key]


def test_what_was_quarantined_goes_before_any_entry(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    entries = aged(cache, 2)
    cache.quarantine(entries[1], "damaged")
    publish(CompileCache(tmp_path, quota=2 * entries[0].size + 10), graph="newest")
    assert quarantined(cache) == []
    assert cache.find(entries[0].key) is not None


def test_what_was_quarantined_while_it_is_in_use_stays_until_it_is_not(cache: CompileCache) -> None:
    entry = publish(cache)
    with held(entry):
        cache.quarantine(entry, "damaged")
        assert cache.prune() == []
        assert (quarantined(cache)[0] / BLOB_FILE).read_bytes() == BLOB
    assert len(cache.prune()) == 1


def test_a_quota_that_cannot_be_kept_does_not_fail_the_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(CompileCache(tmp_path))

    def refuse(*_: object, **__: object) -> Iterator[Any]:
        yield from ()
        raise PermissionError(13, "no")

    monkeypatch.setattr("npu_persist.cache.folder.Folder.remove_entries", refuse)
    assert publish(CompileCache(tmp_path, quota=0), graph="other").path.exists()
    assert "cannot be kept below 0 bytes" in caplog.text


def test_sweeping_removes_leftovers_and_no_entry(cache: CompileCache) -> None:
    entry = publish(cache)
    cache.quarantine(publish(cache, graph="other"), "damaged")
    with cache.claim(KEY, timeout=0):
        cache.sweep()
        assert names(cache) == {KEY, f"{KEY}.lock"}
    cache.sweep()
    assert names(cache) == {KEY}
    assert cache.find(KEY) == entry


@pytest.mark.parametrize("number", [FEW_ITEMS - 1, 3 * FEW_ITEMS])
def test_many_entries_are_removed_in_threads_and_few_are_not(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    threads = set()
    rmdir = os.rmdir

    def note(path: str, **options: Any) -> None:
        threads.add(threading.get_ident())
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", note)
    entries = [publish(cache, graph=f"graph{index}") for index in range(number)]
    threads.clear()
    assert {one.path for one in cache.prune(max_size=0)} == {entry.path for entry in entries}
    assert not list(cache.path.glob("quarantine/*"))
    assert (threads == {threading.get_ident()}) is (number < FEW_ITEMS)
