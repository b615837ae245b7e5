from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.errors import (
    StoreError,
    UsageError,
)
from npu_persist.store import Store
from tests.support.bundles import WEIGHTS, publish_tiny, tiny_golden
from tests.support.faults import ALLOCATING, CHANGING, before_call, disk_full
from tests.support.stores import snapshot, staging_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refusal(act: Callable[[], object]) -> StoreError | None:
    """Return the error if `act` is refused for want of space."""
    try:
        act()
    except StoreError as error:
        return error if error.errno == errno.ENOSPC else None
    return None


def _count_calls(store: Store, names: tuple[str, ...], act: Callable[[], object]) -> int:
    calls: list[str] = []
    with before_call(lambda _, name: calls.append(name), names):
        act()
    assert staging_of(store) == []
    return len(calls)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_at_any_step_of_a_publish_leaves_the_store_as_it_was(tmp_path: Path, lasting: bool) -> None:  # noqa: FBT001
    names = ALLOCATING if lasting else tuple(name for name in CHANGING if name not in {"unlink", "rmdir"})
    total, published = 1, 0
    number = 0
    while number <= total:
        store = Store(tmp_path / f"store{number}")
        publish_tiny(store, alias="prod")
        if not number:
            total = _count_calls(store, names, lambda: publish_tiny(store, golden=tiny_golden("second"), alias="prod"))  # noqa: B023
            assert total > 20
        else:
            before = snapshot(store)

            def fail(call: int, _: str, number: int = number) -> None:
                if call == number or (lasting and call > number):
                    disk_full()

            with before_call(fail, names):
                error = refusal(lambda: publish_tiny(store, golden=tiny_golden("second"), alias="prod"))  # noqa: B023
            if error is not None:
                assert "Free some space" in str(error)
                assert snapshot(store) == before
            else:  # a link was refused, and the file copied; or the last flush, when all was done
                published += 1
                assert store.aliases("tiny") == {"prod": 2}
            store.verify()
            assert staging_of(store) == []
            assert store.prune() == []
        number += 1
    assert published < total / 2


def test_a_full_disk_at_the_first_publish_leaves_no_name(tmp_path: Path) -> None:
    total = _count_calls(
        Store(tmp_path / "count"), ALLOCATING, lambda: publish_tiny(Store(tmp_path / "count"), alias="a")
    )
    for number in range(1, total + 1):
        store = Store(tmp_path / f"store{number}")

        def fail(call: int, _: str, number: int = number) -> None:
            if call >= number:
                disk_full()

        with suppress(StoreError), before_call(fail, ALLOCATING):
            publish_tiny(store, alias="a")
            continue
        assert (store.names(), store.list()) == ((), [])
        assert not (store.home / "bundles" / "tiny").exists()
        assert publish_tiny(store, "Tiny").version == 1


def test_a_disk_that_is_full_while_staging_is_a_store_error(store: Store) -> None:
    with pytest.raises(StoreError, match=r"could not write to .*Free some space") as caught, store.stage():
        disk_full()
    assert caught.value.errno == errno.ENOSPC
    assert staging_of(store) == []


def test_a_failed_tag_or_removal_leaves_the_store_as_it_was(store: Store) -> None:
    publish_tiny(store, alias="prod")
    publish_tiny(store)
    before = snapshot(store)
    attempts: list[tuple[tuple[str, ...], Callable[[], object]]] = [
        (("open",), lambda: store.alias("tiny:2", "prod")),
        (("replace",), lambda: store.alias("tiny:2", "prod")),
        (("fsync",), lambda: store.alias("tiny:2", "dev")),
        (("rename",), lambda: store.remove("tiny:2")),
    ]
    for names, verb in attempts:
        with pytest.raises(StoreError, match="Free some space"), before_call(disk_full, names):
            verb()
        assert snapshot(store) == before
        assert staging_of(store) == []


@pytest.mark.parametrize("path", [b"store", 1, "a\0b"])
def test_a_home_that_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(UsageError, match=r"store: expected a (directory|path)"):
        Store(path)


def test_a_home_that_cannot_be_one_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file")
    calls: list[Callable[[], object]] = [store.names, store.list, store.prune, lambda: store.resolve("tiny")]
    calls += [lambda: store.list("tiny"), lambda: publish_tiny(store), lambda: store.versions("tiny")]
    for call in calls:
        with pytest.raises(StoreError, match="Check the folder"):
            call()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_a_home_that_may_not_be_written_is_a_store_error(store: Store) -> None:
    store.home.mkdir()
    store.home.chmod(0o555)
    with pytest.raises(StoreError, match="Check the permissions"):
        publish_tiny(store)


def test_a_really_full_disk_leaves_the_store_as_it_was(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    publish_tiny(store, alias="prod")
    before = snapshot(store)
    filler = small_disk / "filler"
    refused = 0
    # Less and less is left: first the weights do not fit, at last not even a folder.
    for left in (200, 100, 48, 32, 16, 8, 4, 0):
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - left * 1024)
        if refusal(
            lambda: publish_tiny(store, weights=WEIGHTS + bytes(50_000), golden=tiny_golden("x" * 20_000), alias="prod")
        ):
            refused += 1
            assert snapshot(store) == before
        else:
            before = snapshot(store)
        assert staging_of(store) == []
    filler.unlink()
    assert refused >= 6
    store.verify()
    assert publish_tiny(store).reference == f"tiny:{len(before['entries']) + 1}"


def test_a_disk_out_of_inodes_leaves_the_store_as_it_was(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    publish_tiny(store)
    before = snapshot(store)
    refused = 0
    fillers: list[Path] = []
    with suppress(OSError):
        while True:
            filler = small_disk / f"filler{len(fillers)}"
            filler.touch()
            fillers.append(filler)
    while refusal(lambda: publish_tiny(store, golden=tiny_golden("second"), alias="prod")):
        refused += 1
        assert snapshot(store) == before
        assert staging_of(store) == []
        fillers.pop().unlink()
    assert refused > 5
    assert store.aliases("tiny") == {"prod": 2}
    store.verify()
