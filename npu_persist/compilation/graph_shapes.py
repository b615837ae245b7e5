"""The rules for the shapes that OpenVINO infers for a graph, checked after reading and before compiling it.

OpenVINO ignores the shapes in a graph's XML, and so does this check: only the inferred shapes count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from npu_persist.errors import GraphIntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import openvino as ov

MAX_BYTES = 1 << 34
"""Bytes of one tensor of fixed size between two layers, at most: the attention scores of the largest image models,
where nothing fuses them, have some gigabytes."""

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
"""Rows of the weights, by kind of recurrent layer, in hidden sizes."""
_BODIES = {"If": ("get_then_body", "get_else_body"), "Loop": ("get_function",), "TensorIterator": ("get_function",)}

Sizes = list[int | None]


def check_shapes(where: str, model: ov.Model) -> None:
    """Check the shapes of a graph and of its bodies.

    Raises:
        GraphIntegrityError: One of them would end the process, or take all of its memory.
    """
    kept = {
        node.get_attributes()["variable_id"]: node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "ReadValue"
    }
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Assign" and (read := kept.get(node.get_attributes()["variable_id"])) is not None:
            _check_assigned(where, node, read)
        if kind != "Constant":  # which is in the weights file
            for index in range(node.get_output_size()):
                shape = node.get_output_partial_shape(index)
                if shape.is_static and _count_bytes(node, index, shape) > MAX_BYTES:
                    raise _bad(where, node, f"at most {MAX_BYTES} bytes a tensor", f"{shape}")
        if (check := _CHECKS.get(kind)) is not None:
            check(where, node)
        elif kind in _BODIES:
            for body in _BODIES[kind]:
                check_shapes(where, getattr(node, body)())
            if kind != "If":
                _check_states(where, node)


def _count_bytes(node: Any, index: int, shape: Any) -> int:
    elements = _count(shape)
    if elements <= MAX_BYTES // 8:  # small in any type
        return elements
    bits: int = node.get_output_element_type(index).bitwidth
    return elements * bits // 8


def _count(shape: Any) -> int:
    """Return the elements of a fixed shape; from its text, since to iterate over OpenVINO's shapes takes 30 us."""
    return math.prod(int(axis) for axis in str(shape.get_shape()).strip("[]").split(",") if axis)


def _sizes(node: Any, index: int) -> Sizes | None:
    """Return the sizes of an input's axes, None where one is not known; None if the rank is not."""
    shape = node.get_input_partial_shape(index)
    if shape.rank.is_dynamic:
        return None
    return [axis.get_length() if axis.is_static else None for axis in shape]


def _check_states(where: str, node: Any) -> None:
    """Check that what a loop hands to its next turn is what its body takes: OpenVINO copies one over the other."""
    body = node.get_function()
    for given in node.get_input_descriptions():
        if given.get_type_info().name != "MergedInputDescription":
            continue
        taken = body.get_parameters()[given.body_parameter_index].output(0)
        handed = body.get_results()[given.body_value_index].input_value(0)
        first = node.input_value(given.input_index)
        for source in (handed, first):
            if source.get_element_type() != taken.get_element_type() or not taken.get_partial_shape().relaxes(
                source.get_partial_shape()
            ):
                described = [f"{one.get_element_type()}{one.get_partial_shape()}" for one in (taken, source)]
                raise _bad(where, node, f"{described[0]} for the next iteration", described[1])


def _check_assigned(where: str, node: Any, read: Any) -> None:
    """Check that what a variable gets is what the graph reads from it: OpenVINO wants only that it could be."""
    given, taken = node.get_input_partial_shape(0), read.get_output_partial_shape(0)
    if node.get_input_element_type(0) != read.get_output_element_type(0) or not taken.relaxes(given):
        wanted = f"{read.get_output_element_type(0)}{taken}"
        raise _bad(where, node, f"{wanted} for the next inference", f"{node.get_input_element_type(0)}{given}")


def _check_not_empty(where: str, node: Any) -> None:
    """Check that no input is empty: the CPU divides by a size, or reads the first element."""
    for index in range(node.get_input_size()):
        sizes = _sizes(node, index)
        if sizes is not None and 0 in sizes:
            raise _bad(where, node, "inputs that are not empty", f"{sizes}")


