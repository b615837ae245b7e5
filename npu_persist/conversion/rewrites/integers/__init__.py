"""Compute integers exactly within int32.

The CPU plugin runs int64 as int32, and adds, subtracts, multiplies, sorts, gathers and scatters int32 as such. Other
operations pass through float32, which holds integers up to 2^24 only: division and modulo (openvino#37766), comparisons
(openvino#35825), powers (openvino#35838), matrix products (openvino#37956), sums, maxima, clamps, selections. They are
expressed by those that are exact, unless the values are known to be small. uint8, int8 and int16 are saturated or
widened where torch wraps around.

Sizes are small. What else is wrong with arithmetic on them, and only that, is rewritten in `sizes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.conversion.dependence import inputs_by_node
from npu_persist.conversion.rewrites.integers.arithmetic import as_output
from npu_persist.conversion.rewrites.integers.bounds import BOUNDS
from npu_persist.conversion.rewrites.integers.comparison import COMPARISONS
from npu_persist.conversion.rewrites.integers.division import DIVISIONS
from npu_persist.conversion.rewrites.integers.narrow import compute_wide, is_narrow
from npu_persist.conversion.rewrites.integers.products import PRODUCTS
from npu_persist.conversion.rewrites.integers.ranges import Ranges
from npu_persist.conversion.rewrites.integers.reduction import REDUCTIONS
from npu_persist.conversion.rewrites.integers.sizes import SIZES

if TYPE_CHECKING:
    import openvino as ov

    from npu_persist.conversion.rewrites.integers.arithmetic import Rewrite

_REWRITES: dict[str, Rewrite] = {**COMPARISONS, **REDUCTIONS, **BOUNDS, **PRODUCTS}
"""By the kind of operation."""


def make_integer_divisions_exact(model: ov.Model) -> None:
    """Rewrite divisions; before OpenVINO's passes, which drop conversions that say how the frontend means to round."""
    _rewrite(model, DIVISIONS, SIZES)


def make_integers_exact(model: ov.Model) -> None:
    """Rewrite the other operations on integers that depend on an input's values and would be rounded."""
    _rewrite(model, _REWRITES, {})


def _rewrite(model: ov.Model, values: dict[str, Rewrite], sizes: dict[str, Rewrite], *, is_body: bool = False) -> None:
    candidates: list[ov.Node] = []
    for operation in model.get_ordered_ops():
        if _is_candidate(operation, values, sizes):
            candidates.append(operation)
        for body in _bodies(operation):
            _rewrite(body, values, sizes, is_body=True)
    if not candidates:
        return
    depends_on = inputs_by_node(model)
    of_values, of_sizes = Ranges(), Ranges(of_sizes=True)
    for operation in candidates:
        # Constants, too: the CPU plugin rounds what it divides in 8 bits.
        is_narrow_division = operation.get_type_name() in DIVISIONS and is_narrow(operation)
        is_value = is_body or is_narrow_division or depends_on[operation.get_name()]
        rewrites, ranges = (values, of_values) if is_value else (sizes, of_sizes)
        rewrite = rewrites.get(operation.get_type_name())
        replacement = None
        if is_narrow(operation) and is_value:
            replacement = compute_wide(operation, rewrite, ranges)
        elif rewrite is not None:
            replacement = rewrite(operation, operation.input_values(), ranges)
        if replacement is not None:
            output = as_output(replacement)
            if output.get_node().get_name() not in depends_on:  # not one that was there before
                output.get_node().set_friendly_name(operation.get_friendly_name())
            operation.output(0).replace(output)
    model.validate_nodes_and_infer_types()


def _is_candidate(operation: ov.Node, values: dict[str, Rewrite], sizes: dict[str, Rewrite]) -> bool:
    kind = operation.get_type_name()
    if kind in values or kind in sizes:
        return bool(operation.input_value(kind == "Select").get_element_type().is_integral_number())
    return kind not in DIVISIONS and is_narrow(operation)


def _bodies(operation: ov.Node) -> list[ov.Model]:
    kind = operation.get_type_name()
    if kind == "If":
        return [operation.get_function(0), operation.get_function(1)]
    return [operation.get_function()] if kind in {"Loop", "TensorIterator"} else []
