"""`max(dim)` and `min(dim)` give the first of equal values, as `argmax` does: the frontend lets OpenVINO choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov


def take_the_first_of_equals(model: ov.Model) -> None:
    """Make searches for one index stable."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "TopK" or node.get_attributes()["stable"] or not node.output(1).get_target_inputs():
            continue
        count = node.input_value(1).get_node()
        if count.get_type_name() != "Constant" or int(count.get_data().ravel()[0]) != 1:
            continue
        given = node.get_attributes()
        stable = ops.topk(
            *node.input_values(), given["axis"], given["mode"], "value", str(given["index_element_type"]), stable=True
        )
        stable.set_friendly_name(node.get_friendly_name())
        for old, new in zip(node.outputs(), stable.outputs(), strict=True):
            old.replace(new)