def _check_gather(where: str, node: Any) -> None:
    """Check that no input is empty; but rows may be taken from a table of them that has no columns."""
    sizes, axis = _sizes(node, 0), node.input_value(2).get_node()
    if (
        sizes is not None
        and axis.get_type_name() == "Constant"
        and int(axis.get_data().item()) == 0
        and sizes[:1] != [0]
    ):
        if 0 in (_sizes(node, 1) or []):
            raise _bad(where, node, "indices that are not empty", "none")
    else:
        _check_not_empty(where, node)


def _check_table(where: str, node: Any) -> None:
    """Check that what bags of rows are taken from has rows."""
    _check_not_empty(where, node)
    sizes = _sizes(node, 0)
    if sizes is not None and len(sizes) != 2:  # noqa: PLR2004
        raise _bad(where, node, "a table of 2 axes", f"{sizes}")


def _check_largest(where: str, node: Any) -> None:
    """Check that a TopK takes no more elements than there are."""
    given, axis = _sizes(node, 0), node.get_attributes()["axis"]
    taken = node.get_output_partial_shape(0)
    if given is None or taken.rank.is_dynamic:
        return
    there = given[axis]
    if there is not None and taken[axis].is_static and taken[axis].get_length() > there:
        raise _bad(where, node, f"at most {there} elements of axis {axis}", f"{taken}")


def _check_scatter(where: str, node: Any) -> None:
    """Check that updates lie in the data along all axes but the one that the indices are of."""
    data, indices = _sizes(node, 0), _sizes(node, 1)
    axis = _sizes(node, 3)
    if axis is not None and 0 in axis:
        raise _bad(where, node, "an axis", f"{axis}")
    axes = node.input_value(3).get_node()
    if data is None or indices is None or axes.get_type_name() != "Constant":
        return
    along = int(axes.data.flat[0]) % len(data)
    for number, (there, taken) in enumerate(zip(data, indices, strict=False)):
        if number != along and there is not None and taken is not None and taken > there:
            raise _bad(where, node, f"indices inside of {data}", f"{indices}")


def _check_recurrent(where: str, node: Any) -> None:
    """Check that states, weights and biases have the sizes that the hidden size asks for."""
    kind, attributes = node.get_type_name(), node.get_attributes()
    hidden, is_sequence = attributes["hidden_size"], kind.endswith("Sequence")
    family = kind.removesuffix("Cell").removesuffix("Sequence")
    directions = [2 if attributes.get("direction") == "bidirectional" else 1] if is_sequence else []
    rows = _GATES[family] * hidden
    states = 2 if family == "LSTM" else 1
    first = 1 + states + is_sequence
    biases = rows + hidden if attributes.get("linear_before_reset") else rows
    features = (_sizes(node, 0) or [None])[-1]
    wanted: list[tuple[int, Sizes]] = [(0, [None] * (2 + is_sequence))]
    wanted += [(index, [None, *directions, hidden]) for index in range(1, 1 + states)]
    wanted += [(first, [*directions, rows, features]), (first + 1, [*directions, rows, hidden])]
    wanted += [(first + 2, [*directions, biases])]
    for index, expected in wanted:
        found = _sizes(node, index)
        if found is None or not _agree(expected, found):
            raise _bad(where, node, f"sizes {expected} of input {index}", f"{found}")


def _agree(expected: Sequence[int | None], found: Sequence[int | None]) -> bool:
    return len(expected) == len(found) and all(
        one is None or one == other or other is None for one, other in zip(expected, found, strict=True)
    )


def _check_quantize(where: str, node: Any) -> None:
    """Check that the limits are broadcast to the data, which OpenVINO takes for granted."""
    data = _sizes(node, 0)
    for index in range(1, 5):
        limit = _sizes(node, index)
        if data is None or limit is None:
            continue
        ends = data[len(data) - len(limit) :]
        if len(limit) > len(data) or any(
            one not in {1, other} and other is not None for one, other in zip(limit, ends, strict=True)
        ):
            raise _bad(where, node, f"limits that are broadcast to {data}", f"{limit}")


def _check_reshape(where: str, node: Any) -> None:
    """Check that a Reshape keeps the number of elements, which OpenVINO does only where one size is -1."""
    given, asked = node.get_input_partial_shape(0), node.get_output_partial_shape(0)
    if given.is_static and asked.is_static and _count(given) != _count(asked):
        raise _bad(where, node, f"as many elements as {given} has", f"{asked}")


