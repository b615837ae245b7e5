"""Make quotients exact where they are rounded or compared.

Where a written graph divides floats, the CPU plugin multiplies by the reciprocal (the frontend's mark against that does
not survive the file), which is off by a bit: floor(123 / 41) gives 2. Elsewhere that is rounding noise; where the
quotient is rounded or compared it is another cell of a grid. So there the nearest whole or half number is taken, if it
is exact: times the divisor it gives the dividend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

from npu_persist.conversion.dependence import inputs_by_node

if TYPE_CHECKING:
    import openvino as ov

_ROUNDS = frozenset(
    {"Floor", "Ceiling", "Round", "FloorMod", "Mod"}
    | {"Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual"}
)
"""Operations for which the last bit decides; conversions to integers beside them."""
_KEEPS = frozenset(
    {"Add", "Subtract", "Multiply", "Negative", "Abs", "Clamp", "Maximum", "Minimum", "Relu", "Sign"}
    | {"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Slice", "StridedSlice", "Gather", "Split"}
    | {"VariadicSplit", "Broadcast", "Tile", "ConvertLike"}
)
"""Operations that hand the last bit on."""


def make_rounded_quotients_exact(model: ov.Model) -> None:
    """Correct each quotient of floats whose last bit decides."""
    depends_on = inputs_by_node(model)
    decides: set[str] = set()
    quotients: list[ov.Node] = []
    for operation in reversed(model.get_ordered_ops()):
        users = [user.get_node() for output in operation.outputs() for user in output.get_target_inputs()]
        if not any(_rounds(user) or user.get_name() in decides for user in users):
            continue
        kind = operation.get_type_name()
        if kind in _KEEPS or (kind == "Convert" and operation.get_element_type().is_real()):
            decides.add(operation.get_name())
        elif kind == "Divide" and operation.get_element_type().is_real() and depends_on[operation.get_name()]:
            quotients.append(operation)
    for quotient in quotients:
        _correct(quotient)
    if quotients:
        model.validate_nodes_and_infer_types()


def _rounds(operation: ov.Node) -> bool:
    kind = operation.get_type_name()
    return kind in _ROUNDS or (kind == "Convert" and operation.get_element_type().is_integral_number())


def _correct(quotient: ov.Node) -> None:
    users = quotient.output(0).get_target_inputs()
    dividend, divisor = quotient.input_value(0), quotient.input_value(1)
    two, half = (ops.constant(value, quotient.get_element_type()) for value in (2.0, 0.5))
    nearest = ops.multiply(ops.round(ops.multiply(quotient, two), "half_to_even"), half)
    exact = ops.select(ops.equal(ops.multiply(nearest, divisor), dividend), nearest, quotient)
    for user in users:
        user.replace_source_output(exact.output(0))
