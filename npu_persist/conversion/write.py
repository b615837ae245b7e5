"""Writes a converted model as `model.xml` and `weights.safetensors`; equal models give equal bytes.

OpenVINO's own writer makes xml and bin. From these the weights are laid out anew as a safetensors file under the names
of the module's state_dict, and the xml gets the new offsets.
"""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov
import torch
from safetensors.numpy import save

from npu_persist.bundle import weights as safetensors_file
from npu_persist.bundle.manifest import Refresh, Weights
from npu_persist.bundle.tensors import SCALE, CompressedTensor, describe_compressed
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.conversion.calibrate import calibrate, quantize_activations
from npu_persist.conversion.compress import Compressed, Plan, compress
from npu_persist.conversion.origins import OWN
from npu_persist.conversion.rewrites import XML_REWRITES
from npu_persist.conversion.rewrites.bfloat16 import has_large_bfloat16, replace_bfloat16
from npu_persist.conversion.rewrites.half_precision import (
    COMPRESSED,
    find_exact,
    halve,
    mark_halved,
    restore_exact,
)
from npu_persist.conversion.stateful import make_stateful
from npu_persist.errors import StoreError
from npu_persist.files.digest import Hasher, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from io import BufferedReader
    from pathlib import Path

    from npu_persist.bundle.graph_records import Precision
    from npu_persist.conversion.call import Call, Results
    from npu_persist.conversion.origins import Origins
    from npu_persist.conversion.states import States

_TYPES = {
    "boolean": "BOOL", "u8": "U8", "i8": "I8", "u16": "U16", "i16": "I16", "u32": "U32", "i32": "I32", "u64": "U64",
    "i64": "I64", "f16": "F16", "bf16": "BF16", "f32": "F32", "f64": "F64", "f8e4m3": "F8_E4M3", "f8e5m2": "F8_E5M2",
}  # fmt: skip
"""OpenVINO's type names to safetensors'. Others (u4, i4, u1, nf4, string) are stored as U8."""
_CHUNK = 8 << 20
_PLAIN = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bfloat16}
    | {torch.float16, torch.float32, torch.float64}
)
"""Types of tensors that the graph's constants may be: not quantized, complex or of 8 bits."""


class Written(NamedTuple):
    """What was written: the manifest's entries, the files' digests by name, and what was compressed."""

    weights: Weights
    digests: dict[str, str]
    compressed: dict[str, Compressed]
    refresh: Refresh | None


class _Constant(NamedTuple):
    """A range of OpenVINO's bin file, and all layers that read it as the same type."""

    offset: int
    size: int
    type: str
    shape: tuple[int, ...]
    layers: list[ET.Element]
    exact: np.ndarray[Any, Any] | None
    """The values, where they are not to be read from OpenVINO's file."""


def write_ir(  # noqa: PLR0913 - what is written, and how
    model: ov.Model,
    module: torch.nn.Module,
    directory: Path,
    precision: Precision,
    plan: Plan | None,
    *,
    report: Callable[[float], None],
    origins: Origins | None = None,
    calibration: Sequence[Sequence[np.ndarray[Any, Any]]] = (),
    states: States | None = None,
) -> Written:
    """Write `model.xml` and `weights.safetensors` into a directory; with a plan, compress the model's weights first.

    With states, what is written has these as variables; `model` keeps them as inputs and outputs.
    """
    state = {name: tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items() if _is_plain(tensor)}
    names = name_constants(model, state)
    held = {} if origins is None else origins.find(model)
    compressed: dict[str, Compressed] = {}
    kept: list[ov.Node] = []
    if plan is not None:
        if calibration:
            run = quantize_activations if plan.activations else calibrate
            model, compressed = run(model, module, names, plan, calibration)
        rest, kept = compress(model, module, names, plan)
        compressed = {**compressed, **rest}
    first: dict[str, np.ndarray[Any, Any]] = {}
    if states is not None:
        model, first = make_stateful(model, states)
    exact = {} if precision == "fp32" else {**find_exact(model), **first}
    if plan is not None:
        exact |= {constant.get_friendly_name(): constant.data for constant in kept}
        halve(model, exact)
    draft, draft_bin = directory / "draft.xml", directory / "draft.bin"
    try:
        _save(model, draft, halved=precision == "fp16")
        root = ET.parse(draft).getroot()  # noqa: S314 - written by OpenVINO a moment ago
        for info in root.findall("rt_info"):  # of the tools that made the model
            root.remove(info)
        if plan is None:
            restore_exact(root, exact)
        mark_halved(root)
        constants = _collect(root, exact if plan is None else {})
        bfloat16_as = "f32" if precision == "fp32" or has_large_bfloat16(model) else "f16"
        with draft_bin.open("rb") as source:
            chosen, metadata = _name_tensors(constants, names, state, source, compressed)
            tensors = [
                _Tensor(constant, name, tuple(state[name].shape) if name in state else constant.shape, bfloat16_as)
                for constant, name in zip(constants, chosen, strict=True)
            ]
            sources = {
                name: [held.get(_original(layer)) for layer in constant.layers]
                for constant, name in zip(constants, chosen, strict=True)
            }
            weights, digest = _write_weights(tensors, metadata, source, directory / "weights.safetensors", report)
        replace_bfloat16(root, bfloat16_as)
        for rewrite in XML_REWRITES:
            rewrite(root)
        text = b'<?xml version="1.0"?>\n' + ET.tostring(root, encoding="utf-8")
        (directory / "model.xml").write_bytes(text)
    finally:
        draft.unlink(missing_ok=True)
        draft_bin.unlink(missing_ok=True)
    digests = {weights.path: digest, "model.xml": digest_bytes(text)}
    record = None if origins is None else origins.describe(sources, metadata)
    return Written(weights, digests, compressed, record)


