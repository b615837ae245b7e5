"""bfloat16 becomes half precision, or float32 where values are too large."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import openvino as ov
import pytest

from npu_persist.conversion.rewrites.bfloat16 import has_large_bfloat16, replace_bfloat16


@pytest.mark.parametrize(("value", "is_large"), [(1.0, False), (65280.0, False), (-65536.0, True), (1e38, True)])
def test_large_values_are_found(value: float, is_large: bool) -> None:  # noqa: FBT001
    constant = ov.op.Constant(ov.Type.bf16, ov.Shape([2]), [0.0, value])
    result = ov.opset13.convert(constant, ov.Type.f32)
    assert has_large_bfloat16(ov.Model([result], [])) is is_large


def test_every_place_that_names_the_type_is_changed() -> None:
    root = ET.fromstring('<net><data element_type="bf16"/><port precision="BF16"/><data element_type="i64"/></net>')  # noqa: S314
    replace_bfloat16(root, "f32")
    assert [dict(element.attrib) for element in root] == [
        {"element_type": "f32"}, {"precision": "FP32"}, {"element_type": "i64"},
    ]  # fmt: skip
