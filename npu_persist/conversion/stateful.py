"""A graph whose states are inputs and outputs, made one that keeps them as variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.op import assign, read_value
from openvino.op.util import Variable, VariableInfo

from npu_persist.conversion.states import KEPT
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.bundle.graph_records import State
    from npu_persist.conversion.states import States

_FEW = 64
"""Elements up to which equal first values are a constant, not a number that is broadcast."""


def make_stateful(model: ov.Model, found: States) -> tuple[ov.Model, dict[str, np.ndarray[Any, Any]]]:
    """Return a copy of a graph with variables for its states, and the first values to keep as they are, by name."""
    model = model.clone()
    parameters, results = model.get_parameters(), model.get_results()
    exact: dict[str, np.ndarray[Any, Any]] = {}
    sinks = []
    for pair, state, value in zip(found.pairs, found.states, found.values, strict=True):
        parameter = parameters[pair.argument]
        first, constant = _make_first(value)
        constant.set_friendly_name(f"{state.variable}/first")
        if value.dtype in {torch.float32, torch.float64}:  # what OpenVINO halves
            exact[constant.get_friendly_name()] = constant.data.astype(np.float32)
        read, sink = _make_variable(state, first, parameter)
        sink.set_friendly_name(f"{state.variable}/assign")
        for user in parameter.output(0).get_target_inputs():
            user.replace_source_output(read.output(0))
        sinks.append(sink)
    for sink, pair, state in zip(sinks, found.pairs, found.states, strict=True):
        _feed(sink, _fix_sizes(results[pair.result].input_value(0), state))
    model.add_sinks(sinks)
    for index, result in enumerate(results):
        if index not in found.outputs:
            model.remove_result(result)
    for pair in found.pairs:
        model.remove_parameter(parameters[pair.argument])
    try:
        model.validate_nodes_and_infer_types()
    except RuntimeError as error:
        raise ConversionError(f"the graph cannot keep its states: {error}") from error
    _name_outputs(model, [results[index].get_friendly_name().removesuffix("/result") for index in found.outputs])
    return model, exact


def _make_variable(state: State, first: ov.Node, parameter: ov.Node) -> tuple[ov.Node, ov.Node]:
    """Return what takes a parameter's place, and what will assign the new value."""
    info = VariableInfo()
    info.data_shape = ov.PartialShape([size if isinstance(size, int) else -1 for size in state.shape])
    info.data_type = first.get_element_type()
    info.variable_id = state.variable
    variable = Variable(info)
    read = read_value(first, variable)
    read.set_friendly_name(parameter.get_friendly_name())
    sink = assign(read, variable)  # of a node: an output of a node that has several takes its place
    if parameter.get_element_type() == info.data_type:
        return read, sink
    return ops.convert(_compute(read.output(0)), parameter.get_element_type()), sink


def _feed(sink: ov.Node, source: ov.Output) -> None:
    """Let a value be assigned, as the type that the variable has."""
    kind = sink.get_input_element_type(0)
    if source.get_element_type() != kind:
        source = _compute(ops.convert(source, kind).output(0)).output(0)
    elif source.get_node().get_type_name() == "ReadValue" or not _reads_state(source):
        source = _compute(source).output(0)
    sink.input(0).replace_source_output(source)


def _make_first(value: torch.Tensor) -> tuple[ov.Node, Any]:
    """Return what gives a state its first value, and the constant in it."""
    array = value.numpy()
    array = array.astype(KEPT.get(array.dtype.name, array.dtype))
    if array.size <= _FEW or not (array == array.flat[0]).all():
        constant = ops.constant(array)
        return constant, constant
    constant = ops.constant(array.reshape(-1)[0])
    return ops.broadcast(constant, ops.constant(np.array(array.shape, np.int64))), constant


def _compute(source: ov.Output) -> ov.Node:
    """Return a node that gives the same values, and that no plugin leaves out.

    OpenVINO 2026.4's CPU plugin gives a state its new value too early where that is an input as it came, does not
    compile a state that is only handed on, and cannot keep what it converts at the border of the graph.
    """
    if source.get_element_type() == ov.Type.boolean:
        return ops.logical_or(source, source)
    return ops.maximum(source, source)


def _reads_state(source: ov.Output) -> bool:
    """Tell whether a value depends on a state, so that the state is read before it is assigned."""
    left, seen = [source.get_node()], set()
    while left:
        node = left.pop()
        if node.get_type_name() == "ReadValue":
            return True
        if node.get_name() not in seen:
            seen.add(node.get_name())
            left += [value.get_node() for value in node.input_values()]
    return False


def _fix_sizes(source: ov.Output, state: State) -> ov.Output:
    """Return a result with the sizes that the state always has, where the graph does not know them to be so."""
    shape = source.get_partial_shape()
    if ov.PartialShape([size if isinstance(size, int) else -1 for size in state.shape]).relaxes(shape):
        return source
    sizes = np.array([size if isinstance(size, int) else 0 for size in state.shape], np.int64)
    return ops.reshape(source, ops.constant(sizes), special_zero=True).output(0)


def _name_outputs(model: ov.Model, outputs: Sequence[str]) -> None:
    """Name the tensors of the outputs that are left, which may be states as they came."""
    inputs = {(node.get_name(), 0): {node.get_friendly_name()} for node in model.get_parameters()}
    for result, name in zip(model.get_results(), outputs, strict=True):
        source = result.input_value(0)
        shared = inputs.setdefault((source.get_node().get_name(), source.get_index()), set())
        shared.add(name)
        source.get_tensor().set_names(shared)
