"""Errors name the module's operation and path, and not OpenVINO's source code."""

from __future__ import annotations

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


def test_an_operation_with_a_way_around_it_says_which() -> None:
    class Histogram(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.histc(x, bins=4)

    with pytest.raises(ConversionError, match="set_experts_implementation"):
        npu_persist.persist(Histogram(), "histogram", (torch.randn(9),))


def test_messages_lose_their_source_locations_and_end() -> None:
    text = "Exception from src/core.cpp:1:\nCheck 'a::b' failed at src/x.hpp:12:\nthe kernel is too large"
    assert first_lines(text) == "the kernel is too large"
    assert len(first_lines("x" * 5000)) < 700
