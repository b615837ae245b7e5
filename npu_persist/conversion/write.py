"""Writes a converted model as `model.xml` and `weights.safetensors`; equal models give equal bytes.

OpenVINO's own writer makes xml and bin. From these the weights are laid out anew as a safetensors file under the names
of the module's state_dict, and the xml gets the new offsets.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov
import torch

from npu_persist.bundle import weights as safetensors_file
from npu_persist.bundle.manifest import Precision, Weights
from npu_persist.conversion.rewrites import XML_REWRITES
from npu_persist.conversion.rewrites.bfloat16 import has_large_bfloat16, replace_bfloat16
from npu_persist.conversion.rewrites.half_precision import COMPRESSED, find_exact, restore_exact
from npu_persist.files.digest import Hasher, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from io import BufferedReader
    from pathlib import Path

_TYPES = {
    "boolean": "BOOL", "u8": "U8", "i8": "I8", "u16": "U16", "i16": "I16", "u32": "U32", "i32": "I32", "u64": "U64",
    "i64": "I64", "f16": "F16", "bf16": "BF16", "f32": "F32", "f64": "F64", "f8e4m3": "F8_E4M3", "f8e5m2": "F8_E5M2",
}  # fmt: skip
"""OpenVINO's type names to safetensors'. Others (u4, i4, u1, nf4, string) are stored as U8."""
_CHUNK = 8 << 20


class Written(NamedTuple):
    """What was written: the manifest's entry for the weights, and the files' digests by name."""

    weights: Weights
    digests: dict[str, str]


class _Constant(NamedTuple):
    """A range of OpenVINO's bin file, and all layers that read it as the same type."""

    offset: int
    size: int
    type: str
    shape: tuple[int, ...]
    layers: list[ET.Element]
    exact: np.ndarray[Any, Any] | None
    """The values, where they are not to be read from OpenVINO's file."""


def write_ir(
    model: ov.Model,
    module: torch.nn.Module,
    directory: Path,
    *,
    precision: Precision,
    report: Callable[[float], None],
) -> Written:
    """Write `model.xml` and `weights.safetensors` into a directory."""
    state = {
        name: tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items() if torch.is_tensor(tensor)
    }
    names = _name_constants(model, state)
    exact = find_exact(model) if precision == "fp16" else {}
    draft, draft_bin = directory / "draft.xml", directory / "draft.bin"
    ov.save_model(model, draft, compress_to_fp16=precision == "fp16")
    try:
        root = ET.parse(draft).getroot()  # noqa: S314 - written by OpenVINO a moment ago
        restore_exact(root, exact)
        constants = _collect(root, exact)
        bfloat16_as = "f16" if precision == "fp16" and not has_large_bfloat16(model) else "f32"
        with draft_bin.open("rb") as source:
            chosen, aliases = _name_tensors(constants, names, state, source)
            tensors = [
                _Tensor(constant, name, tuple(state[name].shape) if name in state else constant.shape, bfloat16_as)
                for constant, name in zip(constants, chosen, strict=True)
            ]
            weights, digest = _write_weights(tensors, aliases, source, directory / "weights.safetensors", report)
        replace_bfloat16(root, bfloat16_as)
        for rewrite in XML_REWRITES:
            rewrite(root)
        text = b'<?xml version="1.0"?>\n' + ET.tostring(root, encoding="utf-8")
        (directory / "model.xml").write_bytes(text)
    finally:
        draft.unlink(missing_ok=True)
        draft_bin.unlink(missing_ok=True)
    return Written(weights, {weights.path: digest, "model.xml": digest_bytes(text)})


