"""Compares a graph, run by OpenVINO on the CPU, with what torch gives for the same inputs.

For each output, with the torch result t and the OpenVINO result o, both as float64:

    max_abs       max |o - t|
    max_relative  max |o - t| / max |t|      relative to the output's scale, not element by element
    cosine        (o . t) / (|o| |t|)

Infinities must be at the same places and have the same sign; they are left out of the measures. NaN is never right.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from npu_persist.bundle.manifest import Difference, Tolerance
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.conversion.dependence import inputs_by_output
from npu_persist.conversion.dynamic import other_sizes, resize
from npu_persist.device.core import get_core
from npu_persist.errors import CompilationError, ConversionError, ParityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import openvino as ov

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.manifest import Precision
    from npu_persist.conversion.call import Call, Results
    from npu_persist.conversion.capture import Capture
    from npu_persist.conversion.dynamic import Axes

_DIGITS = 3
"""Significant digits that are kept of a difference."""
_SIZED_BY_VALUES = frozenset({"NonZero", "Unique", "Multinomial"})
"""Operations whose result has a shape that depends on values."""


def default_tolerance(module: torch.nn.Module, precision: Precision) -> Tolerance:
    """Return what rounding alone may cost: the weights' precision, or the module's own where that is coarser."""
    if any(t.dtype is torch.bfloat16 for t in (*module.parameters(), *module.buffers())):
        return Tolerance(max_relative=0.2, cosine=0.995)
    if precision == "fp16" or any(p.dtype is torch.float16 for p in module.parameters()):
        return Tolerance(max_relative=0.1, cosine=0.999)
    return Tolerance(max_relative=0.001, cosine=0.99999)


def refuse_nan(results: Results) -> None:
    """Raise ParityError if torch's own results cannot be compared with anything."""
    for name, result in zip(results.names, results.tensors, strict=True):
        if result.is_floating_point() and (count := int(torch.isnan(result).sum())):
            raise ParityError(
                f"output {name}: torch itself gave NaN in {count} of {result.numel()} elements for the example inputs, "
                "so nothing can be compared with it. Give example inputs for which the module works, or pass "
                "check=False.",
                output=name,
            )


def check_written(capture: Capture, graph: Path, weights: Path, tolerance: Tolerance) -> tuple[Difference, ...]:
    """Run the example through the written graph and compare."""
    inputs = [tensor.numpy() for tensor in capture.call.tensors]
    request = compile_for_check(graph, weights).create_infer_request()
    request.infer(inputs)  # a plugin that overwrites what it computed at compile time is right in the first run only
    differences = measure_all(capture.results, request.infer(inputs).values())
    del request
    if all(is_within(difference, tolerance) for difference in differences):
        return differences
    worst = min(
        (difference for difference in differences if not is_within(difference, tolerance)), key=lambda one: one.cosine
    )
    layer = _find_first_difference(capture.call, graph, weights, tolerance)
    raise ParityError(
        f"output {worst.output}: OpenVINO differs from torch by {worst.max_relative:g} of the output's scale (allowed "
        f"{tolerance.max_relative:g}), cosine {worst.cosine:.6f} (at least {tolerance.cosine:g})"
        + (f"; the first layer that differs is {layer}" if layer else "; no single layer differs by that much")
        + '. Nothing was published. Try precision="fp32", or pass a wider tolerance=.',
        output=worst.output,
        differences=differences,
        layer=layer,
    )


def probe(capture: Capture, axes: Axes, model: ov.Model, tolerance: Tolerance, sizes: Sequence[Shapes] = ()) -> None:
    """Run a graph on other inputs than the example's where a frozen size or value is possible.

    A graph with dynamic axes is run at a second size, one of `sizes` where there is another (the module may take only
    multiples of a number). A graph that ignores an input which torch's result depends on is run with the inputs' values
    in reverse order.
    """
    call = capture.call
    if axes and (resized := _another_bucket(call, sizes) or other_sizes(call, axes)) is not None:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in resized)
        _probe(call, model, resized, tolerance, f"inputs of shape {shapes}")
    depends_on = inputs_by_output(model)
    if not any(depends_on):
        raise ConversionError("no output of the graph depends on any input: the forward leaves torch on its way.")
    ignored = 0
    for expected, found in zip(capture.results.depends_on, depends_on, strict=False):
        ignored |= expected & ~found
    if ignored:
        names = [name for index, name in enumerate(call.input_names) if ignored >> index & 1]
        reversed_values = [tensor.flip(tuple(range(tensor.ndim))) for tensor in call.tensors]
        what = f"other values of {', '.join(names)}, which the graph ignores"
        _probe(call, model, reversed_values, tolerance, what)


def _another_bucket(call: Call, sizes: Sequence[Shapes]) -> list[torch.Tensor] | None:
    for shapes in sizes:
        if any(call.shapes[name] != shape for name, shape in shapes.items()):
            return resize(call.tensors, [shapes.get(name) for name in call.input_names])
    return None


