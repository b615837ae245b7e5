"""Compares a graph's outputs on the CPU with torch's for the same inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import torch

from npu_persist.bundle.comparison import TOLERANCES, describe, describe_tolerance, find_failures, is_within, measure
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.compilation.exact_outputs import exact_outputs
from npu_persist.conversion.compress import BITS, is_compressed
from npu_persist.device.core import get_core, note_threads
from npu_persist.errors import CompilationError, ConversionError, ParityError, PrecisionWarning, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence
    from pathlib import Path

    from npu_persist.bundle.golden_records import Difference
    from npu_persist.bundle.graph_records import Precision
    from npu_persist.conversion.call import Call, Results
    from npu_persist.conversion.capture import Answered

_FULL = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
"""What makes a CPU compute in full precision; by default it keeps a decoder's keys and values in 8 bits."""
_SIZED_BY_VALUES = frozenset({"NonZero", "Unique", "Multinomial"})
"""Operations whose result has a shape that depends on values."""


def default_tolerance(module: torch.nn.Module, precision: Precision) -> Tolerance:
    """Return what rounding alone may cost: the weights' precision, or the module's own where that is coarser."""
    if precision in BITS:
        return TOLERANCES[precision]
    if is_compressed(module):  # a CPU with VNNI quantizes what such weights are multiplied by, too
        return TOLERANCES["int8"]
    if any(t.dtype is torch.bfloat16 for t in (*module.parameters(), *module.buffers())):
        return Tolerance(max_relative=0.2, cosine=0.995, mismatched=0.02)
    if precision == "fp16" or any(p.dtype is torch.float16 for p in module.parameters()):
        return TOLERANCES["fp16"]
    return TOLERANCES["fp32"]


def refuse_nan(results: Results) -> None:
    """Raise ParityError if torch's own results cannot be compared with anything."""
    for name, result in zip(results.names, results.tensors, strict=True):
        if result.is_floating_point() and (count := int(torch.isnan(result).sum())):
            raise ParityError(
                f"output {name}: torch itself returned NaN in {count} of {result.numel()} elements for the example "
                "inputs, so results cannot be compared with it. Pass example inputs for which the module works, or "
                "check=False.",
                output=name,
            )


def check_written(  # noqa: PLR0913 - the files, what they are compared with and how
    capture: Answered,
    graph: Path,
    weights: Path,
    tolerance: Tolerance,
    precision: Precision,
    *,
    also: Callable[[ov.InferRequest, frozenset[str]], None] | None = None,
    compiled: tuple[ov.Model, ov.CompiledModel] | None = None,
) -> tuple[Difference, ...]:
    """Run the example through the written graph and compare; then do `also`, given the outputs that are exact.

    Where the graph is compiled already, it is one that has been checked before, with other weights: it runs once.

    Raises:
        StoreError: The graph cannot be read.
        CompilationError: The CPU cannot compile it.
        ConversionError: The CPU cannot run it.
        ParityError: A difference is beyond tolerance.
    """
    inputs, expected = [tensor.numpy() for tensor in capture.call.tensors], capture.results
    model = read_written(graph, weights) if compiled is None else compiled[0]
    request = (compile_for_check(model) if compiled is None else compiled[1]).create_infer_request()
    try:
        if compiled is None:  # a plugin that overwrites what it computed at compile time is right in the first run only
            request.infer(inputs)
        found = [*request.infer(inputs).values()]
    except RuntimeError as error:
        raise ConversionError(f"OpenVINO cannot run the graph on the CPU: {first_lines(str(error))}.") from error
    differences = measure_all(expected, found)
    exact = exact_outputs(model, expected.names)
    failed = find_failures(differences, tolerance, exact)
    if not failed:
        if also is not None:
            also(request, exact)
        return differences
    if overflows := _overflows(model, inputs, expected, tolerance, exact):
        raise ParityError(
            f"output {failed[0].output}: OpenVINO differs from torch {describe(failed[0])}, because {overflows}",
            output=failed[0].output,
            differences=differences,
        )
    worst = failed[0]
    index = differences.index(worst)
    how = describe_kind(expected.tensors[index].numpy(), found[index]) or (
        f"OpenVINO differs from torch {describe(worst)} (allowed: "
        f"{'none of them' if worst.output in exact else describe_tolerance(worst, tolerance)})"
    )
    del request, found
    layer = find_first_difference(capture.call, graph, weights, tolerance)
    where = f"; the first layer that differs is {layer}" if layer else ""
    raise ParityError(
        f"output {worst.output}: {how}{where}. Nothing was published.{advise(worst, exact, precision)}",
        output=worst.output,
        differences=differences,
        layer=layer,
    )


