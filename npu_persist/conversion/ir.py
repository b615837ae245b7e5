"""Writes a converted model as `model.xml` and `weights.safetensors`, the same bytes for the same model.

OpenVINO's own writer makes xml and bin; from these the weights are laid out anew as a safetensors file under the names
of the module's state_dict, and the xml gets the new offsets. Names that OpenVINO numbers by a counter of the process
are replaced by names that follow from the graph alone, so that equal models give equal files.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov
import torch

from npu_persist.bundle import weights as safetensors_file
from npu_persist.bundle.manifest import Precision, Weights
from npu_persist.conversion.half_precision import COMPRESSED, find_exact, has_large_bfloat16, restore_exact
from npu_persist.files.digest import Hasher, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from io import BufferedReader
    from pathlib import Path

_TYPES = {
    "boolean": "BOOL", "u8": "U8", "i8": "I8", "u16": "U16", "i16": "I16", "u32": "U32", "i32": "I32", "u64": "U64",
    "i64": "I64", "f16": "F16", "bf16": "BF16", "f32": "F32", "f64": "F64", "f8e4m3": "F8_E4M3", "f8e5m2": "F8_E5M2",
}  # fmt: skip
"""OpenVINO's type names to safetensors'. What is not here (u4, i4, u1, nf4, string) is stored as U8."""
_CHUNK = 8 << 20
_TYPE_ATTRIBUTES = ("element_type", "destination_type", "output_type", "precision")


class Written(NamedTuple):
    """What was written: the manifest's entry for the weights, and the files' digests by name."""

    weights: Weights
    digests: dict[str, str]


@dataclass
class _Constant:
    """One stretch of OpenVINO's bin file and all layers that read it as the same type."""

    offset: int
    size: int
    type: str
    shape: tuple[int, ...]
    elements: list[ET.Element] = field(default_factory=list)
    name: str = ""
    exact: np.ndarray[Any, Any] | None = None
    """The values themselves, where they are not to be read from OpenVINO's file."""


def write_ir(
    model: ov.Model,
    module: torch.nn.Module,
    directory: Path,
    *,
    precision: Precision,
    report: Callable[[float], None],
) -> Written:
    """Write `model.xml` and `weights.safetensors` into a directory.

    Args:
        model: the converted model; its large constants share the module's memory.
        module: the module that was converted, for its state_dict's names.
        directory: an existing directory; also holds OpenVINO's own files for the time being.
        precision: "fp16" stores float weights as half precision, as `ov.save_model` does, but for vectors and for what
            half precision cannot hold; "fp32" stores them as they are. bfloat16, which the NPU's compiler and numpy
            lack, becomes one or the other.
        report: called with the fraction of the weights that has been written.

    """
    state = {
        name: tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items() if torch.is_tensor(tensor)
    }
    names = _name_constants(model, state)
    exact = find_exact(model) if precision == "fp16" else {}
    draft, draft_bin = directory / "draft.xml", directory / "draft.bin"
    ov.save_model(model, draft, compress_to_fp16=precision == "fp16")
    try:
        tree = ET.parse(draft)  # noqa: S314 - written by OpenVINO a moment ago
        root = tree.getroot()
        restore_exact(root, exact)
        constants = _collect(root, exact)
        bfloat16_as = "f16" if precision == "fp16" and not has_large_bfloat16(model) else "f32"
        written = _write_weights(constants, names, state, draft_bin, directory, bfloat16_as, report)
        _retype(root, "bf16", bfloat16_as)
        _rename_layers(root)
        _strip(root)
        text = b'<?xml version="1.0"?>\n' + ET.tostring(root, encoding="utf-8")
        (directory / "model.xml").write_bytes(text)
    finally:
        draft.unlink(missing_ok=True)
        draft_bin.unlink(missing_ok=True)
    written.digests["model.xml"] = digest_bytes(text)
    return written


