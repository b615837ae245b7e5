"""The tensors of a weights file by their names in the module's state_dict, as floats where they were compressed.

Besides the tensors the file has, in safetensors' metadata, for a tensor that is stored under another's name (tied
weights, equal ones) that name, and under `@compressed` JSON with a record for each compressed tensor:

    "encoder.weight": {"precision": "int4", "shape": [64, 256], "values": "encoder.weight",
                       "scale": "encoder.weight@scale", "grouped": [64, 2, 128]}

The tensor is `values * scale`, broadcast over the shape `grouped` and brought into `shape`. Values of int8 are I8,
those of int4 are U8, the first of two in the low half of a byte; scales are F16.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npu_persist.bundle.weights import Header, Tensor, malformed, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPRESSED = "@compressed"
"""Key of the records in the file's metadata."""
SCALE = "@scale"
"""End of the name of a tensor that holds scales."""
_OWN = re.compile(r"constant\.[0-9]+")
"""Names of constants that are no tensors of the module."""
_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8",
}  # fmt: skip
"""numpy's types by safetensors' names; BF16 becomes float32, and numpy has no floats of 8 bits."""
_STORED_AS = {"int8": "I8", "int4": "U8"}


class CompressedTensor(NamedTuple):
    """One record: see the module's text."""

    precision: str
    shape: tuple[int, ...]
    values: str
    scale: str
    grouped: tuple[int, ...]


def describe_compressed(records: Mapping[str, CompressedTensor]) -> dict[str, str]:
    """Return the metadata for these tensors."""
    text = {name: record._asdict() for name, record in sorted(records.items())}
    return {COMPRESSED: json.dumps(text, separators=(",", ":"), ensure_ascii=False)} if records else {}


class Tensors(Mapping[str, np.ndarray[Any, Any]]):
    """The tensors of one file, each read when it is asked for.

    Args:
        path: The file.
        constants: Whether the graph's own constants, which are no tensors of the module, are among them.

    Raises:
        GraphIntegrityError: The file is damaged, or was not written by `persist`.
    """

    def __init__(self, path: Path, *, constants: bool = True) -> None:
        self._path = path
        self._header: Header = read_header(path)
        self.compressed = self._read_records()
        tensors, metadata = self._header.tensors, self._header.metadata
        self.aliases = {
            name: to
            for name, to in metadata.items()
            if name not in tensors and name not in self.compressed and (to in tensors or to in self.compressed)
        }
        hidden = {one for record in self.compressed.values() for one in (record.values, record.scale)}
        plain = {name for name in tensors if name not in hidden and (constants or not _OWN.fullmatch(name))}
        self._names = dict.fromkeys(sorted(plain | self.aliases.keys() | self.compressed.keys()))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        shape = self.shape(name)
        found = self.read(name, 0, math.prod(shape)).reshape(shape)
        found.setflags(write=False)
        return found

    def precision(self, name: str) -> str:
        """Return how a tensor is stored: "int8", "int4", or its type by safetensors' name, such as "F16"."""
        record = self.compressed.get(self.aliases.get(name, name))
        return self._find(name).dtype if record is None else record.precision

    def shares(self) -> dict[str, int]:
        """Return how many elements are stored as what, by `precision`, the most first; tied tensors count once."""
        found: dict[str, int] = {}
        for name in self:
            if name not in self.aliases:
                kind = self.precision(name)
                found[kind] = found.get(kind, 0) + math.prod(self.shape(name))
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        record = self.compressed.get(self.aliases.get(name, name))
        return self._find(name).shape if record is None else record.shape

    def size(self, name: str) -> int:
        """Return the bytes of a tensor in the file, without its scales."""
        return self._find(name).size

    def place(self, name: str) -> str:
        """Return the name that tied tensors have in common: the one that holds them."""
        return self.aliases.get(name, name)

    def read(self, name: str, first: int, count: int) -> np.ndarray[Any, Any]:
        """Return so many elements of a tensor from one on, in one axis; floats of 8 bits as bytes."""
        record, tensor = self.compressed.get(self.aliases.get(name, name)), self._find(name)
        if record is None:
            return self._read(tensor, first, count)
        if record.precision == "int4":
            odd = first % 2
            values = unpack(self._read(tensor, first // 2, (count + odd + 1) // 2))[odd : odd + count]
        else:
            values = self._read(tensor, first, count)
        scales = self._header.tensors[record.scale]
        scale = self._read(scales, 0, math.prod(scales.shape)).astype(np.float32).reshape(scales.shape)
        each = np.broadcast_to(scale, record.grouped)
        found: np.ndarray[Any, Any] = values * (
            each.reshape(-1) if count == values.size == each.size else each.flat[first : first + count]
        )
        return found

    def _find(self, name: str) -> Tensor:
        """Return the tensor that holds a name's values."""
        name = self.aliases.get(name, name)
        record = self.compressed.get(name)
        return self._header.tensors[name if record is None else record.values]

    def _read(self, tensor: Tensor, first: int, count: int) -> np.ndarray[Any, Any]:
        kind = np.dtype("<u2" if tensor.dtype == "BF16" else _DTYPES.get(tensor.dtype, "u1"))
        at = min(first * kind.itemsize, tensor.size)
        wanted = min(count * kind.itemsize, tensor.size - at)
        with self._path.open("rb") as file:
            file.seek(tensor.start + at)
            data = file.read(wanted)
        if len(data) < wanted:
            raise malformed(
                self._path, f"{tensor.size} bytes of a tensor", "fewer: the file was truncated while it was read"
            )
        found = np.frombuffer(data, kind)
        return (found.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else found

    def _read_records(self) -> dict[str, CompressedTensor]:
        try:
            found = json.loads(self._header.metadata.get(COMPRESSED, "{}"))
            return {name: self._read_record(record) for name, record in found.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise malformed(self._path, "records of compressed tensors", f"{type(error).__name__}: {error}") from error

    def _read_record(self, found: Mapping[str, Any]) -> CompressedTensor:
        record = CompressedTensor(
            found["precision"], tuple(found["shape"]), found["values"], found["scale"], tuple(found["grouped"])
        )
        values, scale = self._header.tensors[record.values], self._header.tensors[record.scale]
        if not all(type(size) is int and size >= 0 for size in (*record.shape, *record.grouped)):
            raise ValueError(f"shape {record.shape}")
        elements = math.prod(record.shape)
        size = elements if record.precision == "int8" else -(-elements // 2)
        fits = len(scale.shape) == len(record.grouped) and all(
            one in (1, whole) for one, whole in zip(scale.shape, record.grouped, strict=False)
        )
        if (
            values.dtype != _STORED_AS[record.precision]
            or values.size != size
            or scale.dtype != "F16"
            or math.prod(record.grouped) != elements
            or not fits
        ):
            raise ValueError(f"{record.precision}{list(record.shape)} of {values} and {scale}")
        return record


def unpack(packed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the integers of bytes that hold two of 4 bits each, the first in the low half."""
    pairs = np.empty((packed.size, 2), np.int8)
    pairs[:, 0] = (packed << 4).view(np.int8) >> 4
    pairs[:, 1] = packed.view(np.int8) >> 4
    return pairs.reshape(-1)
