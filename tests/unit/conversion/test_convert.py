"""Errors name the module's operation and path, and not OpenVINO's source code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import npu_persist
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.errors import ConversionError


def test_a_layer_that_openvino_refuses_is_named() -> None:
    module = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(64, ceil_mode=True))
    with pytest.raises(ConversionError) as caught:
        npu_persist.persist(module, "pool", (torch.randn(1, 3, 40, 40),))
    assert (caught.value.operation, caught.value.module_path) == ("aten::avg_pool2d", "1")
    assert "aten::avg_pool2d in 1" in str(caught.value)
    assert ".cpp" not in str(caught.value)


class Bessel(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.special.bessel_j0(x) + torch.special.bessel_y1(x)
        return y


def test_a_missing_operation_comes_first_with_its_module_and_line() -> None:
    with pytest.raises(ConversionError) as caught:
        npu_persist.persist(torch.nn.Sequential(torch.nn.ReLU(), Bessel()), "bessel", (torch.ones(2),))
    text = str(caught.value)
    begin = "aten::special_bessel_j0 in 1 (test_convert.py:26: y: torch.Tensor = torch.special.bessel_j0(x) + "
    end = (
        ") has no conversion to OpenVINO; nor has aten::special_bessel_y1. "
        "torch.export, tried next, fails in the same way."
    )
    assert (text[: len(begin)], text[-len(end) :]) == (begin, end)
    assert (caught.value.operation, caught.value.module_path) == ("aten::special_bessel_j0", "1")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_to_do_instead_and_no_line_outside_of_the_module() -> None:
    quantization: Any = torch.ao.quantization
    module = quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), {torch.nn.Linear})
    with pytest.raises(ConversionError) as caught:
        npu_persist.persist(module, "quantized", (torch.ones(2, 4),))
    begin = "quantized::linear_dynamic in 0 has no conversion to OpenVINO. Persist the module as it was before"
    assert str(caught.value).startswith(begin)
    assert len(str(caught.value)) < 500


def test_torchs_own_stack_is_not_part_of_a_message() -> None:
    assert (
        first_lines("it failed\nException raised from apply at /x/Op.cpp:12 (most recent call first):\nframe #0")
        == "it failed"
    )


def test_messages_lose_their_source_locations_and_end() -> None:
    text = "Exception from src/core.cpp:1:\nCheck 'a::b' failed at src/x.hpp:12:\nthe kernel is too large"
    assert first_lines(text) == "the kernel is too large"
    assert len(first_lines("x" * 5000)) < 700
