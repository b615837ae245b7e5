"""Choices that fp16 weights may change: a topk, an argmax or a nonzero whose indices decide what is looked up.

Rounding moves a float by a little, but it moves an index between two values that are nearly equal to another place: to
another code of a vector quantizer, another keypoint, another neighbour. An argmax that is only returned is left to its
caller. The choices are measured: the graph runs with the weights as they are and as fp16 has them, and what is compared
are the indices, and the distances between the values that they were chosen by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from npu_persist.conversion.check import compile_for_check
from npu_persist.conversion.rewrites.half_precision import find_exact
from npu_persist.errors import CompilationError, PrecisionWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npu_persist.conversion.call import Call
    from npu_persist.conversion.capture import Capture

    Array = np.ndarray[Any, Any]

_INDICES = {"TopK": 1, "NonZero": 0, "NonMaxSuppression": 0, "Unique": 1}
"""Operations that choose (argmax and sort are a TopK), and which of their outputs has the indices."""

_CLOSE = 0.01
"""So large a share of choices that another input may move is worth a warning, where the example moves none."""

_NEAR = 2.0
"""Two values may change places whose distance is below so many times what fp16 does to each (root mean square)."""


_EQUAL = 1e-6
"""Values that differ by so little of the largest are equal but for float32's rounding."""


class _Answer(NamedTuple):
    """What an operation chose by, and what it chose."""

    values: Array
    indices: Array


class _Moved(NamedTuple):
    """How many choices there are, how many fp16 moves, and how many it could move with another input."""

    total: int
    moved: int
    close: int

    @property
    def is_notable(self) -> bool:
        return self.moved > 0 or self.close >= max(2.0, _CLOSE * self.total)


def find_moved_choices(capture: Capture, model: ov.Model) -> list[PrecisionWarning]:
    """Return a warning for each operation of a float32 graph that chooses otherwise, or might, with fp16 weights.

    The graph is not to be used afterwards: its weights are rounded.
    """
    choices = _find_choices(model)
    if not choices:
        return []
    inputs = [tensor.numpy() for tensor in capture.call.tensors]
    taps = [tap for op in choices for tap in (op.input_value(0), op.output(_INDICES[op.get_type_name()]))]
    model.add_outputs(taps)
    try:
        full = _run(model, taps, inputs)
        _halve_weights(model)
        half = _run(model, taps, inputs)
    except (RuntimeError, CompilationError):  # the check runs the same graph, and says it better
        return []
    found = zip(choices, map(_compare, choices, full, half), strict=True)
    return [PrecisionWarning(_describe(op, moved)) for op, moved in found if moved.is_notable]


def describe_ties(call: Call, model: ov.Model) -> list[str]:
    """Return a sentence for each operation that chooses among equal values, where torch's choice cannot be reproduced.

    The graph is not to be used afterwards.
    """
    choices = [op for op in model.get_ordered_ops() if op.get_type_name() == "TopK"]
    choices = [op for op in choices if op.input_value(0).get_element_type().is_real()]
    if not choices:
        return []
    taps = [tap for op in choices for tap in (op.input_value(0), op.output(1))]
    model.add_outputs(taps)
    try:
        answers = _run(model, taps, [tensor.numpy() for tensor in call.tensors])
    except (RuntimeError, CompilationError):
        return []
    counted = [(_name(op), _count_ties(op, answer)) for op, answer in zip(choices, answers, strict=True)]
    return [
        f"{name} chooses among equal values ({count} equal the next one, except for rounding), and OpenVINO may choose "
        "another of them than torch. Untrained weights or constant inputs do that: give an example whose values differ."
        for name, count in counted
        if count
    ]


def _count_ties(op: ov.Node, answer: _Answer) -> int:
    attributes = op.get_attributes()
    axis, values = attributes["axis"], answer.values.astype(np.float64)
    finite = np.abs(values[np.isfinite(values)])
    if not finite.size:
        return 0
    with np.errstate(invalid="ignore"):  # between two infinities
        distances = np.diff(np.sort(-values if attributes["mode"] == "max" else values, axis), axis=axis)
    ties = distances <= _EQUAL * float(finite.max())
    return int(np.take(ties, range(min(answer.indices.shape[axis], ties.shape[axis])), axis).sum())