def write_golden(call: Call, results: Results, path: Path) -> None:
    """Write a call's tensors, and what torch gave for them."""
    tensors = {f"input.{name}": tensor for name, tensor in zip(call.input_names, call.tensors, strict=True)}
    tensors |= {f"output.{name}": tensor for name, tensor in zip(results.names, results.tensors, strict=True)}
    # Not save_file, which makes files that only their owner can read.
    path.write_bytes(save({name: tensor.contiguous().numpy() for name, tensor in tensors.items()}))


def _is_plain(value: object) -> bool:
    """Return whether an entry of a state_dict is a tensor of numbers that OpenVINO can hold as they are."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.dtype in _PLAIN
        and not value.is_nested
    )


def _save(model: ov.Model, path: Path, *, halved: bool) -> None:
    try:
        ov.save_model(model, path, compress_to_fp16=halved)
    except RuntimeError as error:
        # OpenVINO's writer loses the system's error; what the file system refuses it calls an "iostream error".
        raise StoreError(
            f"could not write {path}: {first_lines(str(error))}. {shutil.disk_usage(path.parent).free / 1e6:.0f} MB "
            "are free there; make room, or choose another store.",
        ) from error


def name_constants(model: ov.Model, state: Mapping[str, torch.Tensor]) -> dict[str, str]:
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
    constants: list[_Constant],
    names: Mapping[str, str],
    state: Mapping[str, torch.Tensor],
    source: BufferedReader,
    compressed: Mapping[str, Compressed],
) -> tuple[list[str], dict[str, str]]:
    """Return the name to store each constant under, and the file's metadata.

    That has for other names of the state_dict the one with their tensor, and how compressed ones are to be read.

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
    scales = {one.scale: f"{name}{SCALE}" for name, one in compressed.items()}
    positions = {_original(layer): position for position, constant in enumerate(constants) for layer in constant.layers}
    for unique, name in scales.items():
        chosen[positions[unique]] = chosen[positions[unique]] or name
    stored = [name or f"{OWN}{position}" for position, name in enumerate(chosen)]
    shapes = [
        tuple(state[name].shape) if name in state else constant.shape
        for name, constant in zip(stored, constants, strict=True)
    ]
    by_place = {_memory(state[name]): name for name in compressed}
    aliases = {
        name: by_place.get(_memory(state[name]), stored[position])
        for name, position in held.items()
        if name != stored[position] and name not in compressed and tuple(state[name].shape) == shapes[position]
    }
    records = {
        name: CompressedTensor(
            one.precision,
            tuple(state[name].shape),
            stored[positions[one.values]],
            stored[positions[one.scale]],
            one.grouped,
        )
        for name, one in compressed.items()
    }
    return stored, {**aliases, **describe_compressed(records)}


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
    metadata: Mapping[str, str],
    source: BufferedReader,
    path: Path,
    report: Callable[[float], None],
) -> tuple[Weights, str]:
    """Write the weights file and point the layers at it; return its manifest entry and digest."""
    entries = {tensor.name: tensor.entry() for tensor in tensors}
    header, starts = safetensors_file.lay_out(entries, {"format": "pt", **metadata})
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
            raise StoreError(f"the weights that OpenVINO wrote are {left} bytes short; is the disk full?")
        left -= count
        yield buffer[:count]
