"""Runs a converted graph on inputs that it was not traced with, where there is reason to: frozen sizes, frozen values.

The golden sample alone cannot show a graph that answers with constants, for it holds the very inputs of the trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.compilation.messages import first_lines
from npu_persist.conversion import check as parity
from npu_persist.conversion.convert import dependences
from npu_persist.conversion.dynamic import Axes, other_sizes, resize
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov
    import torch

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.manifest import Tolerance
    from npu_persist.conversion.capture import Call


def probe(call: Call, axes: Axes, model: ov.Model, tolerance: Tolerance, sizes: Sequence[Shapes] = ()) -> None:
    """Check a graph at a second size if it has dynamic axes, and with second values if it ignores an input.

    The second size is one of `sizes`, which are more than guesses: the module may take multiples of a number only.

    Torch's own forward tells which inputs each result depends on; a graph in which a result does not depend on one of
    them is run with the inputs' values in reverse order, and compared.

    Raises:
        ConversionError: the graph froze a size or a value, and is wrong for other inputs.

    """
    if axes and (resized := _find_other(call, sizes) or other_sizes(call, axes)) is not None:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in resized)
        _compare(call, model, resized, tolerance, f"inputs of shape {shapes}")
    depends_on = dependences(model)
    if not any(depends_on):
        raise ConversionError("no output of the graph depends on any input: the forward leaves torch on its way.")
    ignored = [torch_mask & ~mask for torch_mask, mask in zip(call.depends_on, depends_on, strict=False)]
    if any(ignored):
        lost = 0
        for mask in ignored:
            lost |= mask
        names = [name for index, name in enumerate(call.input_names) if lost >> index & 1]
        reversed_values = [tensor.flip(tuple(range(tensor.ndim))) for tensor in call.tensors]
        _compare(
            call, model, reversed_values, tolerance, f"other values of {', '.join(names)}, which the graph ignores"
        )


def _find_other(call: Call, sizes: Sequence[Shapes]) -> list[torch.Tensor] | None:
    for shapes in sizes:
        wanted = [
            shapes.get(name, tuple(tensor.shape)) for name, tensor in zip(call.input_names, call.tensors, strict=True)
        ]
        if wanted != [tuple(tensor.shape) for tensor in call.tensors]:
            return resize(call.tensors, wanted)
    return None


def _compare(call: Call, model: ov.Model, tensors: Sequence[torch.Tensor], tolerance: Tolerance, what: str) -> None:
    expected = call.run(tensors)
    try:
        found = parity.compile_for_check(model).create_infer_request().infer([tensor.numpy() for tensor in tensors])
    except RuntimeError as error:
        raise ConversionError(f"the graph does not run with {what}: {first_lines(str(error))}") from error
    for index, (name, result) in enumerate(zip(call.output_names, expected, strict=True)):
        difference = parity.measure(name, result.detach().numpy(), found[index])
        if not parity.is_within(difference, tolerance):
            raise ConversionError(
                f"the graph is right for the example but not with {what}: output {name} differs from torch by "
                f"{difference.max_relative:g} of its scale. What the trace froze cannot vary: leave a frozen axis "
                "out of dynamic_shapes."
            )
