from __future__ import annotations

import gc
import os
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.cache import CompileCache
from npu_persist.files import locks
from tests.support.artifacts import KEY, age, held, is_used, publish
from tests.support.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.files.locks import Lock

POSIX = os.name == "posix"


@pytest.fixture
def cache(tmp_path: Path) -> CompileCache:
    return CompileCache(tmp_path / "home")


def test_a_held_entry_is_in_use_and_stays(cache: CompileCache) -> None:
    entry = publish(cache)
    first, second = held(entry), held(entry)
    assert is_used(entry)
    assert cache.prune(max_size=0, older_than=0.0) == []
    first.release()
    first.release()
    assert is_used(entry)
    assert cache.prune(max_size=0) == []
    second.release()
    assert not is_used(entry)
    assert len(cache.prune(max_size=0)) == 1
    assert cache.find(KEY) is None


def test_a_hold_ends_with_its_block_and_with_its_object(cache: CompileCache) -> None:
    entry = publish(cache)
    with held(entry):
        assert is_used(entry)
    assert not is_used(entry)
    taken: Lock | None = held(entry)
    assert is_used(entry)
    del taken
    gc.collect()
    assert not is_used(entry)


def test_a_hold_is_a_use(cache: CompileCache) -> None:
    entry = publish(cache)
    age(entry, 1000)
    assert datetime.now(timezone.utc) - entry.last_used > timedelta(seconds=999)
    with held(entry):
        assert datetime.now(timezone.utc) - entry.last_used < timedelta(seconds=500)


def test_an_entry_that_is_gone_cannot_be_held(cache: CompileCache) -> None:
    entry = publish(cache)
    cache.prune(max_size=0)
    assert entry.mark_in_use() is None
    assert entry.size == 0
    assert not is_used(entry)
    assert entry.last_used.timestamp() == 0
    with pytest.raises(FileNotFoundError):
        entry.verify()


@pytest.mark.skipif(not POSIX, reason="an open folder cannot be renamed on Windows")
def test_an_entry_that_goes_while_it_is_taken_cannot_be_held(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    entry = publish(cache)
    flock = fcntl.flock

    def flock_late(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_SH:
            os.rename(entry.path, cache.home / "gone")  # noqa: PTH104
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    assert entry.mark_in_use() is None


def test_holds_of_many_threads_are_one_each(cache: CompileCache) -> None:
    entry = publish(cache)
    holds: list[Any] = []
    threads = [threading.Thread(target=lambda: holds.append(entry.mark_in_use())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(hold) for hold in holds}) == 16
    assert None not in holds
    for hold in holds:
        assert is_used(entry)
        hold.release()
    assert not is_used(entry)


def test_who_looks_whether_an_entry_is_in_use_does_not_keep_others_from_using_it(cache: CompileCache) -> None:
    entry = publish(cache)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            _ = entry.in_use

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            held(entry).release()
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_shares_the_hold_and_its_end_does_not_end_it(cache: CompileCache) -> None:
    entry = publish(cache)
    code = """if True:
        import os, sys
        from pathlib import Path
        from npu_persist.cache import CompileCache

        entry = CompileCache(Path(sys.argv[1])).find(sys.argv[2])
        hold = entry.mark_in_use()
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            hold.release()
            os._exit(0)
        os.waitpid(child, 0)
        print(entry.in_use)                 # the child's release is its own
        child = os.fork()
        if child == 0:
            os.read(go[0], 1)
            os._exit(0)
        hold.release()
        print(entry.in_use)                 # the child has it still
        os.write(go[1], b".")
        os.waitpid(child, 0)
        print(entry.in_use)
    """
    assert run_python("-c", code, str(cache.home), entry.key).stdout.split() == ["True", "True", "False"]


def test_a_link_in_place_of_the_mark_of_use_is_not_followed(cache: CompileCache, tmp_path: Path) -> None:
    entry = publish(cache)
    (tmp_path / "precious").touch()
    os.utime(tmp_path / "precious", (0, 0))
    (entry.path / "used").unlink()
    (entry.path / "used").symlink_to(tmp_path / "precious")
    if POSIX:
        assert entry.mark_in_use() is None
        assert (tmp_path / "precious").stat().st_mtime == 0
    assert len(cache.prune(max_size=0)) == 1
    assert (tmp_path / "precious").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name here")
def test_a_pipe_in_place_of_the_mark_of_use_is_not_waited_for(cache: CompileCache) -> None:
    entry = publish(cache)
    (entry.path / "used").unlink()
    os.mkfifo(entry.path / "used")
    held(entry).release()
    assert not is_used(entry)
    assert len(cache.prune(max_size=0)) == 1


def test_windows_holds_by_the_open_file(cache: CompileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this package does there; that the system then refuses to rename is Windows' part."""
    monkeypatch.setattr(locks, "_WINDOWS", True)
    entry = publish(cache)
    assert not is_used(entry)
    taken = held(entry)
    rename = os.rename

    def refuse(source: Path, target: Path, **folders: int | None) -> None:
        if str(source).endswith("used"):
            raise PermissionError(13, "The process cannot access the file", str(source), 32)
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", refuse)
    assert is_used(entry)
    assert cache.prune(max_size=0) == []
    taken.release()
    monkeypatch.undo()
    assert len(cache.prune(max_size=0)) == 1
