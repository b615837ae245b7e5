"""The check of a module with states: a few consecutive calls, in torch and in OpenVINO."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from safetensors.numpy import save

from npu_persist.bundle.comparison import describe, describe_tolerance, find_failures, merge
from npu_persist.bundle.golden import tensor_name
from npu_persist.bundle.signature import read_symbol
from npu_persist.bundle.states import grow
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.compilation.exact_outputs import exact_outputs
from npu_persist.conversion.check import (
    advise,
    compile_for_check,
    describe_kind,
    measure_all,
    read_written,
    refuse_nan,
)
from npu_persist.conversion.dynamic import find_symbols, resize_to
from npu_persist.conversion.states import carry
from npu_persist.errors import ConversionError, ParityError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import openvino as ov
    import torch

    from npu_persist.bundle.golden_records import Difference, Tolerance
    from npu_persist.bundle.graph_records import Precision
    from npu_persist.conversion.call import Results
    from npu_persist.conversion.capture import Capture
    from npu_persist.conversion.dynamic import Axes
    from npu_persist.conversion.sizes import Symbol
    from npu_persist.conversion.states import States

STEPS = 4


class Step(NamedTuple):
    """One call of a conversation: its tensors but for the states, and what torch gave for them."""

    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    expected: Results


def converse(capture: Capture, found: States, axes: Axes, *, check: bool) -> tuple[Step, ...]:
    """Run a module a few times: each time with the states of the last, other values, and other sizes of open axes.

    Raises:
        ConversionError: The module refuses what it gave itself.
        ParityError: It gives NaN, with `check`.
    """
    error: ConversionError | None = None
    for is_varied in (True, False):
        try:
            return tuple(_run(capture, found, axes, is_varied=is_varied, check=check))
        except ConversionError as failed:
            error = error or failed
            if not axes:
                break
    raise ConversionError(
        f"states: the module fails when called {STEPS} times in a row, each time with the states of the previous "
        f"call: {error}"
    ) from error


def _run(capture: Capture, found: States, axes: Axes, *, is_varied: bool, check: bool) -> list[Step]:
    call = capture.call
    symbols = find_symbols(call, axes)
    values = {pair.argument: value for pair, value in zip(found.pairs, found.values, strict=True)}
    steps = []
    for number in range(STEPS):
        tensors = _resize(capture, found, axes, symbols, values, number if is_varied else 0)
        tensors = [values.get(index, _change(tensor, number)) for index, tensor in enumerate(tensors)]
        results = call.run(tensors)
        expected = replace(
            results,
            names=tuple(capture.results.names[index] for index in found.outputs),
            tensors=tuple(results.tensors[index] for index in found.outputs),
        )
        if check:
            refuse_nan(expected)
        names = tuple(call.input_names[index] for index in found.inputs)
        steps.append(Step(names, tuple(tensors[index] for index in found.inputs), expected))
        values = carry(found, results.tensors)
    return steps


def _change(tensor: torch.Tensor, number: int) -> torch.Tensor:
    """Return other values for each call, within the range of the example's."""
    if number % 2:
        tensor = tensor.flip(tuple(range(tensor.ndim)))
    return tensor * 0.75**number if tensor.is_floating_point() else tensor


def _resize(  # noqa: PLR0913, PLR0917 - what sizes follow from
    capture: Capture,
    found: States,
    axes: Axes,
    symbols: Mapping[str, Symbol],
    values: Mapping[int, torch.Tensor],
    number: int,
) -> Sequence[torch.Tensor]:
    """Return the example's tensors at the sizes of one call."""
    call = capture.call
    if not symbols:
        return call.tensors
    sizes = {root: symbol.size for root, symbol in symbols.items()}
    followed = set()
    for pair, state in zip(found.pairs, found.states, strict=True):
        for axis, size in enumerate(state.shape):
            if isinstance(size, int) or size.name is None:
                continue
            factor, root, offset = read_symbol(size.name)
            followed.add(root)
            if state.first[axis] is not None:
                sizes[root] = (values[pair.argument].shape[axis] - offset) // factor
    total = _find_totals(capture, found, symbols, followed)
    free = [root for root in symbols if root not in followed and root not in total]
    other = {root: _vary(symbols[root], number) for root in free}
    for state_sizes in ({**sizes, **other}, sizes):
        for root, at in total.items():
            pair, state = found.pairs[at], found.states[at]
            growth = state.growth
            by = None if growth is None else grow(growth, state_sizes)
            if growth is not None and by is not None:
                state_sizes[root] = values[pair.argument].shape[growth.axis] + by
        tensors = resize_to(call, axes, state_sizes)
        if tensors is not None:
            return tensors
    return call.tensors


