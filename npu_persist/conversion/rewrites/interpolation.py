"""Interpolation to a single row or column.

`pytorch_half_pixel` takes the first pixel where an output has one; torch has long since taken the middle, which is
`half_pixel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov


def interpolate_to_the_middle(model: ov.Model) -> None:
    """Use `half_pixel`, which differs where an output has the size 1 only."""
    for node in model.get_ordered_ops():
        is_it = node.get_type_name() == "Interpolate" and len(node.inputs()) == 3  # noqa: PLR2004 - the frontend's form
        given = node.get_attributes() if is_it else {}
        if given.get("coordinate_transformation_mode") != "pytorch_half_pixel":
            continue
        if not any(axis.is_dynamic or axis.get_length() == 1 for axis in node.get_output_partial_shape(0)):
            continue
        image, sizes, axes = node.input_values()
        pads = {name: given[name] for name in ("pads_begin", "pads_end")}
        middle = ops.interpolate(
            image, sizes, given["mode"], given["shape_calculation_mode"], **pads, nearest_mode=given["nearest_mode"],
            coordinate_transformation_mode="half_pixel", antialias=given["antialias"], cube_coeff=given["cube_coeff"],
            axes=axes,
        )  # fmt: skip
        middle.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(middle.output(0))