def _probe(call: Call, model: ov.Model, tensors: Sequence[torch.Tensor], tolerance: Tolerance, what: str) -> None:
    expected = call.run(tensors)
    try:
        found = compile_for_check(model).create_infer_request().infer([tensor.numpy() for tensor in tensors])
    except RuntimeError as error:
        raise ConversionError(f"the graph does not run with {what}: {first_lines(str(error))}") from error
    for difference in measure_all(expected, found.values()):
        if not is_within(difference, tolerance):
            raise ConversionError(
                f"the graph is right for the example but not with {what}: output {difference.output} differs from "
                f"torch by {difference.max_relative:g} of its scale. What the trace froze cannot vary: leave a frozen "
                "axis out of dynamic_shapes."
            )


def compile_for_check(model: ov.Model | Path, weights: Path | None = None) -> ov.CompiledModel:
    """Compile a model for the CPU at full precision."""
    core = get_core()
    try:
        read = core.read_model(model, weights) if isinstance(model, Path) else model
        return core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        if isinstance(model, Path):
            model = core.read_model(model, weights)
        layers = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in _SIZED_BY_VALUES]
        likely = f" The shape of some results depends on values, at {', '.join(layers[:5])}." if layers else ""
        raise CompilationError(
            f"OpenVINO could not compile the converted graph for the CPU: {first_lines(str(error))} Nothing was "
            f"published.{likely} check=False would publish a bundle that the CPU cannot run."
        ) from error


def measure_all(expected: Results, found: Iterable[np.ndarray]) -> tuple[Difference, ...]:
    """Return the differences of all outputs."""
    return tuple(
        measure(name, tensor.numpy(), got)
        for name, tensor, got in zip(expected.names, expected.tensors, found, strict=True)
    )


def measure(name: str, expected: np.ndarray, got: np.ndarray) -> Difference:
    """Return the differences of one output; infinite ones, with a cosine of -1, where shape or infinities differ."""
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    worst = Difference(name, float("inf"), float("inf"), -1.0)
    if expected.shape != got.shape or bool(np.isnan(got).any()):
        return worst
    infinite = np.isinf(expected) | np.isinf(got)
    if infinite.any():
        if not np.array_equal(expected[infinite], got[infinite]):
            return worst
        expected, got = expected[~infinite], got[~infinite]
    if expected.size == 0:
        return Difference(name, 0.0, 0.0, 1.0)
    max_abs = float(np.abs(got - expected).max())
    scale = float(np.abs(expected).max())
    norms = float(np.linalg.norm(expected) * np.linalg.norm(got))
    cosine = float(np.dot(expected.ravel(), got.ravel())) / norms if norms else float(max_abs == 0)
    return Difference(
        name,
        _round(max_abs),
        _round(max_abs / scale) if scale else (0.0 if max_abs == 0 else float("inf")),
        round(min(cosine, 1.0), 7),
    )


def is_within(difference: Difference, tolerance: Tolerance) -> bool:
    """Return whether one output is within tolerance."""
    return difference.max_relative <= tolerance.max_relative and difference.cosine >= tolerance.cosine


def _find_first_difference(call: Call, graph: Path, weights: Path, tolerance: Tolerance) -> str | None:
    """Return the path of the first submodule whose result OpenVINO does not reproduce, or None.

    The result of each submodule that returns one tensor is compared with its last layer in the graph.
    """
    outputs: list[tuple[str, np.ndarray]] = []

    def remember(name: str) -> object:
        def hook(_module: object, _args: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point():
                outputs.append((name, output.detach().float().numpy().copy()))

        return hook

    hooks = [part.register_forward_hook(remember(name)) for name, part in call.module.named_modules() if name]
    try:
        call.run(call.tensors)
    finally:
        for hook in hooks:
            hook.remove()
    model = get_core().read_model(graph, weights)
    last_layers: dict[str, ov.Output] = {}
    for operation in model.get_ordered_ops():
        scope, slash, _ = operation.get_friendly_name().partition("/")
        if slash and operation.get_output_size() == 1 and operation.get_type_name() not in {"Constant", "Result"}:
            last_layers[scope] = operation.output(0)
    taps = [(name, value, last_layers[name]) for name, value in outputs if name in last_layers]
    if not taps:
        return None
    first_tap = len(model.outputs)
    model.add_outputs([output for _, _, output in taps])
    found = compile_for_check(model).create_infer_request().infer([tensor.numpy() for tensor in call.tensors])
    for index, (name, value, output) in enumerate(taps):
        result = found[first_tap + index]
        if result.shape == value.shape and not is_within(measure(name, value, result), tolerance):
            return f"{name} ({output.get_node().get_friendly_name()})"
    return None


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
