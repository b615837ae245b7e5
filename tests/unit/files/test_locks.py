from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.files import locks
from npu_persist.files.locks import try_lock, try_share, unshared

if TYPE_CHECKING:
    from pathlib import Path

POSIX = os.name == "posix"


def test_one_at_a_time_has_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    first = try_lock(path)
    assert first is not None
    assert try_lock(path) is None
    first.release()
    first.release()
    with try_lock(path) or pytest.fail("not released"):
        assert try_lock(path) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_lock_is_released_although_a_forked_child_has_its_file_open(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "x.lock")
    assert lock is not None
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.release()
    again = try_lock(tmp_path / "x.lock")
    os.write(go[1], b".")
    os.waitpid(child, 0)
    assert again is not None


@pytest.mark.skipif(not POSIX, reason="an open file cannot be removed on Windows")
def test_the_lock_of_a_file_that_was_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    lock_file = locks._lock

    def lock_late(descriptor: int) -> bool:
        path.unlink()
        return lock_file(descriptor)

    monkeypatch.setattr(locks, "_lock", lock_late)
    assert try_lock(path) is None


@pytest.mark.skipif(not POSIX, reason="links need a privilege on Windows")
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert try_share(tmp_path / "link") is None
    with pytest.raises(OSError, match="link"):
        try_lock(tmp_path / "link")
    with unshared(tmp_path / "link") as free:
        assert free
    assert not (tmp_path / "target").exists()


def test_what_cannot_be_opened_is_no_lock_to_wait_for(tmp_path: Path) -> None:
    (tmp_path / "x.lock").mkdir()
    with pytest.raises(OSError, match=r"x\.lock"):
        try_lock(tmp_path / "x.lock")


def test_a_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from npu_persist.files.locks import try_lock; lock = try_lock(pathlib.Path(sys.argv[1]))"
    )
    path = tmp_path / "x.lock"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(bool(lock), flush=True); sys.stdin.read()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert try_lock(path) is None
        holder.kill()
        holder.wait()
    lock = try_lock(path)
    assert lock is not None
    lock.release()