def _overflows(
    model: ov.Model, inputs: list[np.ndarray], expected: Results, tolerance: Tolerance, exact: Container[str]
) -> str:
    """Return why and what to do, where quantized layers are right when this CPU computes them in float32."""
    if not any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ordered_ops()):
        return ""
    request = compile_for_check(model, LP_TRANSFORMS_MODE="NO").create_infer_request()
    if find_failures(measure_all(expected, [*request.infer(inputs).values()]), tolerance, exact):
        return ""
    return (
        "products of 8 bits overflow on this CPU, which has no VNNI and adds them in 16 bits; in float32 the graph is "
        "within tolerance. Quantize the module with nncf.AdvancedQuantizationParameters(overflow_fix="
        "nncf.OverflowFix.ENABLE), which is right on every CPU. Nothing was published."
    )


def moved_choices(differences: Iterable[Difference]) -> list[PrecisionWarning]:
    """Return a warning for each output of integers or booleans of which the tolerance allowed some to differ."""
    return [
        PrecisionWarning(
            f"output {found.output}: OpenVINO differs from torch {describe(found)}. Rounding decides between values "
            'that are nearly equal (argmax, topk, a comparison, round). precision="fp32" keeps more of these choices'
        )
        for found in differences
        if found.mismatched
    ]


def is_measured(note: str) -> bool:
    """Tell whether a bundle's warning has numbers that other weights change: of `moved_choices`, or of compression."""
    return any(part in note for part in (": OpenVINO differs from torch ", " costs output ", "compression costs "))


_MORE_EXACT = {
    "fp16": 'precision="fp32"',
    "int8": 'to keep the layers that by_layer=True finds as they are, keep={"name": "fp16"}, or precision="fp16"',
    "int4": 'group_size=64, to keep layers that by_layer=True finds, keep={"name": "int8"}, or precision="int8"',
}
"""What is closer to torch, by precision."""
_UNRELATED = 0.5
"""Below this cosine rounding explains nothing: one of the two computes something else."""


def advise(worst: Difference, exact: Container[str], precision: Precision) -> str:
    """Return what may help, with a space before it."""
    if worst.output in exact:
        return (
            " This output depends on no floating-point number, so rounding does not explain it: OpenVINO converts "
            "or computes an operation on integers wrongly. Please report it with the module."
        )
    advice = [_MORE_EXACT[precision]] if precision in _MORE_EXACT else []
    if worst.mismatched is not None:
        allowing = f"tolerance=Tolerance(max_relative=0.1, cosine=0.999, mismatched={worst.mismatched:g})"
        advice += ["to return the floats and let the caller choose", f"if this share may differ, {allowing}"]
        return (
            " Where values are nearly equal, rounding moves an argmax, a topk, a comparison or a round. Try "
            f"{', or '.join(advice)}."
        )
    if worst.cosine >= _UNRELATED:
        advice.append("a wider tolerance=, if this difference is acceptable")
    return f" Try {', or '.join(advice)}." if advice else ""


