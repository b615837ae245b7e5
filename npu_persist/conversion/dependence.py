"""What the values in a graph depend on; shapes do not count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov


def inputs_by_output(model: ov.Model) -> list[int]:
    """Return for each output the inputs that its values depend on, a bit for each."""
    masks = inputs_by_node(model)
    return [masks[result.get_name()] for result in model.get_results()]


def inputs_by_node(model: ov.Model) -> dict[str, int]:
    """Return for each node, by its unique name, the inputs that its values depend on, a bit for each."""
    masks = {parameter.get_name(): 1 << index for index, parameter in enumerate(model.get_parameters())}
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind != "Parameter":
            mask = 0
            for source in operation.input_values() if kind != "ShapeOf" else ():
                mask |= masks.get(source.get_node().get_name(), 0)
            masks[operation.get_name()] = mask
    return masks
