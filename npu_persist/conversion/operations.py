"""Operations that OpenVINO's PyTorch frontend lacks or gets wrong, mended where it lets us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.frontend.pytorch import ConversionExtension
from openvino.passes import ConstantFolding, Manager

if TYPE_CHECKING:
    from collections.abc import Iterable


def _diff(context: Any) -> list[Any]:
    """`aten::diff(self, n, dim, prepend, append)`, which every transformers decoder without a mask calls."""
    parts = [context.get_input(index) for index in (3, 0, 4) if index == 0 or not _is_none(context, index)]
    times, axis = int(context.get_values_from_const_input(1)), int(context.get_values_from_const_input(2))
    value = ops.concat(parts, axis).output(0) if len(parts) > 1 else parts[0]
    for _ in range(times):
        step, axes = ops.constant([1]), ops.constant([axis])
        later = ops.slice(value, ops.constant([1]), ops.constant([np.iinfo(np.int64).max]), step, axes)
        earlier = ops.slice(value, ops.constant([0]), ops.constant([-1]), step, axes)
        value = ops.subtract(later, earlier).output(0)
    return [value]


def _is_none(context: Any, index: int) -> bool:
    try:
        return context.get_values_from_const_input(index) is None
    except ov.frontend.GeneralFailure:  # what it raises for a tensor
        return False


def extensions() -> list[ConversionExtension]:
    """Return conversions for operations that the frontend has none for."""
    return [ConversionExtension("aten::diff", _diff)]


_KEPT = frozenset(
    {"Parameter", "Constant", "Convert", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Broadcast", "Tile", "Result"}
)
"""Operations that are left unfolded: they compute nothing, and folding would cost a weight its name or the file its
size."""


def fold_constant_results(model: ov.Model) -> None:
    """Compute now what follows from constants alone.

    The CPU plugin does not fold behind half-precision weights: it runs such operations once, while compiling, and then
    lets inferences overwrite the memory of the result. A query that is learned and projected is then right once only.

    Args:
        model: changed in place.

    """
    constant: set[str] = set()
    results: list[Any] = []
    for operation in model.get_ordered_ops():
        sources = [source.get_node().get_name() for source in operation.input_values()]
        kind = operation.get_type_name()
        if kind == "ShapeOf" and operation.input_value(0).get_partial_shape().is_static:
            size = ops.constant(list(operation.input_value(0).get_shape()), operation.get_element_type())
            operation.output(0).replace(size.output(0))
            constant.add(size.get_name())
        elif kind == "Constant" or (sources and kind != "Result" and constant.issuperset(sources)):
            constant.add(operation.get_name())
            if kind not in _KEPT:
                results += operation.outputs()
    if results:
        manager = Manager()
        manager.register_pass(ConstantFolding())
        # A model of its own over the same nodes: folding in it replaces them for all who use them.
        manager.run_passes(ov.Model(results, []))
        model.validate_nodes_and_infer_types()


def make_integer_divisions_exact(model: ov.Model, operations: Iterable[Any]) -> None:
    """Rewrite divisions of integers so that the CPU plugin gets them right.

    The plugin runs chains of integer element-wise operations in floating point: -7 // 2 comes out as -3, and
    ((16 - 1) // 2 + 1) * 2 as 17. Taking the remainder away first leaves nothing to round.

    Args:
        model: changed in place.
        operations: those to look at; the ones that only compute shapes need no care.

    """
    changed = False
    for operation in operations:
        if operation.get_type_name() != "Divide" or not operation.get_element_type().is_integral_number():
            continue
        dividend, divisor = operation.input_value(0), operation.input_value(1)
        # The frontend writes rounding_mode="trunc" as a division and a conversion, and relies on the plugin's rounding.
        truncates = any(
            user.get_node().get_type_name() == "Convert" for user in operation.output(0).get_target_inputs()
        )
        remainder = ops.mod(dividend, divisor) if truncates else ops.floor_mod(dividend, divisor)
        operation.input(0).replace_source_output(ops.subtract(dividend, remainder).output(0))
        changed = True
    if changed:
        model.validate_nodes_and_infer_types()
