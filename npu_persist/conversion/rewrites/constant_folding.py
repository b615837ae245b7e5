"""Compute at conversion what follows from constants alone.

The CPU plugin does not fold behind half-precision weights, nor what OpenVINO itself cannot evaluate (GatherElements,
BitwiseOr): it runs such operations once, while compiling, and then lets inferences overwrite the memory of the result.
A projected learned query, for instance, is right in the first call only.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as ops
from openvino.passes import ConstantFolding, Manager

from npu_persist.device.core import get_core, note_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_KEPT = frozenset(
    {"Parameter", "Constant", "Convert", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Broadcast", "Tile", "Result"}
)
"""Operations that compute nothing; folding them would cost a weight its name, or disk space."""
_VARIES = frozenset({"RandomUniform", "Multinomial", "ReadValue", "Assign"})
"""Operations that give something else each time."""


def fold_constant_results(model: ov.Model) -> None:
    """Replace operations on constants by their results."""
    for operation in model.get_ordered_ops():
        for body in _bodies(operation):
            fold_constant_results(body)
    _fold_sizes(model)
    computed = [node for node in _constant_nodes(model).values() if not _is_kept(node)]
    if not computed:
        return
    manager = Manager()
    manager.register_pass(ConstantFolding())
    # A model of its own over the same nodes: folding in it replaces them for all their users.
    manager.run_passes(ov.Model([output for node in computed for output in node.outputs()], []))
    _run_and_replace(model)
    model.validate_nodes_and_infer_types()


def _is_kept(node: ov.Node) -> bool:
    """Return whether a node is to stay: it computes nothing, or a weight from integers that are smaller."""
    return node.get_type_name() in _KEPT or _is_decompression(node)


def _is_decompression(node: ov.Node) -> bool:
    """Return whether a node is part of `(values - zero) * scale` for a matrix of integers of 8 or 4 bits."""
    if node.get_type_name() not in {"Multiply", "Subtract"}:
        return False
    while node.get_type_name() in {"Multiply", "Subtract", "Convert", "Reshape"}:
        node = node.input_value(0).get_node()
    return (
        node.get_type_name() == "Constant"
        and node.get_element_type().get_type_name() in _SMALL_INTEGERS
        and len(node.shape) > 1
    )


_SMALL_INTEGERS = frozenset({"i8", "u8", "i4", "u4"})


def _fold_sizes(model: ov.Model) -> None:
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "ShapeOf" and operation.input_value(0).get_partial_shape().is_static:
            size = ops.constant(list(operation.input_value(0).get_shape()), operation.get_element_type())
            operation.output(0).replace(size.output(0))


def _constant_nodes(model: ov.Model) -> dict[str, ov.Node]:
    """Return the nodes that depend on nothing but constants, by their unique names."""
    constant: dict[str, ov.Node] = {}
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        sources = [source.get_node().get_name() for source in operation.input_values()]
        if kind == "Constant" or (
            sources and kind != "Result" and constant.keys() >= set(sources) and not _varies(operation)
        ):
            constant[operation.get_name()] = operation
    return constant


def _varies(operation: ov.Node) -> bool:
    return operation.get_type_name() in _VARIES or any(
        _varies(inner) for body in _bodies(operation) for inner in body.get_ordered_ops()
    )


def _bodies(operation: ov.Node) -> Iterator[ov.Model]:
    """Yield the graphs inside of a branch or a loop."""
    kind = operation.get_type_name()
    if kind == "If":
        yield operation.get_function(0)
        yield operation.get_function(1)
    elif kind in {"Loop", "TensorIterator"}:
        yield operation.get_function()


def _run_and_replace(model: ov.Model) -> None:
    """Replace what `ConstantFolding` left by what the CPU gives in a first run."""
    constant = _constant_nodes(model)
    wanted = [
        output
        for node in constant.values()
        if not _is_kept(node)
        for output in node.outputs()
        if any(_needs_value(user.get_node(), constant) for user in output.get_target_inputs())
    ]
    if not wanted:
        return
    results = [ops.result(output) for output in wanted]
    try:
        note_threads()
        compiled = get_core().compile_model(ov.Model(results, []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        values = [*compiled.create_infer_request().infer().values()]
    except RuntimeError as error:  # what the CPU cannot run here it cannot run in the whole graph either
        log.info("operations on constants are left in the graph: %s", error)
        return
    for output, value in zip(wanted, values, strict=True):
        output.replace(ops.constant(value, output.get_element_type()).output(0))


def _needs_value(user: ov.Node, constant: dict[str, ov.Node]) -> bool:
    return user.get_name() not in constant or user.get_type_name() in _KEPT