def _name_constants(model: ov.Model, state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the state_dict name of each constant that is a tensor of the module, by the constant's own (unique) name.

    A constant shares its tensor's memory when it reached the graph unchanged; otherwise the frontend's name tells, as
    long as the count of elements agrees.
    """
    by_memory: dict[tuple[int, int], str] = {}
    for key, tensor in state.items():
        by_memory.setdefault((tensor.data_ptr(), tensor.nbytes), key)
    names: dict[str, str] = {}
    for index, operation in enumerate(model.get_ordered_ops()):
        if operation.get_type_name() != "Constant":
            continue
        given: str = operation.get_friendly_name()
        own = re.sub(r"^self\.(module\.)?", "", given)
        data = operation.data
        name: str | None = by_memory.get((data.ctypes.data, operation.get_byte_size())) if data.size else None
        if name is None and own in state and state[own].numel() == data.size:
            name = own
        unique = f"constant#{index}"
        operation.set_friendly_name(unique)
        if name is not None:
            names[unique] = name
    return names


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
        if values is None:
            constant = found.setdefault((offset, size, kind), _Constant(offset, size, kind, shape))
        else:
            key = digest_bytes(_bytes_of(values)), values.nbytes, kind
            constant = found.setdefault(key, _Constant(0, values.nbytes, kind, shape, exact=values))
        constant.elements.append(layer)
    return list(found.values())


def _write_weights(  # noqa: PLR0913, PLR0917 - one step of write_ir
    constants: list[_Constant],
    names: Mapping[str, str],
    state: Mapping[str, torch.Tensor],
    draft_bin: Path,
    directory: Path,
    bfloat16_as: str,
    report: Callable[[float], None],
) -> Written:
    metadata = {"format": "pt"}
    entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
    by_name: dict[str, _Constant] = {}
    stored_state: dict[str, _Constant] = {}
    for position, constant in enumerate(constants):
        owners = [names[key] for layer in constant.elements if (key := _original(layer)) in names]
        constant.name = next((owner for owner in owners if owner not in by_name), f"constant.{position}")
        if constant.name in state:
            constant.shape = tuple(state[constant.name].shape)
        stored_state.update(dict.fromkeys(owners, constant))
        by_name[constant.name] = constant
    with draft_bin.open("rb") as source:
        _find_equal(constants, state, stored_state, by_name, source)
        for constant in constants:
            kind = bfloat16_as if constant.type == "bf16" else constant.type
            size = constant.size * (2 if constant.type == "bf16" and kind == "f32" else 1)
            stored = _TYPES.get(kind, "U8")
            shape = constant.shape if kind in _TYPES else (size,)
            entries[constant.name] = (stored, shape, size)
        for name, constant in stored_state.items():
            if name != constant.name and state[name].shape == constant.shape:
                metadata[name] = constant.name
        _alias_tied(state, stored_state, metadata)
        header, starts = safetensors_file.lay_out(entries, metadata)
        total = len(header) + sum(size for _, _, size in entries.values())
        ordered = sorted(constants, key=lambda constant: starts[constant.name])
        chunks = _read_chunks(source, ordered, bfloat16_as)
        digest = safetensors_file.write(
            directory / "weights.safetensors", header, chunks, lambda done: report(done / total)
        )
    for constant in constants:
        for layer in constant.elements:
            data = layer.find("data")
            assert data is not None  # noqa: S101 - _collect took only layers that have one
            data.set("offset", str(starts[constant.name]))
            data.set("size", str(entries[constant.name][2]))
            layer.set("name", constant.name)
    weights = Weights("weights.safetensors", len(header), total - len(header), len(entries))
    return Written(weights, {"weights.safetensors": digest})


def _original(layer: ET.Element) -> str:
    return (layer.get("name") or "").removesuffix(COMPRESSED)


def _find_equal(
    constants: list[_Constant],
    state: Mapping[str, torch.Tensor],
    stored_state: dict[str, _Constant],
    by_name: dict[str, _Constant],
    source: BufferedReader,
) -> None:
    """Find tensors of the module among the constants by content: copied biases, merged equal tensors."""
    missing = {name: tensor for name, tensor in state.items() if name not in stored_state}
    sizes = {(constant.type, constant.size) for constant in constants}
    wanted: dict[tuple[str, int, str], list[str]] = {}
    for name, tensor in missing.items():
        for kind, data in _stored_forms(tensor):
            if (kind, data.nbytes) in sizes:
                wanted.setdefault((kind, data.nbytes, digest_bytes(_bytes_of(data))), []).append(name)
    interesting = {(kind, size) for kind, size, _ in wanted}
    for constant in constants:
        if (constant.type, constant.size) not in interesting:
            continue
        for name in wanted.get((constant.type, constant.size, _digest_range(source, constant)), []):
            if constant.name not in state:
                del by_name[constant.name]
                constant.name, constant.shape = name, tuple(state[name].shape)
                by_name[name] = constant
            stored_state.setdefault(name, constant)


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


def _digest_range(source: BufferedReader, constant: _Constant) -> str:
    hasher = Hasher()
    for chunk in _read_range(source, constant):
        hasher.update(chunk)
    return hasher.digest()


def _alias_tied(
    state: Mapping[str, torch.Tensor], stored_state: Mapping[str, _Constant], metadata: dict[str, str]
) -> None:
    """Add an alias for each name whose tensor is the very tensor of a stored name (tied weights)."""
    owners = {
        (t.data_ptr(), t.nbytes, t.shape): stored_state[name].name for name, t in state.items() if name in stored_state
    }
    for name, tensor in state.items():
        owner = owners.get((tensor.data_ptr(), tensor.nbytes, tensor.shape))
        if owner is not None and owner != name and name not in metadata:
            metadata[name] = owner


def _read_chunks(source: BufferedReader, constants: list[_Constant], bfloat16_as: str) -> Iterator[bytes | memoryview]:
    for constant in constants:
        for chunk in _read_range(source, constant):
            if constant.type != "bf16":
                yield chunk
                continue
            wide = (np.frombuffer(chunk, np.uint16).astype(np.uint32) << 16).view(np.float32)
            with np.errstate(over="ignore"):
                yield _bytes_of(wide if bfloat16_as == "f32" else wide.astype(np.float16))


def _read_range(source: BufferedReader, constant: _Constant) -> Iterator[memoryview]:
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


def _retype(root: ET.Element, old: str, new: str) -> None:
    """Replace one element type by another in the whole graph."""
    full = {"f16": "FP16", "f32": "FP32"}[new]
    for element in root.iter():
        for attribute in _TYPE_ATTRIBUTES:
            if element.get(attribute) == old:
                element.set(attribute, new)
            elif element.get(attribute) == old.upper():
                element.set(attribute, full)


def _rename_layers(root: ET.Element) -> None:
    """Name each layer by its place in the module and its kind, numbered where that is not unique."""
    root.set("name", "main")
    for layers in root.iter("layers"):
        taken: dict[str, int] = {}
        for layer in layers.findall("layer"):
            kind = layer.get("type") or ""
            name = layer.get("name") or ""
            if kind not in {"Parameter", "Result", "Const"}:
                name = re.sub(r"^(__module\.)?module\b\.?", "", name.removeprefix("__module."))
                name = re.sub(r"(_\d+)+$", "", name)
                name = kind if "#" in name or not name or "/" not in name else name
            count = taken[name] = taken.get(name, 0) + 1
            layer.set("name", name if count == 1 else f"{name}:{count}")


def _strip(root: ET.Element) -> None:
    """Drop indentation, and the tracer's names of inner tensors."""
    results = {layer.get("id") for layer in root.iterfind("layers/layer") if layer.get("type") == "Result"}
    kept = {
        (edge.get("from-layer"), edge.get("from-port"))
        for edge in root.iterfind("edges/edge")
        if edge.get("to-layer") in results
    }
    top = set(root.iterfind("layers/layer"))
    for layer in root.iter("layer"):
        if layer.get("type") == "Parameter":
            continue
        for port in layer.iterfind("output/port"):
            if layer not in top or (layer.get("id"), port.get("id")) not in kept:
                port.attrib.pop("names", None)
    for element in root.iter():
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
