"""Small pieces of graphs of integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import openvino as ov
from openvino import opset13 as ops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npu_persist.conversion.rewrites.integers.ranges import Ranges

    Rewrite: TypeAlias = Callable[[ov.Node, Sequence[ov.Output], Ranges], "Value | None"]
    """Returns an operation's result on sources, which have the types of its own or wider ones; None: it is exact."""

Value: TypeAlias = "ov.Node | ov.Output"


def as_output(value: Value) -> ov.Output:
    """Return the one output of an operation, or the output itself."""
    return value.output(0) if isinstance(value, ov.Node) else value


def number(value: int, element_type: ov.Type) -> ov.Node:
    """Return a constant of rank 0."""
    return ops.constant(np.array(value, element_type.to_dtype()))


def indices(*values: int) -> ov.Node:
    """Return a constant of rank 1, for axes and the like."""
    return ops.constant(np.array(values, np.int64))


def flag(condition: Value, element_type: ov.Type) -> ov.Node:
    """Return 1 where a condition holds, and 0 elsewhere."""
    return ops.convert(condition, element_type.get_type_name())


def sum_exactly(data: Value, axis: int, size: int | None) -> ov.Node:
    """Sum along an axis, which is kept: the last of the running sums, which are int32."""
    if size is None:  # it may be 0, and has no last sum then
        rank = as_output(data).get_partial_shape().rank.get_length()
        data = ops.pad(data, indices(*(position == axis for position in range(rank))), indices(*[0] * rank), "constant")
    sums = ops.cum_sum(data, ops.constant(np.array(axis, np.int64)))
    return ops.gather(sums, indices(-1), ops.constant(np.array(axis, np.int64)))
