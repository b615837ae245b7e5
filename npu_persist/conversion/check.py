"""Compares the written bundle, run by OpenVINO on the CPU, with what torch gave for the same inputs.

For each output, against the torch result t and the OpenVINO result o, both as float64:

    max_abs       max |o - t|
    max_relative  max |o - t| / max |t|      relative to the output's scale, not element by element
    cosine        (o . t) / (|o| |t|)

Infinities must stand at the same places and have the same sign; they are left out of the measures. NaN is never right.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from npu_persist.bundle.manifest import Difference, Precision, Tolerance
from npu_persist.compilation.messages import first_lines
from npu_persist.device.core import get_core
from npu_persist.errors import CompilationError, ParityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.conversion.capture import Call

log = logging.getLogger(__name__)

_DIGITS = 3
"""Significant digits that are kept of a difference."""


def default_tolerance(call: Call, precision: Precision) -> Tolerance:
    """Return what rounding alone may cost: the weights' precision, or the module's own where that is coarser."""
    if call.has_bfloat16:
        return Tolerance(max_relative=0.2, cosine=0.995)
    if precision == "fp16" or any(p.dtype is torch.float16 for p in call.module.parameters()):
        return Tolerance(max_relative=0.1, cosine=0.999)
    return Tolerance(max_relative=0.001, cosine=0.99999)


def check_results(call: Call) -> None:
    """Check that torch's own results can be compared with anything.

    Raises:
        ParityError: torch gave NaN.

    """
    for name, result in zip(call.output_names, call.results, strict=True):
        if result.is_floating_point() and bool(torch.isnan(result).any()):
            count = int(torch.isnan(result).sum())
            raise ParityError(
                f"output {name}: torch itself gave NaN in {count} of {result.numel()} elements for the example inputs, "
                "so nothing can be compared with it. Give example inputs for which the module works, or pass "
                "check=False.",
                output=name,
            )


def compile_for_check(model: ov.Model | Path, weights: Path | None = None) -> ov.CompiledModel:
    """Compile a model for the CPU at full precision."""
    core = get_core()
    try:
        read = core.read_model(model, weights) if isinstance(model, Path) else model
        return core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise CompilationError(
            f"OpenVINO could not compile the converted graph for the CPU: {first_lines(str(error))} Nothing was "
            f"published.{_blame_dynamic(model)} check=False would publish a bundle that the CPU cannot run."
        ) from error


def _blame_dynamic(model: ov.Model | Path) -> str:
    """Return a sentence on the layers whose result has a shape that follows from values, which is a likely cause."""
    if isinstance(model, Path):
        model = get_core().read_model(model, model.with_name("weights.safetensors"))
    kinds = {"NonZero", "Unique", "Multinomial"}
    layers = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in kinds]
    return f" The shape of some results follows from values, at {', '.join(layers[:5])}." if layers else ""


def compare(call: Call, compiled: ov.CompiledModel) -> tuple[Difference, ...]:
    """Run the example through the compiled model, twice, and measure each output of the second run against torch's.

    A plugin that overwrites what it computed at compile time is right in the first run only.
    """
    request = compiled.create_infer_request()
    inputs = [tensor.numpy() for tensor in call.tensors]
    request.infer(inputs)
    found = request.infer(inputs)
    return tuple(
        measure(name, expected.numpy(), found[index])
        for index, (name, expected) in enumerate(zip(call.output_names, call.results, strict=True))
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


def require(
    call: Call, differences: Sequence[Difference], tolerance: Tolerance, graph: Path | None, weights: Path | None
) -> None:
    """Raise unless every output is within tolerance.

    Raises:
        ParityError: names the worst output and, if it can be found, the first layer where OpenVINO leaves torch.

    """
    failed = [difference for difference in differences if not is_within(difference, tolerance)]
    if not failed:
        return
    worst = min(failed, key=lambda difference: difference.cosine)
    layer = (
        find_first_difference(call, graph, weights, tolerance) if graph is not None and weights is not None else None
    )
    raise ParityError(
        f"output {worst.output}: OpenVINO differs from torch by {worst.max_relative:g} of the output's scale (allowed "
        f"{tolerance.max_relative:g}), cosine {worst.cosine:.6f} (at least {tolerance.cosine:g})"
        + (f"; the first layer that differs is {layer}" if layer else "; no single layer could be blamed")
        + '. Nothing was published. Try precision="fp32", or pass a wider tolerance=.',
        output=worst.output,
        differences=tuple(differences),
        layer=layer,
    )


def find_first_difference(call: Call, graph: Path, weights: Path, tolerance: Tolerance) -> str | None:
    """Return the path of the first submodule whose result OpenVINO does not reproduce, or None.

    The results of all submodules that return one tensor are compared with the last layer of that submodule in the
    graph.
    """
    seen: list[tuple[str, np.ndarray]] = []

    def remember(name: str) -> object:
        def hook(_module: object, _args: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point():
                seen.append((name, output.detach().float().numpy().copy()))

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
    taps = [(name, value, last_layers[name]) for name, value in seen if name in last_layers]
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
