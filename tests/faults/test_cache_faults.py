"""The compile cache where the file system refuses: at any step, for good, or because it may not be written."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from npu_persist.cache import CompileCache
from npu_persist.errors import StoreError
from tests.support.artifacts import BLOB, KEY, fill, publish
from tests.support.faults import ALLOCATING, before_call, disk_full

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refusal(action: Callable[[], object]) -> StoreError | None:
    """Return the error that the store is allowed to raise, if it raises it."""
    try:
        action()
    except StoreError as error:
        return error
    return None


def check_whole(cache: CompileCache) -> None:
    """Check that there are whole entries only, and that the cache works on."""
    assert all(error is None for _, error in cache.verify())
    assert [path for path in cache.path.glob("staging/*") if path.is_dir()] == []
    cache.sweep()
    publish(cache).verify()
    assert cache.find(KEY) is not None


def test_a_disk_that_is_full_from_some_step_on_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    refused = 0
    for number in range(1, 100):
        cache = CompileCache(tmp_path / str(number))
        old = publish(cache, graph="old")

        def full(call: int, _name: str, first: int = number) -> None:
            if call >= first:
                disk_full()

        with before_call(full, ALLOCATING):
            error = refusal(lambda cache=cache: publish(cache))  # type: ignore[misc]
        assert cache.find(old.key) == old
        if error is None:
            assert cache.find(KEY) is not None
            break
        assert error.errno == errno.ENOSPC
        assert "Free some space" in str(error)
        assert cache.find(KEY) is None
        refused += 1
        check_whole(cache)
    assert refused > 5


def test_a_really_full_disk_leaves_the_cache_as_it_was_and_can_be_pruned(small_disk: Path) -> None:
    cache = CompileCache(small_disk / "home")
    old = publish(cache, {"model.blob": bytes(100_000)}, graph="old")
    filler = small_disk / "filler"
    refused = 0
    for left in (100, 48, 16, 8, 4, 0):
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - left * 1024)
        if refusal(lambda: publish(cache, {"model.blob": bytes(60_000)})):
            refused += 1
            assert cache.find(KEY) is None
        else:
            cache.prune(device="CPU", older_than=-1)
            old = publish(cache, {"model.blob": bytes(100_000)}, graph="old")
        assert list((cache.path / "staging").iterdir()) == []
        assert cache.find(old.key) == old
        old.verify()
    assert refused >= 4
    assert [one.path for one in cache.prune(max_size=0)] == [old.path]
    publish(cache, {"model.blob": bytes(60_000)}).verify()


def test_what_may_not_be_written_can_be_read(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = CompileCache(small_disk / "home")
    entry = publish(cache)
    damaged = publish(cache, graph="damaged")
    (damaged.path / "artifact.json").chmod(0o644)
    (damaged.path / "artifact.json").write_bytes(b"{")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: S607
    assert cache.find(KEY) == entry
    entry.verify()
    assert len(cache.entries()) == 2
    held = entry.mark_in_use()
    assert held is not None  # a lock needs no writing here
    held.release()
    assert cache.find(damaged.key) is None
    assert "cannot be quarantined" in caplog.text
    with cache.claim(KEY, timeout=60) as claimed:
        assert not claimed
    with pytest.raises(StoreError, match="Check the permissions"):
        publish(cache, graph="new")
    with pytest.raises(StoreError, match="Check the permissions"):
        cache.prune(max_size=0)
    assert cache.find(KEY) == entry


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_listed_with_that_as_its_problem(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    entry = publish(cache)
    entry.path.chmod(0)
    try:
        (listed,) = cache.entries()
        assert "cannot be read" in (listed.problem or "")
        with pytest.raises(StoreError, match="Check the permissions"):
            cache.find(KEY)
    finally:
        entry.path.chmod(0o755)


def test_the_cache_alone_may_be_on_another_disk(small_disk: Path, tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "home")
    cache.home.mkdir()
    cache.path.symlink_to(small_disk, target_is_directory=True)
    with cache.stage() as staging:
        artifact = fill(staging)
        entry = cache.publish(artifact, staging)
    assert (small_disk / KEY / "model.blob").read_bytes() == BLOB
    cache.quarantine(entry, "damaged")
    assert len(cache.prune()) == 1