def describe_kind(expected: np.ndarray, got: np.ndarray) -> str | None:
    """Return how a result differs in kind, not in numbers: in its shape, NaN or infinities."""
    if expected.shape != got.shape:
        return f"OpenVINO returns shape {list(got.shape)}, torch {list(expected.shape)}"
    if expected.dtype.kind != "f":
        return None
    if not np.array_equal(np.isnan(expected), np.isnan(got)):
        return f"OpenVINO returns NaN in {np.isnan(got).sum()} of {got.size} elements"
    if not np.array_equal(np.isinf(expected), np.isinf(got)):
        return "OpenVINO and torch have infinities at different positions"
    return None


def read_written(graph: Path, weights: Path) -> ov.Model:
    """Read a graph that was written a moment ago."""
    try:
        return get_core().read_model(graph, weights)
    except RuntimeError as error:  # OpenVINO loses the system's error
        raise StoreError(
            f"could not read {graph}, which was just written: {first_lines(str(error))} Check the folder, and the "
            "limits of memory and open files"
        ) from error


def compile_for_check(model: ov.Model, **properties: str) -> ov.CompiledModel:
    """Compile a model for the CPU at full precision."""
    try:
        note_threads()
        return get_core().compile_model(model, "CPU", {**_FULL, **properties})
    except RuntimeError as error:
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


def find_first_difference(call: Call, graph: Path, weights: Path, tolerance: Tolerance) -> str | None:
    """Return the path of the first submodule whose result OpenVINO does not reproduce, or None.

    The result of each submodule that is called once and returns one tensor is compared with its last layer in the
    graph. A layer that differs is not to blame where a later one that depends on it is right: then what followed was
    fused into it.
    """
    outputs: dict[str, list[np.ndarray]] = {}

    def remember(name: str) -> Callable[[object, object, object], None]:
        def hook(_module: object, _args: object, output: object) -> None:
            is_one = isinstance(output, torch.Tensor) and output.is_floating_point()
            value = output.detach().float().numpy().copy() if is_one else np.empty(0)  # type: ignore[attr-defined]
            outputs.setdefault(name, []).append(value)

        return hook

    try:
        hooks = [part.register_forward_hook(remember(name)) for name, part in call.module.named_modules() if name]
    except RuntimeError:  # a ScriptModule takes no hooks
        return None
    try:
        call.run(call.tensors)
    finally:
        for hook in hooks:
            hook.remove()
    model = read_written(graph, weights)
    last_layers: dict[str, ov.Output] = {}
    for operation in model.get_ordered_ops():
        scope, slash, _ = operation.get_friendly_name().partition("/")
        if slash and operation.get_output_size() == 1 and operation.get_type_name() not in {"Constant", "Result"}:
            last_layers[scope] = operation.output(0)
    taps = [
        (name, values[0], last_layers[name])
        for name, values in outputs.items()
        if len(values) == 1 and name in last_layers
    ]
    taps = [tap for tap in taps if tap[2].get_partial_shape().compatible(ov.PartialShape(list(tap[1].shape)))]
    if not taps:
        return None
    first = len(model.outputs)
    model.add_results([ov.opset13.result(output) for _, _, output in taps])
    found = [*compile_for_check(model).create_infer_request().infer([t.numpy() for t in call.tensors]).values()][first:]
    is_right = [
        is_within(measure(name, value, got), tolerance) for (name, value, _), got in zip(taps, found, strict=True)
    ]
    return next(
        (
            f"{name} ({output.get_node().get_friendly_name()})"
            for (name, _, output), right in zip(taps, is_right, strict=True)
            if not right
            and not _leads_to(
                output.get_node(), [one.get_node() for (_, _, one), ok in zip(taps, is_right, strict=True) if ok]
            )
        ),
        None,
    )


def _leads_to(node: ov.Node, right: Sequence[ov.Node]) -> bool:
    """Return whether one of the nodes that are right depends on this one."""
    names, reached, open_nodes = {one.get_name() for one in right}, set(), [node]
    while open_nodes:
        for output in open_nodes.pop().outputs():
            for user in output.get_target_inputs():
                follower = user.get_node()
                if follower.get_name() in names:
                    return True
                if follower.get_name() not in reached:
                    reached.add(follower.get_name())
                    open_nodes.append(follower)
    return False
