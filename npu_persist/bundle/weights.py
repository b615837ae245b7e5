"""The safetensors file that an IR reads as its weights.

    8 bytes   little-endian length N of the header
    N bytes   JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, padded with
    spaces ...       the tensors, back to back, largest alignment first

The format is safetensors' own (https://github.com/huggingface/safetensors#format). The header is padded so that the
data starts on a page, which keeps every constant aligned for its type; the IR's constants point into the file as a
whole. Files from elsewhere are checked before OpenVINO reads them: the header here, the graph in `graph`.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.bundle.manifest import DATA_ALIGNMENT
from npu_persist.errors import GraphIntegrityError
from npu_persist.files.digest import Hasher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

MAX_HEADER = 100_000_000
"""Safetensors' own limit for the header's length in bytes."""
MAX_RANK = 64
"""Axes of one tensor, at most."""
METADATA = "__metadata__"
_LENGTH_SIZE = 8
_MAX_DIGITS = 18
"""Digits of a number in a header or IR, at most: what these can write fits OpenVINO's signed 64 bits."""
_SHOWN = 200
"""Characters of a foreign text that an error shows."""

ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Bytes of one element, by safetensors' name of the type."""


class Tensor(NamedTuple):
    """One tensor of a file: its type by safetensors' name, its shape, and where its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte from the start of the file, not of the data."""
    size: int


class Header(NamedTuple):
    """What a safetensors file says of itself."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    data_start: int


def lay_out(
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """Lay out a file: return its header (with the length before it) and where each tensor starts in the file."""
    order = sorted(tensors, key=lambda name: (-ITEM_SIZES[tensors[name][0]], name))
    entries: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    starts: dict[str, int] = {}
    offset = 0
    for name in order:
        dtype, shape, size = tensors[name]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        starts[name] = offset
        offset += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    length = -(-(8 + len(text)) // DATA_ALIGNMENT) * DATA_ALIGNMENT - 8
    data_start = 8 + length
    return struct.pack("<Q", length) + text.ljust(length), {name: data_start + at for name, at in starts.items()}


def write(path: Path, header: bytes, chunks: Iterable[bytes | memoryview], report: Callable[[int], None]) -> str:
    """Write header and data to `path` and return the digest of the whole file."""
    hasher = Hasher()
    written = 0
    with path.open("xb") as file:
        for chunk in itertools.chain((header,), chunks):
            file.write(chunk)
            hasher.update(chunk)
            written += len(chunk)
            report(written)
    return hasher.digest()


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file."""
    with path.open("rb") as file:
        size = path.stat().st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little") if len(prefix) == _LENGTH_SIZE else -1
        if not len("{}") <= length <= min(MAX_HEADER, size - 8):
            raise malformed(path, f"a header of 2 to {max(size - 8, 0)} bytes", f"length {length}")
        text = file.read(length)
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_unique, parse_int=_integer)
        metadata = entries.pop(METADATA, {})
        tensors = {name: _read_entry(entry, 8 + length) for name, entry in entries.items()}
        "".join(itertools.chain.from_iterable(metadata.items()))  # raises unless all of it is text
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise malformed(path, "a safetensors header", f"{type(error).__name__}: {error}") from error
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.size)):
        if tensor.start != end:
            raise malformed(path, f"a tensor at byte {end}, without holes or overlaps", f"one at {tensor.start}")
        end += tensor.size
    if end != size:
        raise malformed(path, f"{end} bytes as its header says", f"{size} bytes")
    return Header(tensors, metadata, 8 + length)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name that occurs twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # which Python would take quadratic time for
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _read_entry(entry: Mapping[str, Any], data_start: int) -> Tensor:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(shape) is not list or len(shape) > MAX_RANK:
        raise ValueError(f"shape {shape}")
    numbers = (*shape, begin, end)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{dtype}{shape} at bytes {begin} to {end}")
    if end - begin != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"{dtype}{shape} in {end - begin} bytes")
    return Tensor(dtype, tuple(shape), data_start + begin, end - begin)


def malformed(path: Path, expected: str, got: str) -> GraphIntegrityError:
    """Return the error for a weights file or a graph that is not as it must be."""
    problem = f"expected {expected}; got {got[:_SHOWN]}"
    return GraphIntegrityError(
        f"{path}: {problem}. The file is damaged or was not written by npu_persist: persist or pull the bundle again.",
        problem=problem,
    )