def _name_constants(model: ov.Model, state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Give each constant a unique name; return the state_dict name of those that are tensors of the module.

    A constant shares its tensor's memory when it reached the graph unchanged; otherwise the frontend's name identifies
    it, as long as the count of elements agrees.
    """
    by_memory: dict[tuple[int, int], str] = {}
    for key, tensor in state.items():
        by_memory.setdefault((tensor.data_ptr(), tensor.nbytes), key)
    names: dict[str, str] = {}
    for index, operation in enumerate(model.get_ordered_ops()):
        if operation.get_type_name() != "Constant":
            continue
        own = re.sub(r"^self\.(module\.)?", "", operation.get_friendly_name())
        data = operation.data
        name: str | None = by_memory.get((data.ctypes.data, operation.get_byte_size())) if data.size else None
        if name is None and own in state and state[own].numel() == data.size:
            name = own
        unique = f"constant#{index}"
        operation.set_friendly_name(unique)
        if name is not None:
            names[unique] = name
    return names


def _original(layer: ET.Element) -> str:
    return (layer.get("name") or "").removesuffix(COMPRESSED)


def _collect(root: ET.Element, exact: Mapping[str, np.ndarray[Any, Any]]) -> list[_Constant]:
    """Return the constants in the order in which the graph first reads them."""
    found: dict[tuple[int | str, int, str], _Constant] = {}
    for layer in root.iter("layer"):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None:
            continue
        offset, size, kind = int(data.get("offset", "")), int(data.get("size", "")), data.get("element_type", "")
        shape = tuple(int(axis) for axis in data.get("shape", "").split(",") if axis.strip())
        if 0 in shape:  # OpenVINO writes a byte for it, which no tensor of the file would account for
            size = 0
        values = exact.get(_original(layer))
        key: tuple[int | str, int, str] = (offset, size, kind)
        if values is not None:
            offset, size = 0, values.nbytes
            key = (digest_bytes(_bytes_of(values)), size, kind)
        found.setdefault(key, _Constant(offset, size, kind, shape, [], values)).layers.append(layer)
    return list(found.values())


def _name_tensors(
    constants: list[_Constant], names: Mapping[str, str], state: Mapping[str, torch.Tensor], source: BufferedReader
) -> tuple[list[str], dict[str, str]]:
    """Return the name to store each constant under, and for other names of the state_dict the one with their tensor.

    Tensors that the graph does not name are found by memory (tied weights) and by content (copied biases, merged equal
    tensors).
    """
    chosen: list[str | None] = []
    held: dict[str, int] = {}  # which constant holds a tensor of the state_dict
    for position, constant in enumerate(constants):
        owners = [names[key] for layer in constant.layers if (key := _original(layer)) in names]
        chosen.append(next((owner for owner in owners if owner not in held), None))
        held = dict.fromkeys(owners, position) | held
    by_memory = {_memory(state[name]): position for name, position in held.items()}
    tied = {name: by_memory[place] for name, tensor in state.items() if (place := _memory(tensor)) in by_memory}
    held = tied | held
    missing = {name: tensor for name, tensor in state.items() if name not in held}
    for position, name in _find_equal(constants, missing, source):
        if chosen[position] is None and name not in held:
            chosen[position] = name
        held.setdefault(name, position)
    stored = [name or f"constant.{position}" for position, name in enumerate(chosen)]
    shapes = [
        tuple(state[name].shape) if name in state else constant.shape
        for name, constant in zip(stored, constants, strict=True)
    ]
    return stored, {
        name: stored[position]
        for name, position in held.items()
        if name != stored[position] and tuple(state[name].shape) == shapes[position]
    }


def _memory(tensor: torch.Tensor) -> tuple[int, int, torch.Size]:
    return tensor.data_ptr(), tensor.nbytes, tensor.shape


def _find_equal(
    constants: list[_Constant], tensors: Mapping[str, torch.Tensor], source: BufferedReader
) -> Iterator[tuple[int, str]]:
    """Yield the position of each constant that holds one of the tensors, and the tensor's name."""
    sizes = {(constant.type, constant.size) for constant in constants}
    wanted: dict[tuple[str, int], dict[str, list[str]]] = {}
    for name, tensor in tensors.items():
        for kind, data in _stored_forms(tensor):
            if (kind, data.nbytes) in sizes:
                by_digest = wanted.setdefault((kind, data.nbytes), {})
                by_digest.setdefault(digest_bytes(_bytes_of(data)), []).append(name)
    for position, constant in enumerate(constants):
        if by_digest := wanted.get((constant.type, constant.size), {}):
            hasher = Hasher()
            for chunk in _read(source, constant):
                hasher.update(chunk)
            yield from ((position, name) for name in by_digest.get(hasher.digest(), []))


class _Tensor(NamedTuple):
    """A constant as the safetensors file has it."""

    constant: _Constant
    name: str
    shape: tuple[int, ...]
    bfloat16_as: str

    def entry(self) -> tuple[str, tuple[int, ...], int]:
        """Return its type, shape and size in the file."""
        constant = self.constant
        kind = self.bfloat16_as if constant.type == "bf16" else constant.type
        size = constant.size * (2 if constant.type == "bf16" and kind == "f32" else 1)
        return _TYPES.get(kind, "U8"), self.shape if kind in _TYPES else (size,), size

    def read(self, source: BufferedReader) -> Iterator[bytes | memoryview]:
        for chunk in _read(source, self.constant):
            if self.constant.type != "bf16":
                yield chunk
                continue
            wide = (np.frombuffer(chunk, np.uint16).astype(np.uint32) << 16).view(np.float32)
            with np.errstate(over="ignore"):
                yield _bytes_of(wide if self.bfloat16_as == "f32" else wide.astype(np.float16))


def _write_weights(
    tensors: list[_Tensor],
    aliases: Mapping[str, str],
    source: BufferedReader,
    path: Path,
    report: Callable[[float], None],
) -> tuple[Weights, str]:
    """Write the weights file and point the layers at it; return its manifest entry and digest."""
    entries = {tensor.name: tensor.entry() for tensor in tensors}
    header, starts = safetensors_file.lay_out(entries, {"format": "pt", **aliases})
    size = sum(size for _, _, size in entries.values())
    ordered = sorted(tensors, key=lambda tensor: starts[tensor.name])
    chunks = (chunk for tensor in ordered for chunk in tensor.read(source))
    total = len(header) + size
    digest = safetensors_file.write(path, header, chunks, lambda done: report(done / total))
    for tensor in tensors:
        for layer in tensor.constant.layers:
            layer.set("name", tensor.name)
            for data in layer.iterfind("data"):
                data.set("offset", str(starts[tensor.name]))
                data.set("size", str(entries[tensor.name][2]))
    return Weights(path.name, len(header), size, len(entries)), digest


def _stored_forms(tensor: torch.Tensor) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield the forms in which a tensor may have been stored: as it is, and as half precision."""
    tensor = tensor.cpu().contiguous()
    if tensor.numel() == 0 or tensor.is_complex():
        return
    if tensor.dtype is torch.bfloat16:
        yield "bf16", tensor.view(torch.int16).numpy()
        return
    array = tensor.numpy()
    kind = {"bool": "boolean", "float16": "f16", "float32": "f32", "float64": "f64"}.get(array.dtype.name)
    kind = kind or f"{array.dtype.kind}{array.dtype.itemsize * 8}"
    yield kind, array
    if kind in {"f32", "f64"}:
        with np.errstate(over="ignore"):
            yield "f16", array.astype(np.float16)


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _read(source: BufferedReader, constant: _Constant) -> Iterator[memoryview]:
    if constant.exact is not None:
        yield _bytes_of(constant.exact)
        return
    buffer = memoryview(bytearray(min(_CHUNK, constant.size)))
    source.seek(constant.offset)
    left = constant.size
    while left:
        count = source.readinto(buffer[: min(left, len(buffer))])
        if not count:
            raise EOFError(f"OpenVINO's weights file ends {left} bytes early")
        left -= count
        yield buffer[:count]