def _find_choices(model: ov.Model) -> list[ov.Node]:
    """Return the operations that choose by weights that fp16 rounds, and whose indices decide on a float result."""
    operations = model.get_ordered_ops()
    choices = [op for op in operations if op.get_type_name() in _INDICES and _is_rounded(op.input_value(0))]
    if not choices:
        return []
    bits = {op.get_name(): 1 << at for at, op in enumerate(choices)}
    rounded = {op.get_name() for op in _halved(model)}
    follows: dict[tuple[str, int], int] = {}
    reached = 0
    for op in operations:
        name, kind = op.get_name(), op.get_type_name()
        if kind == "ShapeOf":
            continue
        sources = [*map(_identify, op.input_values())]
        if any(source in rounded for source, _ in sources):
            rounded.add(name)
        mask = 0
        for source in sources:
            mask |= follows.get(source, 0)
        follows |= {(name, index): mask for index in range(op.get_output_size())}
        if name in bits and name in rounded:
            follows[name, _INDICES[kind]] |= bits[name]
        if kind == "Result" and op.get_element_type().is_real():
            reached |= mask
    return [op for op in choices if reached & bits[op.get_name()]]


def _is_rounded(values: ov.Output) -> bool:
    """Tell whether rounding moves what is chosen by: floats, or flags; indices move only with an earlier choice."""
    kind = values.get_element_type()
    return bool(kind.is_real() or kind == ov.Type.boolean)


def _halved(model: ov.Model) -> Iterator[ov.Node]:
    """Yield the constants that are stored as fp16."""
    exact = find_exact(model)
    for op in model.get_ordered_ops():
        is_float = op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.f32
        if is_float and op.get_byte_size() and op.get_friendly_name() not in exact:
            yield op


def _halve_weights(model: ov.Model) -> None:
    for op in list(_halved(model)):
        rounded = ops.constant(op.data.astype(np.float16).astype(np.float32))
        for reader in op.output(0).get_target_inputs():
            reader.replace_source_output(rounded.output(0))


def _run(model: ov.Model, taps: Sequence[ov.Output], inputs: Sequence[Array]) -> list[_Answer]:
    """Run a graph, and return what its tapped outputs have, two by two."""
    request = compile_for_check(model).create_infer_request()
    request.infer(inputs)
    places = {_identify(result.input_value(0)): at for at, result in enumerate(model.get_results())}
    found = [np.array(request.get_output_tensor(places[_identify(tap)]).data) for tap in taps]
    return [_Answer(values, indices) for values, indices in zip(found[::2], found[1::2], strict=True)]


def _identify(output: ov.Output) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()


def _compare(op: ov.Node, full: _Answer, half: _Answer) -> _Moved:
    if op.get_type_name() == "TopK":
        attributes = op.get_attributes()
        axis, sign = attributes["axis"], -1.0 if attributes["mode"] == "max" else 1.0
        moved = int((full.indices != half.indices).sum())
        close = _count_close(sign * full.values, sign * half.values, axis, full.indices.shape[axis])
        return _Moved(full.indices.size, moved, close)
    if op.get_type_name() == "NonZero":
        return _Moved(full.values.size, int(((full.values != 0) != (half.values != 0)).sum()), 0)
    if full.indices.shape != half.indices.shape:
        return _Moved(full.indices.size, max(1, abs(full.indices.size - half.indices.size)), 0)
    return _Moved(full.indices.size, int((full.indices != half.indices).sum()), 0)


def _count_close(full: Array, half: Array, axis: int, taken: int) -> int:
    """Return how many of the smallest values are so close to the next one that fp16 may swap the two."""
    changed = (half - full)[np.isfinite(full) & np.isfinite(half)]
    if not changed.size:
        return 0
    reach = _NEAR * float(np.sqrt(np.mean(changed**2)))
    with np.errstate(invalid="ignore"):  # between two infinities
        distances = np.abs(np.diff(np.sort(full, axis), axis=axis))
    close = (distances > 0) & (distances < reach)  # values that are equal stay so, and the first of them is taken
    return int(np.take(close, range(min(taken, close.shape[axis])), axis).sum())


def _name(op: ov.Node) -> str:
    """Return torch's name of an operation, and its module."""
    scope, slash, kind = op.get_friendly_name().removeprefix("__module.").partition("/")
    module = scope.removeprefix("module").lstrip(".")
    operation = (kind if slash else op.get_type_name()).partition("/")[0]
    is_exported = operation.startswith("aten.")  # then the scope is a node of torch.export's graph
    return f"{operation} in {module}" if module and not is_exported else operation


def _describe(op: ov.Node, found: _Moved) -> str:
    some = f"moves {found.moved}" if found.moved else f"changes none, but with other inputs may change {found.close},"
    return (
        f'{_name(op)}: precision="fp16" {some} of {found.total} choices, because it rounds values that are nearly '
        'equal. What is looked up by them then differs by more than rounding. precision="fp32" keeps them'
    )
