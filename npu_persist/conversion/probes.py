"""Runs a graph on inputs that the example does not show, where a trace or OpenVINO is known to go wrong.

Each probe is one more call: torch's answer to it is compared with the graph's. A probe costs a forward of torch's, so
each is made only for graphs that have what it looks for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from npu_persist.bundle.comparison import describe, find_failures, measure
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.compilation.exact_outputs import exact_outputs
from npu_persist.conversion.check import compile_for_check
from npu_persist.conversion.dependence import inputs_by_output
from npu_persist.conversion.masks import find_masks, masked_calls
from npu_persist.conversion.size_probes import SizeProbes
from npu_persist.errors import ConversionError, FrozenControlFlowWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import openvino as ov
    import torch

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.golden_records import Difference, Tolerance
    from npu_persist.conversion.call import Call, Results
    from npu_persist.conversion.capture import Capture
    from npu_persist.conversion.dynamic import Axes
    from npu_persist.errors import PersistWarning

_LINES = 3


@dataclass(frozen=True, eq=False)
class Probe:
    """A call other than the example's.

    Attributes:
        tensors: The inputs.
        what: What is special about them, for a message: "inputs of shape [2, 4]".
        advice: What to do if the graph's results differ from torch's.
        floats_only: Whether integers are not compared: choices among equals, which half-precision weights move.
        expected: Torch's answer, where it is known.
    """

    tensors: Sequence[torch.Tensor]
    what: str
    advice: str
    floats_only: bool = False
    expected: Results | None = None


def probe(
    capture: Capture, axes: Axes, model: ov.Model, tolerance: Tolerance, sizes: Sequence[Shapes] = ()
) -> tuple[PersistWarning, ...]:
    """Compare the graph with torch for each probe.

    Returns:
        What could not be compared.

    Raises:
        ConversionError: The graph cannot run a probe, or its results differ from torch's.
    """
    if capture.noise:  # nothing can be compared with torch
        return ()
    at_sizes = SizeProbes(capture, axes, sizes)
    request: ov.InferRequest | None = None
    exact: frozenset[str] = frozenset()
    for one in itertools.chain(_other_sizes(at_sizes), _ignored_inputs(capture, model)):
        if request is None:
            try:
                request = compile_for_check(model).create_infer_request()
            except RuntimeError as error:
                raise ConversionError(f"the graph does not compile: {first_lines(str(error))}") from error
            exact = exact_outputs(model, capture.results.names)
        compare(capture.call, request, one, tolerance, exact)
    return tuple(at_sizes.caveats)


def _other_sizes(calls: SizeProbes) -> Iterator[Probe]:
    """Other sizes where axes are dynamic."""
    for call in calls:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in call.tensors)
        lines = "".join(f"; {line}" for line in dict.fromkeys(frozen.text for frozen in call.frozen[:_LINES]))
        advice = "Leave the axis out of dynamic_shapes, or give it bounds within which the module behaves the same."
        if lines:
            advice = f"The trace froze what differs there: {lines[2:]}. {advice}"
        yield Probe(call.tensors, f"inputs of shape {shapes}", advice, expected=call.expected)


def _ignored_inputs(capture: Capture, model: ov.Model) -> Iterator[Probe]:
    """Values in reverse order where the graph ignores an input that torch's result depends on."""
    call = capture.call
    depends_on = inputs_by_output(model)
    if not any(depends_on):
        raise ConversionError("no output of the graph depends on any input: the forward leaves torch somewhere.")
    ignored = 0
    for expected, found in zip(capture.results.depends_on, depends_on, strict=False):
        ignored |= expected & ~found
    if ignored:
        names = [name for index, name in enumerate(call.input_names) if ignored >> index & 1]
        reversed_values = [tensor.flip(tuple(range(tensor.ndim))) for tensor in call.tensors]
        what = f"other values of {', '.join(names)}, which the graph ignores"
        yield Probe(reversed_values, what, "Compute everything that depends on them with torch's operations.")


def masked_rows(capture: Capture, model: ov.Model) -> Iterator[Probe]:
    """Yield calls with masks that leave rows of attention without a key, as padding does.

    They are for `check_written`, which has a graph compiled already. Where a branch is frozen there are none: a mask
    may decide it (whether any token is global), and the user has been warned.
    """
    if any(isinstance(caveat, FrozenControlFlowWarning) for caveat in capture.caveats):
        return
    call, places = capture.call, find_masks(model)
    for tensors in masked_calls(call.tensors, places):
        names = [call.input_names[place] for place in sorted(places) if tensors[place] is not call.tensors[place]]
        what = f"{', '.join(names)} that mask every key of some attention rows"
        advice = "Another attention implementation may help: for a model of transformers, attn_implementation='eager'."
        yield Probe(tensors, what, advice, floats_only=True)


def compare(
    call: Call, request: ov.InferRequest, one: Probe, tolerance: Tolerance, exact: frozenset[str] = frozenset()
) -> None:
    """Run a probe; raise ConversionError if the graph cannot run it, or if its results differ from torch's."""
    expected = call.run(one.tensors) if one.expected is None else one.expected
    try:
        found = request.infer([tensor.numpy() for tensor in one.tensors])
    except RuntimeError as error:
        text = f"the graph does not run with {one.what}: {first_lines(str(error))} {one.advice}"
        raise ConversionError(text) from error
    differences = [
        _measure_defined(name, tensor.numpy(), got)
        for name, tensor, got in zip(expected.names, expected.tensors, found.values(), strict=True)
        if tensor.is_floating_point() or not one.floats_only
    ]
    failed = find_failures(differences, tolerance, exact)
    if failed:
        raise ConversionError(
            f"the graph is right for the example but not with {one.what}: output {failed[0].output} differs from "
            f"torch {describe(failed[0])}. {one.advice}"
        )


def _measure_defined(name: str, expected: np.ndarray, got: np.ndarray) -> Difference:
    """Measure one output; what torch itself answers NaN for is left out."""
    if expected.dtype.kind == "f" and expected.shape == got.shape:
        is_defined = ~np.isnan(expected)
        expected, got = expected[is_defined], got[is_defined]
    return measure(name, expected, got)
