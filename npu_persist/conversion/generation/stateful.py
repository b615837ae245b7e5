"""A decoder's graph that keeps its past: what holds it, inputs and outputs until now, become variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.op import assign, read_value
from openvino.op.util import Variable, VariableInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

BEAM = "beam_idx"
SOURCE = "encoder_hidden_states"
_KEYS = 3
"""Axes that what is computed from the encoder's result has at least, to be worth keeping."""


def make_stateful(model: ov.Model, past: Sequence[tuple[str, str]]) -> None:
    """Keep the past between calls: empty at first, its sequences in the order of a new input `beam_idx`.

    These are the operations in the order that OpenVINO's plugins fuse with attention (ReadValue, Gather, Concat), and
    the variables' names that its NPU plugin looks for.
    """
    ids = model.input("input_ids")
    beam = ops.parameter(ov.PartialShape([ids.get_partial_shape()[0]]), ov.Type.i32, name=BEAM)
    beam.output(0).get_tensor().set_names({BEAM})
    model.add_parameters([beam])
    for name, _ in past:
        port = model.input(name)
        shape = port.get_partial_shape()  # the CPU plugin begins with a state of no sequences: it has to be allowed
        port.get_node().set_partial_shape(ov.PartialShape([size if size.is_static else -1 for size in shape]))
        users = port.get_target_inputs()
        chosen = ops.gather(port, beam, ops.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, dict(past))
    batch = ops.gather(ops.shape_of(ids, "i64"), ops.constant(np.array([0])), ops.constant(np.int64(0)))
    for operation in model.get_ops():
        if operation.get_type_name() == "ReadValue":
            shape = operation.get_output_partial_shape(0)
            heads, size = (ops.constant(np.array([shape[axis].get_length()])) for axis in (1, 3))
            empty = ops.concat([batch, heads, ops.constant(np.array([0])), size], axis=0)
            zero = ops.constant(np.zeros((), np.float32), operation.get_output_element_type(0))
            operation.set_arguments([ops.broadcast(zero, empty).output(0)])
    model.validate_nodes_and_infer_types()
    if SOURCE in {name for port in model.inputs for name in port.get_names()}:
        _keep_what_follows_from(model, model.input(SOURCE).get_node())


def _keep_what_follows_from(model: ov.Model, source: ov.Node) -> None:
    """Keep what is computed from the encoder's result alone: its keys and values, the same for each token.

    Each is a variable whose first value is that computation, which the CPU plugin then runs once a conversation.
    """
    _split_heads_by_source(model)
    operations = model.get_ordered_ops()
    from_source: set[str] = {source.get_name()}
    from_others: set[str] = set()
    for operation in operations:
        name, kind = operation.get_name(), operation.get_type_name()
        if kind in {"Parameter", "ReadValue"}:
            if name != source.get_name():
                from_others.add(name)
            continue
        before = {value.get_node().get_name() for value in operation.input_values()}
        if before & from_source:
            from_source.add(name)
        if before & from_others:
            from_others.add(name)
    sinks: list[Any] = []
    for operation in operations:
        if operation.get_name() not in from_source - from_others or operation is source:
            continue
        for output in operation.outputs():
            users = [user for user in output.get_target_inputs() if user.get_node().get_type_name() != "ShapeOf"]
            is_last = any(user.get_node().get_name() in from_others for user in users)
            shape = output.get_partial_shape()
            if is_last and output.get_element_type().is_real() and shape.rank.get_length() >= _KEYS:
                sinks.append(_keep(output, f"cross.{len(sinks)}", users))
    model.add_sinks(sinks)
    model.validate_nodes_and_infer_types()


def _split_heads_by_source(model: ov.Model) -> None:
    """Let what splits keys and values of an encoder's result into heads take the batch from them, not from the tokens.

    Then it follows from that result alone, and they are kept as attention takes them, which is where the NPU plugin
    looks for them, too.
    """
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "Reshape":
            continue
        before, after = operation.get_input_partial_shape(0), operation.get_output_partial_shape(0)
        if before.rank != ov.Dimension(3) or after.rank != ov.Dimension(4):
            continue
        heads, size, both = after[2], after[3], before[2]
        is_split = all(one.is_static for one in (heads, size, both))
        if (
            is_split
            and heads.get_length() * size.get_length() == both.get_length()
            and _reads_source(operation.input_value(0))
        ):
            shape = np.array([0, 0, heads.get_length(), size.get_length()], np.int64)
            split = ops.reshape(operation.input_value(0), ops.constant(shape), special_zero=True)
            split.set_friendly_name(operation.get_friendly_name())
            operation.output(0).replace(split.output(0))


def _reads_source(value: ov.Output) -> bool:
    """Tell whether a value is a linear layer's of the encoder's result."""
    while value.get_node().get_type_name() in {"Add", "MatMul"}:
        value = value.get_node().input_value(0)
    return value.get_node().get_type_name() == "Parameter" and SOURCE in value.get_names()


def _keep(output: ov.Output, name: str, users: Sequence[Any]) -> ov.Node:
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = output.get_partial_shape(), output.get_element_type(), name
    variable = Variable(info)
    read = read_value(output, variable)
    for user in users:
        user.replace_source_output(read.output(0))
    return assign(read, variable)