def _check_transform(where: str, node: Any) -> None:
    """Check that an RDFT takes no more elements than there are: the CPU reads on, in a single thread."""
    sizes = _sizes(node, 0)
    if node.get_input_size() < 3 or sizes is None:  # noqa: PLR2004 - without sizes of its own
        return
    axes, taken = (node.input_value(index).get_node() for index in (1, 2))
    if not axes.get_type_name() == taken.get_type_name() == "Constant":
        raise _bad(where, node, "constant axes and sizes", f"{axes.get_type_name()} and {taken.get_type_name()}")
    for axis, size in zip(axes.data.flat, taken.data.flat, strict=True):
        there = sizes[axis]
        if there is not None and size > there:
            raise _bad(where, node, f"at most {there} elements of axis {axis}", f"{size}")


def _check_interpolate(where: str, node: Any) -> None:
    """Check the rank, for which the CPU has kernels up to 5 and reads on beyond."""
    sizes = _sizes(node, 0)
    if sizes is not None and not 1 <= len(sizes) <= 5:  # noqa: PLR2004
        raise _bad(where, node, "data of 1 to 5 axes", f"{sizes}")


def _check_axis(where: str, node: Any) -> None:
    """Check that the axis is a constant, of the data, which OpenVINO takes for granted."""
    sizes, axis = _sizes(node, 0), node.input_value(1).get_node()
    if axis.get_type_name() != "Constant" or axis.data.size != 1:
        raise _bad(where, node, "one constant axis", axis.get_type_name())
    if sizes is None or not -len(sizes) <= int(axis.data.flat[0]) < len(sizes):
        raise _bad(where, node, f"an axis of {sizes}", f"{int(axis.data.flat[0])}")


def _check_broadcast(where: str, node: Any) -> None:
    """Check that each size becomes a larger one only where it is 1, which OpenVINO does not do for all shapes."""
    target = node.input_value(1).get_node()
    if target.get_type_name() == "Constant" and (target.data < 0).any():
        raise _bad(where, node, "sizes", f"{target.data.tolist()}")
    data, shape = _sizes(node, 0), node.get_output_partial_shape(0)
    if node.get_input_size() > 2 and (axes := node.get_input_element_type(2)).bitwidth < 8:  # noqa: PLR2004
        raise _bad(where, node, "axes in whole bytes", f"{axes}")
    if data is None or shape.rank.is_dynamic or node.get_attributes()["mode"] == "explicit":
        return
    asked = [axis.get_length() if axis.is_static else None for axis in shape]
    if len(data) > len(asked) or not all(
        one in {1, None} or other in {one, None}
        for one, other in zip(data, asked[len(asked) - len(data) :], strict=True)
    ):
        raise _bad(where, node, f"a shape that {data} can be broadcast to", f"{shape}")


def _check_normalize(where: str, node: Any) -> None:
    """Check that the axes are constant: the CPU looks at them as it compiles."""
    if (kind := node.input_value(1).get_node().get_type_name()) != "Constant":
        raise _bad(where, node, "constant axes", kind)


_TABLES = ("EmbeddingBagOffsets", "EmbeddingBagOffsetsSum", "EmbeddingBagPacked", "EmbeddingBagPackedSum")
_NOT_EMPTY = ("DFT", "HardSigmoid", "IDFT", "IRDFT", "Pad", "Selu")
_CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_NOT_EMPTY, _check_not_empty),
    **dict.fromkeys(_TABLES, _check_table),
    **{f"{family}{form}": _check_recurrent for family in _GATES for form in ("Cell", "Sequence")},
    "Broadcast": _check_broadcast,
    "CumSum": _check_axis,
    "FakeQuantize": _check_quantize,
    "Gather": _check_gather,
    "Interpolate": _check_interpolate,
    "NormalizeL2": _check_normalize,
    "RDFT": _check_transform,
    "Reshape": _check_reshape,
    "ScatterElementsUpdate": _check_scatter,
    "TopK": _check_largest,
}


def _bad(where: str, node: Any, expected: str, got: str) -> GraphIntegrityError:
    layer = f"{node.get_type_name()} {node.get_friendly_name()[:100]!r}"
    problem = f"expected {expected} in layer {layer}; got {got}"
    return GraphIntegrityError(
        f"{where}: {problem}. If you gave sizes, give others; else the graph was not written by npu_persist: persist "
        "or pull the bundle again.",
        problem=problem,
    )
