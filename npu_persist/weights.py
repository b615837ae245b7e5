"""The safetensors file that an IR reads as its weights.

    8 bytes   little-endian length N of the header
    N bytes   JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, padded with
    spaces ...       the tensors, back to back, largest alignment first

The format is safetensors' own (https://github.com/huggingface/safetensors#format). The header is padded so that the
data starts on a page, which keeps every constant aligned for its type; the IR's constants point into the file as a
whole. What comes from elsewhere is checked before OpenVINO sees it: header, ranges, and each offset that an IR names.
"""

from __future__ import annotations

import itertools
import json
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.digest import Hasher
from npu_persist.errors import GraphIntegrityError
from npu_persist.manifest import DATA_ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

MAX_HEADER = 100_000_000
"""Safetensors' own limit for the header's length in bytes."""
MAX_GRAPH = 1 << 28
"""An IR's xml may be this many bytes long; its weights are not in it."""
METADATA = "__metadata__"
_LENGTH_SIZE = 8

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
    """Lay out a file: return its header (with the length before it) and where each tensor starts in the file.

    Args:
        tensors: name to (safetensors dtype, shape, size in bytes).
        metadata: text to text, kept in the header.

    """
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
    """Write header and data to `path` and return the digest of the whole file.

    Args:
        path: a new file.
        header: from `lay_out`.
        chunks: the tensors' bytes in the order of the header.
        report: called with the count of bytes written so far.

    """
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
    """Read and check the header of a safetensors file.

    Raises:
        GraphIntegrityError: the header is cut off, no JSON, names an unknown type, or its ranges leave holes, overlap
            or end beyond the file.

    """
    with path.open("rb") as file:
        size = path.stat().st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little") if len(prefix) == _LENGTH_SIZE else -1
        if not len("{}") <= length <= min(MAX_HEADER, size - 8):
            raise _bad(path, f"a header of 2 to {max(size - 8, 0)} bytes", f"length {length}")
        text = file.read(length)
    try:
        entries = json.loads(text.decode())
        metadata = entries.pop(METADATA, {})
        tensors = {name: _read_entry(entry, 8 + length) for name, entry in entries.items()}
        "".join(itertools.chain.from_iterable(metadata.items()))  # raises unless all of it is text
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _bad(path, "a safetensors header", f"{type(error).__name__}: {error}") from error
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.size)):
        if tensor.start != end:
            raise _bad(path, f"a tensor at byte {end}, without holes or overlaps", f"one at {tensor.start}")
        end += tensor.size
    if end != size:
        raise _bad(path, f"{end} bytes as its header says", f"{size} bytes")
    return Header(tensors, metadata, 8 + length)


def _read_entry(entry: Mapping[str, Any], data_start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    count = 1
    for axis in shape:
        if type(axis) is not int or axis < 0:
            raise ValueError(f"shape {list(shape)}")
        count *= axis
    if type(begin) is not int or type(end) is not int or begin < 0 or end - begin != count * ITEM_SIZES[dtype]:
        raise ValueError(f"{dtype}{list(shape)} at bytes {begin} to {end}")
    return Tensor(dtype, shape, data_start + begin, end - begin)


def check_graph(graph: Path, weights: Path) -> None:
    """Check that every constant of an IR lies inside of its weights file, before OpenVINO reads either.

    The xml is scanned without building a tree; a document type, which could define entities, is refused.

    Raises:
        GraphIntegrityError: the xml is malformed or too long, or a constant points outside of the data.

    """
    size = weights.stat().st_size
    data_start = read_header(weights).data_start
    if graph.stat().st_size > MAX_GRAPH:
        raise _bad(graph, f"at most {MAX_GRAPH} bytes", f"{graph.stat().st_size}")
    from xml.parsers import expat

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag != "data" or "offset" not in attributes:
            return
        try:
            offset, length = int(attributes["offset"]), int(attributes.get("size", ""))
        except ValueError as error:
            raise _bad(graph, "whole numbers as offset and size", str(attributes)) from error
        if not (data_start <= offset and length >= 0 and offset + length <= size):
            raise _bad(
                graph,
                f"constants between byte {data_start} and byte {size} of {weights.name}",
                f"{length} bytes at {offset}",
            )

    def refuse(*_: Any) -> None:
        raise _bad(graph, "an IR without a document type", "<!DOCTYPE>")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        with graph.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise _bad(graph, "well-formed XML", str(error)) from error


def _bad(path: Path, expected: str, got: str) -> GraphIntegrityError:
    return GraphIntegrityError(
        f"{path}: expected {expected}; got {got}. The file is damaged or was not written by npu_persist: persist or "
        "pull the bundle again."
    )
