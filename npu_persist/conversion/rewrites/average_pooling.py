"""Average pooling with `ceil_mode` and `count_include_pad`.

The CPU plugin divides windows that reach beyond the padding by the whole kernel, torch by what is in the padded input.
So the padding becomes an operation, and what is beyond it is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset14 as ops

if TYPE_CHECKING:
    import openvino as ov


def count_what_is_padded(model: ov.Model) -> None:
    """Rewrite poolings whose last windows reach beyond the padding."""
    for pool in model.get_ordered_ops():
        if pool.get_type_name() != "AvgPool":
            continue
        given = pool.get_attributes()
        if (
            given["exclude-pad"]
            or not given["rounding_type"].startswith("ceil")
            or pool.get_output_partial_shape(0).is_dynamic
        ):
            continue
        begin, end = ([0, 0, *given[name]] for name in ("pads_begin", "pads_end"))
        zero = ops.constant(0, pool.get_element_type())
        padded = ops.pad(pool.input_value(0), ops.constant(begin), ops.constant(end), "constant", zero)
        none = [0] * len(given["kernel"])
        wide = ops.avg_pool(
            padded, given["strides"], none, none, given["kernel"], exclude_pad=True, rounding_type="ceil"
        )
        # A window that starts in the padding is none of torch's.
        shape = list(pool.get_output_shape(0))
        cut = ops.slice(
            wide, *(ops.constant(np.array(v, np.int64)) for v in ([0] * len(shape), shape, [1] * len(shape)))
        )
        cut.set_friendly_name(pool.get_friendly_name())
        pool.output(0).replace(cut.output(0))
