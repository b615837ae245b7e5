"""Keep every index inside of the tensor that it points into, and note the bounds of inputs that are indices.

What a guard is, and why: `compilation.index_guards`. The PyTorch frontend makes one index out of those of `x[i, j]`,
which is another element where one of them is negative or too large, and leaves `take_along_dim` without torch's
wrapping: this is mended here. Where torch raises for an index, and the index can be followed to an input, the input is
given its bounds, which a loaded model checks: see `conversion.bounds`.
"""

from __future__ import annotations

from typing import Any

import openvino as ov
from openvino import opset13 as ops

from npu_persist.compilation.index_guards import GUARDED, axis_size, bodies, guard, inside, integer, is_inside
from npu_persist.conversion.bounds import note_bounds
from npu_persist.conversion.dependence import inputs_by_node

_LOOKS_UP = {*GUARDED, "OneHot"}


def guard_indices(model: ov.Model) -> None:
    """Normalise and clamp indices, and note the bounds of the inputs that are indices."""
    if _guard(model, follow=True):
        model.validate_nodes_and_infer_types()


def _guard(model: ov.Model, *, follow: bool) -> bool:
    """Guard what a model looks up; return whether there was anything."""
    depends_on = inputs_by_node(model)
    found = False
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        for body in bodies(operation, kind):
            found |= _guard(body, follow=False)  # what a branch does not run has no say about an input
        if kind in _LOOKS_UP and (depends_on[operation.get_name()] or not follow):
            found = True
            _guard_operation(operation, kind, follow=follow)
    return found


def _guard_operation(operation: Any, kind: str, *, follow: bool) -> None:
    if kind == "Gather" and (parts := _parts(operation)):
        _replace_parts(operation, parts, follow=follow)
        return
    if kind == "OneHot":
        _fix_depth(operation)
    if follow:
        note_bounds(operation, kind)
    if kind in GUARDED:
        guard(operation, kind, wraps="take_along_dim" in operation.get_friendly_name())


def _parts(operation: Any) -> list[tuple[ov.Output, ov.Output | None]]:
    """Return the indices that the frontend made one of, each with what it is multiplied by; nothing for other Gathers.

    It reshapes the tensor so that the indexed axes are one, and gathers at `k + j * size + i * size * size`.
    """
    where = _scope(operation)
    found: list[tuple[ov.Output, ov.Output | None]] = []
    total = operation.input_value(1)
    while (add := total.get_node()).get_type_name() == "Add" and _scope(add) == where:
        product = add.input_value(1).get_node()
        if product.get_type_name() != "Multiply" or _scope(product) != where:
            return []
        found.append((product.input_value(0), product.input_value(1)))
        total = add.input_value(0)
    if not found or operation.input_value(0).get_node().get_type_name() != "Reshape":
        return []
    return [*found, (total, None)]


def _scope(node: Any) -> str:
    """Return the name of the torch operation that a node was made for."""
    return str(node.get_friendly_name().rpartition("/")[0])


def _replace_parts(operation: Any, parts: list[tuple[ov.Output, ov.Output | None]], *, follow: bool) -> None:
    data = operation.input_value(0).get_node().input_value(0)
    total: Any = None
    for axis, (index, factor) in enumerate(parts):
        if follow:
            note_bounds(operation, "Gather", index=index, size=data.get_partial_shape()[axis])
        size = axis_size(data, axis)
        kept: Any = index if is_inside(index, size) else inside(index, size)
        term = kept if factor is None else ops.multiply(kept, factor)
        total = term if total is None else ops.add(total, term)
    old, new = operation.input_value(1), total.output(0)
    for user in old.get_target_inputs():
        if user.get_node().get_name() == operation.get_name() or user.get_node().get_type_name() == "ShapeOf":
            user.replace_source_output(new)


def _fix_depth(operation: Any) -> None:
    """Replace the depth of a OneHot by the number of classes, where the frontend chooses between it and a maximum."""
    choice = operation.input_value(1).get_node()
    if choice.get_type_name() == "Select":
        number = choice.input_value(1).get_node()
        while number.get_type_name() == "Convert":
            number = number.input_value(0).get_node()
        if number.get_type_name() == "Constant" and int(number.data.reshape(-1)[0]) > 0:
            operation.input(1).replace_source_output(integer(int(number.data.reshape(-1)[0])).output(0))
