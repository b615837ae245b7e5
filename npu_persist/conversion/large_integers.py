"""Finds where a graph's integer arithmetic differs from torch's: beyond 2^24 in float32, or beyond int32.

What `rewrites.integers` makes exact is not named here. What is left is found in two ways: operations that are known to
round, in the graph; and one more call of the module and of the graph, with integers between 2^24 and 2^25.
"""

from __future__ import annotations

import linecache
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from npu_persist.bundle.comparison import describe, find_failures
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.compilation.exact_outputs import exact_outputs
from npu_persist.conversion.check import compile_for_check, measure_all
from npu_persist.conversion.dependence import inputs_by_node
from npu_persist.conversion.frontend_errors import all_nodes, module_path
from npu_persist.conversion.rewrites.integers.ranges import MOVES, Ranges
from npu_persist.errors import CompilationError, ConversionError, PrecisionWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openvino as ov

    from npu_persist.conversion.capture import Capture

_IN_FLOAT32 = frozenset(
    {
        "MatMul",
        "Einsum",
        "Convolution",
        "GroupConvolution",
        "ConvolutionBackpropData",
        "MaxPool",
        "AvgPool",
        "Interpolate",
    }
    | {
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "Power",
        "SearchSorted",
        "Bucketize",
    }
)
"""Operations that the CPU plugin runs in float32 whatever they are given."""
_ARITHMETIC = frozenset(
    {"Add", "Subtract", "Multiply", "Divide", "FloorMod", "Mod", "Power", "SquaredDifference", "CumSum", "ReduceSum"}
    | {"ReduceProd", "MatMul", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitwiseLeftShift"}
    | {"BitwiseRightShift", "Abs", "Negative", "Maximum", "Minimum", "Clamp", "Einsum", "Relu", "Sign"}
)
_COMPARISONS = frozenset({"Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "Result"})
_ALL = frozenset(range(99))
_DATA = {
    **dict.fromkeys(_ARITHMETIC | _COMPARISONS | {"Concat", "Convert", "ShapeOf"}, _ALL),
    **dict.fromkeys(MOVES | {"CumSum", "ReduceSum", "ReduceProd", "TopK", "Pad", "NonZero"}, frozenset({0})),
    **dict.fromkeys(("ScatterElementsUpdate", "ScatterNDUpdate", "ScatterUpdate"), frozenset({0, 2})),
    "Select": frozenset({1, 2}),
}
"""Operands that any value may have; a large one elsewhere would be an index or a size."""
_LOW, _HIGH = 2**24, 2**25
_NOT_THE_USERS = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))


def warn_of_integers(capture: Capture, model: ov.Model, *, run: bool) -> list[PrecisionWarning]:
    """Return a warning for each operation that rounds large integers, and for outputs that differ with large inputs."""
    found = [*_name_roundings(capture, model)]
    if not run or found:
        return found
    return [*_try_large(capture, model)]


def _name_roundings(capture: Capture, model: ov.Model) -> Iterator[PrecisionWarning]:
    suspects = [
        operation
        for operation in model.get_ordered_ops()
        if operation.get_type_name() in _IN_FLOAT32 and operation.get_output_element_type(0).is_integral_number()
    ]
    if not suspects:
        return
    depends_on, ranges = inputs_by_node(model), Ranges()
    lines: dict[str, None] = {}
    for operation in suspects:
        sources = operation.input_values()
        is_small = ranges.of(operation.output(0)).is_small and ranges.of(sources[0]).is_small
        if is_small or not depends_on[operation.get_name()]:
            continue
        lines[_place(capture, operation)] = None
    for line in lines:
        yield PrecisionWarning(
            f"{line}: computes integers in float32, which is exact only up to {_LOW}. If values or results "
            "get larger, compute with floats, or split the integers"
        )


def _place(capture: Capture, operation: ov.Node) -> str:
    """Return the submodule's path, torch's name of an operation, and its source lines where the trace knows them."""
    scope, _, name = operation.get_friendly_name().partition("/")
    name = str(name.partition("/")[0] or operation.get_type_name())
    path = module_path(scope)
    program = capture.program
    if isinstance(program, torch.export.ExportedProgram):
        return name
    lines = {
        line: None
        for node in all_nodes(program.inlined_graph)
        if node.kind() == name and module_path(node.scopeName()) == path
        if (line := _source_line(str(node.sourceRange()))) is not None
    }
    return f"{path or 'the module itself'}: {name}" + (f", at {' and '.join(lines)}" if lines else "")


def _source_line(frames: str) -> str | None:
    """Return file, line and text of the innermost frame, written "file(line): function", that is the user's."""
    for frame in re.finditer(r"^(.+)\((\d+)\): ", frames, re.MULTILINE):
        file, number = frame.group(1), int(frame.group(2))
        if not file.startswith(_NOT_THE_USERS):
            return f"{Path(file).name}:{number}: {linecache.getline(file, number).strip()}".rstrip(": ")
    return None


def _try_large(capture: Capture, model: ov.Model) -> Iterator[PrecisionWarning]:
    """Run torch and the graph on large integers, where an input is computed with and cannot get to an index."""
    call = capture.call
    chosen, becomes_float = _inputs_of_arithmetic(model)
    generator = torch.Generator().manual_seed(0)
    tensors, names = [*call.tensors], []
    for position, (name, tensor) in enumerate(zip(call.input_names, call.tensors, strict=True)):
        is_flag = tensor.numel() == 0 or bool(((tensor == 0) | (tensor == 1)).all())
        if not chosen >> position & 1 or tensor.dtype not in {torch.int64, torch.int32} or is_flag:
            continue
        large = torch.randint(_LOW, _HIGH, tensor.shape, generator=generator)
        tensors[position] = torch.where(tensor < 0, -large, large).to(tensor.dtype)
        names.append(name)
    if not names:
        return
    try:
        expected = call.run(tensors)
        request = compile_for_check(model).create_infer_request()
        request.infer([tensor.numpy() for tensor in tensors])
        found = request.infer([tensor.numpy() for tensor in tensors])
        differences = measure_all(expected, found.values())
    except (ConversionError, CompilationError, RuntimeError):  # torch itself refuses them, or the check will say it
        return
    exact = exact_outputs(model, expected.names)
    # Rounding of large floats, such as the sine of a position, is not what is looked for.
    compared = [one for one in differences if one.output in exact or not becomes_float]
    for failed in find_failures(compared, Tolerance(0.01, 0.999, 0.01), exact):
        yield PrecisionWarning(
            f"output {failed.output}: with integers from {_LOW} to {_HIGH} in {', '.join(names)} OpenVINO differs from "
            f"torch {describe(failed)}. It computes integers in 32 bits: what leaves +-{2**31 - 1} on the way wraps "
            "around, where torch's int64 does not. If inputs get so large, keep products, sums and powers below that"
        )


def _inputs_of_arithmetic(model: ov.Model) -> tuple[int, bool]:
    """Return the inputs, a bit for each, that are computed with, and whether a large value of one becomes a float."""
    carried = {parameter.get_name(): 1 << index for index, parameter in enumerate(model.get_parameters())}
    parameters = set(carried)
    ranges = Ranges()
    computed = elsewhere = floats = 0
    for operation in model.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_name()
        if name in parameters:
            continue
        mask = 0
        for position, source in enumerate(operation.input_values()):
            carries = carried.get(source.get_node().get_name(), 0)
            if not carries or not source.get_element_type().is_integral_number() or source.get_index():
                continue
            if position in _DATA.get(kind, ()):
                mask |= carries
            else:
                elsewhere |= carries
        if not mask or kind in {"ShapeOf", "NonZero", "Result"}:
            continue
        computed |= mask if kind in _ARITHMETIC else 0
        if operation.output(0).get_element_type().is_real():
            floats |= mask
        elif not ranges.of(operation.output(0)).is_small:
            carried[name] = mask
    chosen = computed & ~elsewhere
    return chosen, bool(chosen & floats)
