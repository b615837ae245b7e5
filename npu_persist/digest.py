"""Digests of bytes and files: BLAKE3, written `blake3:` and 64 lowercase hex digits.

The promise: equal digests mean equal bytes, and digesting a file costs one pass over it and a fixed amount of memory,
whatever the file's size (a mapped file would count as resident).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from npu_persist.errors import ReferenceFormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from os import PathLike
    from typing import TypeAlias

    from blake3 import blake3

    Bytes: TypeAlias = bytes | bytearray | memoryview

ALGORITHM = "blake3"
"""Name of the digest algorithm, and what stands before the colon."""

HEX_LENGTH = 64
"""Hex digits of a whole digest."""

BUFFER_SIZE = 8 * 1024 * 1024
"""Bytes read at a time: enough that several threads share the work of one update."""

CACHED_SIZE = 1024 * 1024
"""Bytes read at a time that a core's cache still holds when they are hashed: a third less work than from memory."""

_DIGEST = re.compile(rf"{ALGORITHM}:[0-9a-f]{{{HEX_LENGTH}}}", re.ASCII)


class Hasher:
    """A digest of bytes that come piece by piece.

    >>> hasher = Hasher()
    >>> hasher.update(b"ab")
    >>> hasher.update(b"c")
    >>> hasher.digest() == digest_bytes(b"abc")
    True
    """

    def __init__(self, *, is_beside: bool = False) -> None:
        self._hash = _new_hash(is_beside=is_beside)

    def update(self, data: Bytes) -> None:
        """Add `data`, any contiguous bytes-like object. Large pieces are hashed by several threads, without the GIL."""
        self._hash.update(data)

    def digest(self) -> str:
        """Return the digest of everything so far; more may be added afterwards."""
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
    """Return the digest of a file's content.

    Args:
        path: The file.
        progress: Called after each piece with the number of bytes in it.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (pathlib is slower to import, and a str will do)
        return digest_stream(file, progress=progress)


def digest_stream(
    file: FileIO, *, progress: Callable[[int], object] | None = None, is_beside: bool = False
) -> str:
    """Return the digest of what is left to read of a file that was opened without a buffer.

    Args:
        file: The file.
        progress: Called after each piece with the number of bytes in it.
        is_beside: Take one thread, and pieces that stay in its cache: least work where other threads are busy.

    Raises:
        OSError: The file cannot be read.
    """
    hasher = Hasher(is_beside=is_beside)
    buffer = memoryview(bytearray(BUFFER_SIZE if not is_beside else CACHED_SIZE))
    while count := file.readinto(buffer):
        hasher.update(buffer[:count])
        if progress is not None:
            progress(count)
    return hasher.digest()


def parse_digest(text: str) -> str:
    """Return `text` if it is a whole digest.

    Raises:
        ReferenceFormatError: It is not.
    """
    if not is_digest(text):
        raise ReferenceFormatError(
            f"not a digest: expected {ALGORITHM}:<{HEX_LENGTH} lowercase hex digits>, got {text!r}"
        )
    return text


def is_digest(text: str) -> bool:
    """Tell whether `text` is a whole digest."""
    return _DIGEST.fullmatch(text) is not None


def _new_hash(*, is_beside: bool) -> blake3:
    from blake3 import blake3  # a native library: not loaded before the first digest

    return blake3(max_threads=1 if is_beside else blake3.AUTO)
