from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.cache import CompileCache
from npu_persist.files.staging import UNLOCKED_AGE
from tests.support.artifacts import BLOB, KEY, fill, is_used, make_artifact, publish
from tests.support.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path


POSIX = os.name == "posix"


@pytest.fixture
def cache(tmp_path: Path) -> CompileCache:
    return CompileCache(tmp_path / "home")


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
