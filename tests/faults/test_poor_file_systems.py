"""File systems that lack something: locks, the flushing of directories, hard links, permissions."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist.cache import CompileCache
from npu_persist.store import Store
from npu_persist.store.export import export
from npu_persist.trust.keys import KeyRing, PublicKey
from tests.support.artifacts import publish as publish_entry
from tests.support.artifacts import quarantined
from tests.support.bundles import publish_tiny
from tests.support.faults import MODE, path_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


posix = pytest.mark.skipif(os.name == "nt", reason="Windows has neither flock nor the flushing of directories")


def use_everything(home: Path) -> None:
    """Publish, look up, alias, export, verify, cache, remove and prune; check that each did what it says."""
    store, cache, keys = Store(home), CompileCache(home), KeyRing(home)
    publish_tiny(store, alias="prod")
    assert publish_tiny(store).version == 2
    assert store.alias("tiny:2", "next") == "tiny:2"
    store.verify()
    assert all(path.is_file() for path in export("tiny:prod", "openvino", home.parent / "out", store=store))
    keys.add("acme", PublicKey(bytes(32)))
    assert list(keys.read()) == ["acme"]
    keys.remove("acme")
    assert keys.read() == {}
    entry = publish_entry(cache)
    with cache.claim("0" * 64, timeout=1):
        assert cache.find(entry.key) == entry
    cache.quarantine(entry, "damaged")
    assert len(quarantined(cache)) == 1
    publish_entry(cache).verify()
    assert store.remove("tiny:1", force=True) == "tiny:1"
    assert store.aliases("tiny") == {"next": 2}
    store.unalias("tiny", "next")
    npu_persist.prune(store=store)
    assert (store.versions("tiny"), store.aliases("tiny"), quarantined(cache)) == ((2,), {}, [])
    assert publish_tiny(store).version == 3


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.ENOSYS])
def test_directories_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fsync, refused = os.fsync, []

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused.append(descriptor)
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    use_everything(tmp_path / "home")
    assert refused


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    import fcntl

    refused = []

    def refuse(descriptor: int, _operation: int) -> None:
        refused.append(descriptor)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    use_everything(tmp_path / "home")
    assert refused


@posix
def test_locks_that_cannot_be_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last thing that happens to a published version is no reason to take it back."""
    import fcntl

    flock, refused = fcntl.flock, []

    def refuse(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:
            refused.append(descriptor)
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    use_everything(tmp_path / "home")
    assert refused


LINKS = [("link", number) for number in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV)]
MODES = [(MODE, number) for number in (errno.EPERM, errno.ENOTSUP)]


@pytest.mark.parametrize(("name", "number"), LINKS + MODES)
def test_no_hard_links_and_no_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """Read-only modes are a courtesy: what is read is compared with its digest."""
    refused = []

    def refuse(*arguments: object) -> None:
        refused.append(arguments)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, refuse)
    use_everything(tmp_path / "home")
    assert refused


@contextmanager
def in_use(path: Path, number: int) -> Iterator[None]:
    """Have a file open on Windows; elsewhere let the system refuse to remove it."""
    unlink = os.unlink

    def refuse(name: str, *, dir_fd: int | None = None) -> None:
        if path_at(name, dir_fd).name == path.name:
            raise OSError(number, os.strerror(number))
        unlink(name, dir_fd=dir_fd)

    with path.open("rb"), pytest.MonkeyPatch.context() as patch:
        if os.name != "nt":
            patch.setattr(os, "unlink", refuse)
        yield


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOTEMPTY])
def test_prune_passes_over_what_is_in_use(tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    store, cache = Store(tmp_path / "home"), CompileCache(tmp_path / "home")
    first, *_ = [publish_tiny(store).path for _ in range(3)]
    cache.quarantine(publish_entry(cache), "damaged")
    removed, leftover = first.parent / "removed", tmp_path / "home" / "staging" / "0123456789abcdef"
    store.remove("tiny:2")
    first.rename(removed / "1")
    with in_use(removed / "1" / "weights.safetensors", number):
        leftover.mkdir()
        assert removed / "1" not in npu_persist.prune(store=store)
        assert not leftover.exists()
        assert quarantined(cache) == []
    assert str(removed / "1") in caplog.text
    assert removed / "1" in npu_persist.prune(store=store)
    assert [path.name for path in removed.rglob("*")] == ["2"]
