from __future__ import annotations

import gc
import os
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.cache import CompileCache
from npu_persist.files import locks
from npu_persist.files.staging import UNLOCKED_AGE
from tests.support.artifacts import BLOB, KEY, age, fill, held, is_used, make_artifact, publish
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

    def refuse(source: Path, target: Path) -> None:
        if str(source).endswith("used"):
            raise PermissionError(13, "The process cannot access the file", str(source), 32)
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert is_used(entry)
    assert cache.prune(max_size=0) == []
    taken.release()
    monkeypatch.undo()
    assert len(cache.prune(max_size=0)) == 1


def test_one_at_a_time_has_the_claim(cache: CompileCache) -> None:
    with cache.claim(KEY, timeout=0) as first:
        assert first
        with cache.claim(KEY, timeout=0.05) as second:
            assert not second
        with cache.claim(make_artifact(graph="other").key, timeout=0) as other:
            assert other
    with cache.claim(KEY, timeout=0) as later:
        assert later


def test_waiting_ends_when_the_claim_is_given_back(cache: CompileCache) -> None:
    got = []

    def wait() -> None:
        with cache.claim(KEY, timeout=60) as claimed:
            got.append(claimed)

    with cache.claim(KEY, timeout=0):
        thread = threading.Thread(target=wait)
        thread.start()
    thread.join(60)
    assert got == [True]


def test_waiting_ends_when_the_entry_is_there_although_the_claim_is_still_held(cache: CompileCache) -> None:
    found = []

    def wait() -> None:
        with cache.claim(KEY, timeout=60):
            found.append(cache.find(KEY))

    with cache.claim(KEY, timeout=0):
        thread = threading.Thread(target=wait)
        thread.start()
        entry = publish(cache)
        thread.join(60)
        assert found == [entry]


def test_a_claim_is_given_back_when_its_block_fails(cache: CompileCache) -> None:
    with pytest.raises(ZeroDivisionError), cache.claim(KEY, timeout=0):
        _ = 1 / 0
    with cache.claim(KEY, timeout=0) as claimed:
        assert claimed


@pytest.mark.skipif(not POSIX, reason="signals are POSIX's")
def test_ctrl_c_ends_the_waiting(cache: CompileCache) -> None:
    code = """if True:
        import signal, sys, threading, os
        from pathlib import Path
        from npu_persist.cache import CompileCache

        signal.signal(signal.SIGINT, signal.default_int_handler)
        cache = CompileCache(Path(sys.argv[1]))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            with cache.claim(sys.argv[2], 600):
                print("claimed")
        except KeyboardInterrupt:
            print("interrupted")
    """
    with cache.claim(KEY, timeout=0):
        assert run_python("-c", code, str(cache.home), KEY).stdout == "interrupted\n"


LOCKLESS = {"succeeds always": None, "not implemented": 38, "no locks": 37, "none at all": 95}
"""What flock does: nothing, or fail with this number."""


@pytest.fixture(params=LOCKLESS)
def lockless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system whose locks do nothing, or that has none."""
    name: str = request.param
    no_flock(monkeypatch, LOCKLESS[name])
    return name


def no_flock(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    if POSIX:
        import fcntl

        def flock(*_: object) -> None:
            if number is not None:
                raise OSError(number, "no locks here")

        monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.skipif(not POSIX, reason="the numbers of the errors are Linux's")
def test_everything_works_without_locks(cache: CompileCache, lockless: str) -> None:
    with cache.claim(KEY, timeout=60) as first, cache.claim(KEY, timeout=60) as second:
        assert first == second == (lockless == "succeeds always")
        assert publish(cache, {BLOB_FILE: b"first"}) == publish(cache, {BLOB_FILE: b"second"})
    entry = cache.find(KEY)
    assert entry is not None
    assert (entry.mark_in_use() is None) == (lockless != "succeeds always")
    assert not is_used(entry)
    entry.verify()
    cache.quarantine(entry, "damaged")
    publish(cache).verify()
    assert {removed.reason for removed in cache.prune(max_size=0)} == {"quarantined", "not in use"}
    assert cache.entries() == ()


@pytest.mark.skipif(not POSIX, reason="the numbers of the errors are Linux's")
@pytest.mark.parametrize("lockless", list(LOCKLESS)[1:], indirect=True)
@pytest.mark.usefixtures("lockless")
def test_what_another_process_fills_is_not_pruned_without_locks_before_it_is_old(
    cache: CompileCache,
) -> None:
    with cache.stage() as staging:
        artifact = fill(staging)
        assert cache.sweep() == []
        cache.publish(artifact, staging)
    with cache.stage() as staging:
        old = time.time() - UNLOCKED_AGE - 60
        os.utime(staging, (old, old))
        assert [removed.path for removed in cache.sweep()] == [staging]


@pytest.mark.skipif(not POSIX, reason="open files can be removed on POSIX only")
def test_what_is_open_can_be_read_on_when_it_is_removed(cache: CompileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    no_flock(monkeypatch, None)
    entry = publish(cache)
    with (entry.path / BLOB_FILE).open("rb") as file:
        assert len(cache.prune(max_size=0)) == 1
        assert file.read() == BLOB
