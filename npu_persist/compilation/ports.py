"""Whether a graph has the inputs and outputs that its manifest promises.

The promise: a call that fits the manifest fits the graph. Inputs must be exactly as promised, bounds included, or of
the sizes that were asked for; an output may be known less exactly to one of the two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from npu_persist.bundle.signature import describe_port
from npu_persist.errors import GraphIntegrityError

if TYPE_CHECKING:
    import openvino as ov

    from npu_persist.artifact.artifact import Shapes
    from npu_persist.bundle.manifest import Dimension, Graph, Port

_TYPE_NAMES = {
    "bool": "boolean", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "u8", "uint16": "u16",
    "uint32": "u32", "uint64": "u64", "float16": "f16", "float32": "f32", "float64": "f64",
}  # fmt: skip
"""Numpy's names of types to OpenVINO's. `Type.to_dtype` is no help: it calls bf16 float16, and i4 int8."""


def fix_inputs(graph: Graph, shapes: Shapes | None) -> tuple[Port, ...]:
    """Return a graph's inputs, with the sizes that were asked for in place of the open ones."""
    return tuple(replace(port, shape=(shapes or {}).get(port.name, port.shape)) for port in graph.inputs)


def describe_outputs(graph: Graph, model: ov.Model | ov.CompiledModel) -> tuple[Port, ...]:
    """Return a graph's outputs, with their sizes as a model has them."""
    return tuple(
        replace(port, shape=_shape(port, found.get_partial_shape()))
        for port, found in zip(graph.outputs, model.outputs, strict=True)
    )


def _shape(port: Port, found: ov.PartialShape) -> tuple[int | Dimension, ...]:
    if found.rank.is_dynamic:
        return port.shape
    return tuple(
        axis.get_length() if axis.is_static else promised for axis, promised in zip(found, port.shape, strict=True)
    )


def check_ports(reference: str, graph: Graph, model: ov.Model | ov.CompiledModel) -> None:
    """Check a graph that was read against what the manifest says of it.

    Raises:
        GraphIntegrityError: they disagree in the count of inputs or outputs, in a dtype or a shape.

    """
    for kind, promised, ports in (("input", graph.inputs, model.inputs), ("output", graph.outputs, model.outputs)):
        if len(promised) != len(ports):
            raise _disagreement(reference, graph, f"{len(promised)} {kind}s", f"{len(ports)}")
        for expected, port in zip(promised, ports, strict=True):
            if not _agrees(expected, port, is_exact=kind == "input"):
                found = f"{port.get_element_type().get_type_name()}{port.get_partial_shape()}"
                raise _disagreement(reference, graph, f"{kind} {expected.name} is {describe_port(expected)}", found)


def _agrees(expected: Port, port: ov.Output, *, is_exact: bool) -> bool:
    if port.get_element_type().get_type_name() != _TYPE_NAMES[expected.dtype]:
        return False
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return not is_exact
    if len(shape) != len(expected.shape):
        return False
    for promised, axis in zip(map(_bounds, expected.shape), shape, strict=True):
        highest = axis.get_max_length()
        found = axis.get_min_length(), float("inf") if highest < 0 else highest
        if is_exact and found != promised:
            return False
        if found[1] < promised[0] or promised[1] < found[0]:
            return False
    return True


def _bounds(axis: int | Dimension) -> tuple[int, float]:
    if isinstance(axis, int):
        return axis, axis
    return axis.min, float("inf") if axis.max is None else axis.max


def _disagreement(reference: str, graph: Graph, promised: str, found: str) -> GraphIntegrityError:
    return GraphIntegrityError(
        f"{reference}: the manifest says {promised}; {graph.path} has {found}. Persist the model again, or get another "
        "copy of the bundle."
    )