def _find_totals(capture: Capture, found: States, symbols: Mapping[str, Symbol], followed: set[str]) -> dict[str, int]:
    """Return the symbols that are as long as a state after the call, as that of an attention mask is."""
    total: dict[str, int] = {}
    for at, (pair, state) in enumerate(zip(found.pairs, found.states, strict=True)):
        growth = state.growth
        if growth is None:
            continue
        before = capture.call.tensors[pair.argument].shape[growth.axis]
        after = capture.results.tensors[pair.result].shape[growth.axis]
        for root, symbol in symbols.items():
            if root not in followed and before and symbol.size == after and growth.by != root:
                total.setdefault(root, at)
    return total


def _vary(symbol: Symbol, number: int) -> int:
    """Return another size for each call."""
    longer = symbol.size + 1 if symbol.high is None or symbol.size < symbol.high else symbol.size
    return (symbol.size, longer, symbol.low, symbol.size)[number % STEPS]


def check_conversations(
    talks: Sequence[Sequence[Step]], graph: Path, weights: Path, tolerance: Tolerance, precision: Precision
) -> tuple[Difference, ...]:
    """Run conversations through the written graph, and return the worst difference of each output in the first one.

    Raises:
        StoreError, CompilationError, ConversionError, ParityError: As `check_written`.
    """
    model = read_written(graph, weights)
    request = compile_for_check(model).create_infer_request()
    exact = exact_outputs(model, talks[0][0].expected.names)
    del model
    # A plugin that overwrites what it computed at compile time is right the first time only: so the first one runs
    # last, after another one or itself.
    worst: list[tuple[Difference, ...]] = []
    for steps in [*(talks[1:] or talks), talks[0]]:
        request.reset_state()
        worst = [_check_step(request, steps, number, tolerance, exact, precision) for number in range(len(steps))]
    return functools.reduce(lambda one, other: tuple(map(merge, one, other)), worst)


def _check_step(  # noqa: PLR0913, PLR0917 - the call, and how it is compared
    request: ov.InferRequest,
    steps: Sequence[Step],
    number: int,
    tolerance: Tolerance,
    exact: frozenset[str],
    precision: Precision,
) -> tuple[Difference, ...]:
    """Run the next call of a conversation; return the differences of its outputs."""
    step = steps[number]
    try:
        found = [*request.infer([tensor.numpy() for tensor in step.tensors]).values()]
    except RuntimeError as error:
        raise ConversionError(
            f"OpenVINO cannot run call {number + 1} of the graph on the CPU: {first_lines(str(error))}."
        ) from error
    differences = measure_all(step.expected, found)
    failed = find_failures(differences, tolerance, exact)
    if not failed:
        return differences
    one = failed[0]
    index = differences.index(one)
    how = describe_kind(step.expected.tensors[index].numpy(), found[index]) or (
        f"OpenVINO differs from torch {describe(one)} (allowed: "
        f"{'none of them' if one.output in exact else describe_tolerance(one, tolerance)})"
    )
    raise ParityError(
        f"output {one.output}, in call {number + 1} of {len(steps)} with the states of the last: {how}. "
        f"Nothing was published.{advise(one, exact, precision)}",
        output=one.output,
        differences=differences,
    )


def write_conversation(steps: Sequence[Step], path: Path) -> None:
    """Write the calls of a conversation, and what torch gave for each."""
    tensors: dict[str, torch.Tensor] = {}
    for number, step in enumerate(steps):
        inputs = zip(step.names, step.tensors, strict=True)
        answers = zip(step.expected.names, step.expected.tensors, strict=True)
        tensors |= {tensor_name("input", name, number): tensor for name, tensor in inputs}
        tensors |= {tensor_name("output", name, number): tensor for name, tensor in answers}
    path.write_bytes(save({name: tensor.contiguous().numpy() for name, tensor in tensors.items()}))
