"""Compute at conversion what follows from constants alone.

The CPU plugin does not fold behind half-precision weights: it runs such operations once, while compiling, and then lets
inferences overwrite the memory of the result. A projected learned query, for instance, is right in the first call only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openvino import Model
from openvino import opset13 as ops
from openvino.passes import ConstantFolding, Manager

if TYPE_CHECKING:
    import openvino as ov

_KEPT = frozenset(
    {"Parameter", "Constant", "Convert", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Broadcast", "Tile", "Result"}
)
"""Operations that compute nothing; folding them would cost a weight its name, or disk space."""


def fold_constant_results(model: ov.Model) -> None:
    """Replace operations on constants by their results."""
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
        # A model of its own over the same nodes: folding in it replaces them for all their users.
        manager.run_passes(Model(results, []))
        model.validate_nodes_and_infer_types()
