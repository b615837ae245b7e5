from __future__ import annotations

import doctest
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npu_persist.files import digest
from npu_persist.files.digest import (
    BUFFER_SIZE,
    MAPPED_SIZE,
    Hasher,
    digest_bytes,
    digest_file,
    digest_mapped,
    is_digest,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_the_examples_run() -> None:
    assert doctest.testmod(digest).failed == 0


@given(st.lists(st.binary(max_size=64)))
def test_pieces_digest_like_the_whole(pieces: list[bytes]) -> None:
    hasher = Hasher()
    for piece in pieces:
        hasher.update(memoryview(piece))
    assert hasher.digest() == digest_bytes(b"".join(pieces))
    assert is_digest(hasher.digest())


@pytest.mark.parametrize("size", [0, 1, BUFFER_SIZE - 1, BUFFER_SIZE, BUFFER_SIZE + 1])
def test_a_file_digests_like_its_bytes_and_reports_every_one(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    seen: list[int] = []
    assert digest_file(path, progress=seen.append) == digest_bytes(data[:size])
    assert sum(seen) == size


@pytest.mark.parametrize("size", [0, 1, MAPPED_SIZE - 1, MAPPED_SIZE, MAPPED_SIZE + 1])
def test_a_mapped_file_digests_like_its_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(size)
        file.write(b"begin"[:size])
    seen: list[int] = []
    with path.open("rb", buffering=0) as opened:
        assert digest_mapped(opened, progress=seen.append) == digest_file(path)
    assert sum(seen) == size


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="peak memory is read through POSIX getrusage")
    if sys.platform == "darwin":
        pytest.skip("ru_maxrss is in bytes there")
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    digest_bytes(b"load the library first")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest_file(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 64 * 1024 * 1024


@pytest.mark.parametrize(
    "text",
    ["", "blake3:", "blake3:abcd", "a" * 64, "sha256:" + "a" * 64, "blake3:" + "A" * 64, "blake3:" + "a" * 64 + "\n"],
)
def test_a_text_that_is_no_whole_digest(text: str) -> None:
    assert not is_digest(text)
