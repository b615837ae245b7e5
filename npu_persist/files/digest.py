"""BLAKE3 digests of bytes and files, written `blake3:` and 64 lowercase hex digits."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from os import PathLike
    from typing import TypeAlias

    Bytes: TypeAlias = bytes | bytearray | memoryview

ALGORITHM = "blake3"
"""What stands before the colon."""

HEX_LENGTH = 64
"""Hex digits of a whole digest."""

BUFFER_SIZE = 8 * 1024 * 1024
"""Bytes read at a time: enough for several threads to share the work of one update."""

SMALL_BUFFER_SIZE = 64 * 1024
"""Bytes read at a time of smaller files: clearing a large buffer takes longer than hashing them."""

MAPPED_SIZE = 64 * 1024 * 1024
"""Bytes of a mapped file hashed at a time."""

_DIGEST = re.compile(rf"{ALGORITHM}:[0-9a-f]{{{HEX_LENGTH}}}", re.ASCII)


class Hasher:
    """A digest of bytes that come piece by piece.

    >>> hasher = Hasher()
    >>> hasher.update(b"ab")
    >>> hasher.update(b"c")
    >>> hasher.digest() == digest_bytes(b"abc")
    True
    """

    def __init__(self, *, threads: int | None = None) -> None:
        """Begin with nothing."""
        from blake3 import blake3  # a native library: not loaded before the first digest

        self._hash = blake3(max_threads=blake3.AUTO if threads is None else threads)

    def update(self, data: Bytes) -> None:
        """Add contiguous bytes. Large pieces are hashed by several threads, without the GIL."""
        self._hash.update(data)

    def digest(self) -> str:
        """Return the digest so far; more may be added afterwards."""
        return f"{ALGORITHM}:{self._hash.hexdigest()}"


def digest_bytes(data: Bytes) -> str:
    """Return the digest of `data`.

    >>> digest_bytes(b"")
    'blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262'
    """
    hasher = Hasher()
    hasher.update(data)
    return hasher.digest()


def digest_file(path: str | PathLike[str], *, progress: Callable[[int], object] | None = None) -> str:
    """Return the digest of a file; `progress` is called with the size of each piece."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (pathlib is slower to import, and a str will do)
        return digest_stream(file, progress=progress)


def digest_stream(file: FileIO, *, progress: Callable[[int], object] | None = None) -> str:
    """Return the digest of the rest of an unbuffered file.

    It is read, not mapped: a mapped file would count as resident memory.
    """
    hasher = Hasher()
    size = os.fstat(file.fileno()).st_size
    buffer = memoryview(bytearray(min(BUFFER_SIZE, max(size, SMALL_BUFFER_SIZE))))
    while count := file.readinto(buffer):
        hasher.update(buffer[:count])
        if progress is not None:
            progress(count)
    return hasher.digest()


def digest_mapped(file: FileIO, *, progress: Callable[[int], object] | None = None) -> str:
    """Return the digest of a whole unbuffered file, in one thread that hardly ever needs the GIL.

    Made to run beside a load. The file is mapped, which costs half of copying its pages where OpenVINO maps them
    anyway; and pieces are large, since after each a thread waits up to 5 ms for the GIL while another runs Python.
    Nobody may shorten the file meanwhile.
    """
    import mmap

    hasher = Hasher(threads=1)
    if not (size := os.fstat(file.fileno()).st_size):
        return hasher.digest()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        if hasattr(pages, "madvise"):
            pages.madvise(mmap.MADV_SEQUENTIAL)
        with memoryview(pages) as data:
            for start in range(0, size, MAPPED_SIZE):
                with data[start : start + MAPPED_SIZE] as piece:
                    hasher.update(piece)
                    if progress is not None:
                        progress(len(piece))
    return hasher.digest()


def is_digest(text: str) -> bool:
    """Tell whether `text` is a whole digest."""
    return _DIGEST.fullmatch(text) is not None
