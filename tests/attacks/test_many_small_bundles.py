"""Someone fills a store with many small bundles, so that looking at all of them takes for ever.

Before: each lookup listed every version of every name, so that `verify` of a whole store took the square of their
number, and hashing a file of a few bytes cleared 8 MB first: 13 s of CPU for 500 bundles of 8 kB. Now: each version is
listed a fixed number of times, and the buffer is as large as the file: 0.6 s.
"""

from __future__ import annotations

import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from npu_persist.files.digest import BUFFER_SIZE, digest_bytes, digest_file
from npu_persist.store import Store
from tests.support.bundles import publish_tiny

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("one_name", [True, False])
def test_the_work_grows_with_the_number_of_bundles_and_not_its_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, one_name: bool
) -> None:
    work = []
    for number in (10, 40):
        store = Store(tmp_path / str(number))
        for index in range(number):
            publish_tiny(store, "tiny" if one_name else f"tiny{index}")
        calls = 0
        with monkeypatch.context() as patch:
            for name in ("listdir", "stat", "lstat"):
                call = getattr(os, name)

                def count(*arguments: object, _call: object = call, **options: object) -> object:
                    nonlocal calls
                    calls += 1
                    return _call(*arguments, **options)  # type: ignore[operator]

                patch.setattr(os, name, count)
            store.verify()
        work.append(calls)
    assert 0 < work[1] <= 5 * work[0]


def test_hashing_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"x" * 8192)
    digest_file(path)  # what is imported once
    tracemalloc.start()
    try:
        assert digest_file(path) == digest_bytes(b"x" * 8192)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BUFFER_SIZE / 10
