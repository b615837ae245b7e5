"""Everything that changes a graph between torch and `model.xml`, in the order in which it runs.

To add a rewrite, add a file with one function that changes its argument in place, name here the issue or the quirk that
makes it necessary, and add its test in `tests/unit/conversion/rewrites/`. Conversions of torch operations that
OpenVINO's frontend lacks come first, then rewrites of the `openvino.Model`, then those of its XML. What halves float
weights and is tied to the weights' layout (`half_precision`, `bfloat16`) is called by `write_ir` before the latter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.conversion.rewrites.aten_diff import convert_diff
from npu_persist.conversion.rewrites.constant_folding import fold_constant_results
from npu_persist.conversion.rewrites.integer_division import make_integer_divisions_exact
from npu_persist.conversion.rewrites.layer_names import name_layers
from npu_persist.conversion.rewrites.openvino_passes import clean_up_names, optimize
from npu_persist.conversion.rewrites.tensor_names import strip_tensor_names

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Callable

    import openvino as ov

OPERATIONS: dict[str, Callable[[Any], list[Any]]] = {
    "aten::diff": convert_diff,  # called by every transformers decoder that is given no mask
}
"""Conversions by the torch operation's name, for operations that the PyTorch frontend has no conversion for."""

MODEL_REWRITES: tuple[Callable[[ov.Model], None], ...] = (
    make_integer_divisions_exact,  # the CPU plugin divides integers in floating point
    optimize,  # what openvino.convert_model does
    fold_constant_results,  # the CPU plugin overwrites what it computed from constants
    clean_up_names,  # the last step of openvino.convert_model
)

XML_REWRITES: tuple[Callable[[ET.Element], None], ...] = (
    name_layers,  # OpenVINO's names hold a counter of the process
    strip_tensor_names,  # the tracer's names of inner tensors, and indentation
)
