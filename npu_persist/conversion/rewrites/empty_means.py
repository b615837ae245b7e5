"""The mean of nothing is NaN; the CPU plugin gives 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov


def make_empty_means_nan(model: ov.Model) -> None:
    """Select NaN where the axes of a mean may be empty."""
    changed = False
    for mean in model.get_ordered_ops():
        if mean.get_type_name() != "ReduceMean" or not _may_be_empty(mean):
            continue
        users = mean.output(0).get_target_inputs()
        sizes = ops.gather(ops.shape_of(mean.input_value(0)), mean.input_value(1), ops.constant(0))
        is_empty = ops.equal(ops.reduce_prod(sizes, ops.constant([0])), ops.constant(0))
        result = ops.select(is_empty, ops.constant(math.nan, mean.get_element_type()), mean)
        for user in users:
            user.replace_source_output(result.output(0))
        changed = True
    if changed:
        model.validate_nodes_and_infer_types()


def _may_be_empty(mean: ov.Node) -> bool:
    axes = mean.input_value(1).get_node()
    shape = mean.input_value(0).get_partial_shape()
    if not mean.get_element_type().is_real() or axes.get_type_name() != "Constant" or shape.rank.is_dynamic:
        return False
    return any(shape[int(axis)].get_min_length() == 0 for axis in axes.get_data().ravel())
