"""A function of tensors, captured and converted as persist does, without a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import export, trace
from npu_persist.conversion.check import compile_for_check
from npu_persist.conversion.convert import convert
from npu_persist.conversion.dynamic import read_dynamic_shapes, to_export_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import openvino as ov

    Function = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]

Way = Literal["trace", "export"]


class TwoInputs(torch.nn.Module):
    """A function of two tensors, as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.function(x, y)


def convert_function(
    function: Function, example: Sequence[torch.Tensor], way: Way = "trace", dynamic_shapes: Any = None
) -> ov.Model:
    """Return the converted graph of a function of two tensors."""
    call = bind_call(TwoInputs(function).eval(), tuple(example), {})
    axes = read_dynamic_shapes(dynamic_shapes, call)
    if way == "trace":
        return convert(trace(call, fix_sizes=not axes), axes)
    return convert(export(call, call.run(call.tensors), to_export_shapes(call, axes)), axes)


def assert_equal_to_torch(
    function: Function,
    example: Sequence[torch.Tensor],
    *others: Sequence[torch.Tensor],
    way: Way = "trace",
    dynamic_shapes: Any = None,
) -> ov.Model:
    """Compare the converted function with torch, on the example and on other inputs, element by element."""
    model = convert_function(function, example, way, dynamic_shapes)
    request = compile_for_check(model).create_infer_request()
    for inputs in (example, *others):
        expected = function(*(tensor.clone() for tensor in inputs))
        found = request.infer([tensor.numpy() for tensor in inputs])
        for number, (wanted, got) in enumerate(zip(expected, found.values(), strict=True)):
            np.testing.assert_array_equal(got, wanted.numpy(), err_msg=f"output {number}", strict=True)
    return model
