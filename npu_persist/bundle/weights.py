"""The safetensors file that an IR reads as its weights.

    8 bytes   little-endian length N of the header
    N bytes   JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, padded with
    spaces ...       the tensors, back to back, largest alignment first

The format is safetensors' own (https://github.com/huggingface/safetensors#format). The header is padded so that the
data starts on a page, which keeps every constant aligned for its type; the IR's constants point into the file as a
whole. What comes from elsewhere is checked before OpenVINO sees it: header, ranges, and each constant of an IR.
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
MAX_GRAPH = 1 << 28
"""An IR's xml may be this many bytes long; its weights are not in it."""
MAX_DEPTH = 100
"""An IR's elements may be nested this deep: OpenVINO follows bodies of loops by recursion, and has no limit."""
MAX_RANK = 64
"""Axes of one tensor or constant, at most."""
METADATA = "__metadata__"
_LENGTH_SIZE = 8
_MAX_DIGITS = 18
"""Digits of a number in a header or IR, at most: what these can write fits OpenVINO's signed 64 bits."""
_SHOWN = 200
"""Characters of a foreign text that an error shows."""
_RANGE_ATTRIBUTE = "WeightlessCacheAttribute"
"""A runtime attribute that names a range of the weights file, unchecked until OpenVINO's PR #37261. It belongs to
cached blobs; `save_model` does not write it."""

ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Bytes of one element, by safetensors' name of the type."""

BIT_SIZES = {
    "boolean": 8, "u8": 8, "i8": 8, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8, "u16": 16, "i16": 16, "f16": 16, "bf16": 16,
    "u32": 32, "i32": 32, "f32": 32, "u64": 64, "i64": 64, "f64": 64, "u1": 1, "u2": 2, "u4": 4, "i4": 4, "nf4": 4,
    "f4e2m1": 4,
}  # fmt: skip
"""Bits of one element, by OpenVINO's name of the type. Strings are left out: they are ranges inside of a constant."""


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
            raise _bad(path, f"a header of 2 to {max(size - 8, 0)} bytes", f"length {length}")
        text = file.read(length)
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_unique, parse_int=_integer)
        metadata = entries.pop(METADATA, {})
        tensors = {name: _read_entry(entry, 8 + length) for name, entry in entries.items()}
        "".join(itertools.chain.from_iterable(metadata.items()))  # raises unless all of it is text
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _bad(path, "a safetensors header", f"{type(error).__name__}: {error}"[:_SHOWN]) from error
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.size)):
        if tensor.start != end:
            raise _bad(path, f"a tensor at byte {end}, without holes or overlaps", f"one at {tensor.start}")
        end += tensor.size
    if end != size:
        raise _bad(path, f"{end} bytes as its header says", f"{size} bytes")
    return Header(tensors, metadata, 8 + length)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name that stands twice")
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


def check_graph(graph: Path, weights: Path) -> Header:
    """Check that every constant of an IR lies inside of its weights file, before OpenVINO reads either.

    The xml is scanned without building a tree. OpenVINO's own checks leave holes: a shape whose size overflows, a
    constant that brings a text as its value, bodies nested until the stack ends.
    """
    size = weights.stat().st_size
    header = read_header(weights)
    if graph.stat().st_size > MAX_GRAPH:
        raise _bad(graph, f"at most {MAX_GRAPH} bytes", f"{graph.stat().st_size}")
    from xml.parsers import expat

    scan = _Scan(graph, header.data_start, size)
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = scan.start
    parser.EndElementHandler = scan.end
    parser.StartDoctypeDeclHandler = scan.refuse_document_type
    try:
        with graph.open("rb") as file:
            # Other encodings, which expat tells by their first bytes, would be read by two parsers in two ways.
            if file.read(len(b"<net")) not in {b"<?xm", b"<net"}:
                raise _bad(graph, "well-formed XML", "something else")
            file.seek(0)
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise _bad(graph, "well-formed XML", str(error)) from error
    return header


class _Scan:
    """What the scan of an IR remembers, and what it refuses."""

    def __init__(self, graph: Path, data_start: int, file_size: int) -> None:
        self.graph = graph
        self.data_start = data_start
        self.file_size = file_size
        self.depth = 0
        self.layers: list[str | None] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _bad(self.graph, f"at most {MAX_DEPTH} elements inside each other", "more")
        if tag == "layer":
            self.layers.append(attributes.get("type"))
        elif tag == "data" and self.layers and self.layers[-1] == "Const":
            self.check_constant(attributes)
        elif attributes.get("name") == _RANGE_ATTRIBUTE:
            raise _bad(self.graph, "constants that say themselves where they are", _RANGE_ATTRIBUTE)

    def end(self, tag: str) -> None:
        self.depth -= 1
        if tag == "layer":
            self.layers.pop()

    def check_constant(self, attributes: dict[str, str]) -> None:
        """Check one constant: `<data element_type="f32" shape="2, 3" offset="4096" size="24"/>`."""
        bits = BIT_SIZES.get(attributes.get("element_type", ""))
        shape = [axis.strip() for axis in attributes.get("shape", "?").split(",")]
        numbers = [attributes.get("offset", ""), attributes.get("size", ""), *(shape if shape != [""] else ())]
        if bits is None or len(numbers) > MAX_RANK or "value" in attributes or not all(map(_is_number, numbers)):
            raise _bad(self.graph, "constants with a type, shape, offset and size", f"{attributes}"[:_SHOWN])
        offset, size, *axes = map(int, numbers)
        if not self.data_start <= offset <= offset + size <= self.file_size:
            raise _bad(
                self.graph,
                f"constants between byte {self.data_start} and byte {self.file_size} of its weights file",
                f"{size} bytes at {offset}",
            )
        if (math.prod(axes) * bits + 7) // 8 > size or offset * 8 % max(bits, 8):
            raise _bad(self.graph, "constants that are aligned and as large as their shape", f"{attributes}"[:_SHOWN])

    def refuse_document_type(self, *_: Any) -> None:
        raise _bad(self.graph, "an IR without a document type", "<!DOCTYPE>")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def _bad(path: Path, expected: str, got: str) -> GraphIntegrityError:
    return GraphIntegrityError(
        f"{path}: expected {expected}; got {got}. The file is damaged or was not written by npu_persist: persist or "
        "pull the bundle again."
    )
