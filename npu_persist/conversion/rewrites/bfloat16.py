"""Store bfloat16 as half precision or float32: the NPU's compiler and numpy lack it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

_ATTRIBUTES = ("element_type", "destination_type", "output_type", "precision")
_LARGEST_HALF = int(np.float32(np.finfo(np.float16).max).view(np.uint32) >> 16)
"""The largest half-precision number as bits of a bfloat16."""


def has_large_bfloat16(model: ov.Model) -> bool:
    """Return whether a bfloat16 constant is beyond half precision."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Constant" and operation.get_element_type() == ov.Type.bf16:
            bits = operation.data.view(np.uint16) & 0x7FFF  # without the sign, bits of floats sort as their values do
            if bits.size and int(bits.max()) > _LARGEST_HALF:
                return True
    return False


def replace_bfloat16(root: ET.Element, kind: str) -> None:
    """Make every bfloat16 in the graph "f16" or "f32"."""
    for element in root.iter():
        for attribute in _ATTRIBUTES:
            if element.get(attribute) == "bf16":
                element.set(attribute, kind)
            elif element.get(attribute) == "BF16":
                element.set(attribute, {"f16": "FP16", "f32": "FP32"}[kind])
