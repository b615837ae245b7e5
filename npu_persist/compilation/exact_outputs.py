"""Which outputs of a graph depend on integers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

_WITH_BODIES = frozenset({"If", "Loop", "TensorIterator"})
"""Operations that may compute anything."""


def exact_outputs(model: ov.Model, names: Sequence[str]) -> frozenset[str]:
    """Return the names of the outputs in which no floating-point number has a part: rounding cannot change them."""
    return frozenset(name for name, is_exact in zip(names, _outputs_without_floats(model), strict=True) if is_exact)


def _outputs_without_floats(model: ov.Model) -> list[bool]:
    follows_floats: set[str] = set()
    operations = model.get_ordered_ops()
    before = -1
    while before < len(follows_floats):  # what a state is assigned, the next inference reads
        before = len(follows_floats)
        states: set[str] = set()
        for operation in operations:
            kind = operation.get_type_name()
            if kind == "ShapeOf":
                continue
            name = operation.get_name()
            for source in operation.input_values():
                if source.get_element_type().is_real() or source.get_node().get_name() in follows_floats:
                    follows_floats.add(name)
            if kind in _WITH_BODIES:
                follows_floats.add(name)
            if kind == "Assign" and name in follows_floats:
                states.add(operation.get_attributes()["variable_id"])
        for operation in operations:
            if operation.get_type_name() == "ReadValue" and operation.get_attributes()["variable_id"] in states:
                follows_floats.add(operation.get_name())
    return [result.get_name() not in follows_floats for result in model.get_results()]
