"""`persist(..., buckets=[...])`: resolves buckets, and checks that padding does not change the results.

A bundle is published with buckets only if its outputs can be cut back, and if the code that pads and cuts in a loaded
model gives torch's results: at each bucket's size, at one below it and at the smallest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from npu_persist.bundle.buckets import choose, describe_shapes, open_axes, read_sizes, resolve
from npu_persist.bundle.comparison import describe, find_failures
from npu_persist.bundle.graph_records import TensorNode, ValueNode
from npu_persist.compilation.exact_outputs import exact_outputs
from npu_persist.conversion.check import compile_for_check, measure_all, read_written
from npu_persist.conversion.dynamic import input_ports, resize
from npu_persist.errors import ConversionError, InputError, ParityError, UsageError
from npu_persist.runtime.padding import Fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.golden_records import Difference, Tolerance
    from npu_persist.bundle.graph_records import Buckets, Graph, Port
    from npu_persist.conversion.call import Call
    from npu_persist.conversion.dynamic import Axes

log = logging.getLogger(__name__)

_MASK = "attention_mask"

_LOWEST = 1.0
"""A share of an axis, as for `_smaller`, that leaves the smallest allowed size."""


def resolve_buckets(call: Call, axes: Axes, buckets: object, padding: object) -> Buckets:
    """Return the buckets; refuse those with which a padded call could not be right."""
    found = resolve(input_ports(call, axes), buckets, padding)
    if choose(found.shapes, call.shapes) is None:
        opened = {name: shape for name, shape in call.shapes.items() if name in found.padding}
        raise UsageError(
            f"buckets: the example, {describe_shapes(opened)}, fits none of "
            f"{'; '.join(map(describe_shapes, found.shapes))}. Give a smaller example or a larger bucket: the example "
            "becomes the bundle's golden sample"
        )
    given = dict(call.arguments)
    if _MASK in call.parameters and not isinstance(given.get(_MASK, ValueNode(None)), TensorNode):
        raise UsageError(
            f"buckets: {type(call.module).__name__}.forward takes an {_MASK}, and the example gives none: the module "
            f"would attend to the padding. Put it into the example, such as kwargs={{..., {_MASK!r}: "
            "torch.ones_like(input_ids)}; callers of the loaded model may leave it out"
        )
    return found


def check_buckets(call: Call, graph: Graph, directory: Path, tolerance: Tolerance) -> tuple[str, ...]:
    """Run the written graph in each bucket, full and padded, and compare with torch's answer to the call itself."""
    buckets = graph.buckets
    if buckets is None:
        return ()
    left_out: list[str] = []
    of_one_sign = _of_one_sign(call, buckets)
    for bucket in buckets.shapes:
        model = _read(graph, bucket, directory)
        exact = exact_outputs(model, [port.name for port in graph.outputs])
        request = compile_for_check(model).create_infer_request()
        check = _BucketCheck(call, graph, buckets, bucket, request, tolerance, exact)
        check.compare(call.tensors, bucket)
        ran = next((shapes for shapes in _smaller(graph.inputs, bucket) if check.runs(call.tensors, shapes)), None)
        if ran is None:
            left_out.append(
                f"bucket {describe_shapes(bucket)}: the module failed at all smaller sizes that were tried, so "
                "padded calls were not compared with torch"
            )
            continue
        lowest = [shapes for shapes in _smaller(graph.inputs, bucket, [_LOWEST]) if shapes != ran]
        smallest = next((shapes for shapes in lowest if check.runs(call.tensors, shapes)), ran)
        for sample in of_one_sign:
            check.runs(sample, smallest)
        of_one_sign = []  # one bucket is enough: it is the same graph in each
    return tuple(left_out)


@dataclass(frozen=True)
class _BucketCheck:
    """Compares calls of one graph in one bucket with torch."""

    call: Call
    graph: Graph
    buckets: Buckets
    bucket: Shapes
    request: Any
    tolerance: Tolerance
    exact: frozenset[str]

    def runs(self, sample: Sequence[torch.Tensor], shapes: Shapes) -> bool:
        """Compare a call of a size, and return whether the module runs with it at all."""
        try:
            self.compare(sample, shapes)
        except (ConversionError, InputError) as error:  # the module takes multiples only, for instance
            log.info("no comparison at %s: %s", describe_shapes(shapes), error)
            return False
        return True

    def compare(self, sample: Sequence[torch.Tensor], shapes: Shapes) -> None:
        """Compare a sample, resized to these shapes."""
        fit = Fit(self.graph.inputs, self.graph.outputs, self.buckets, self.bucket, shapes)
        tensors = resize(sample, [shapes.get(name) for name in self.call.input_names])
        expected = self.call.run(tensors)
        if any(result.is_floating_point() and bool(result.isnan().any()) for result in expected.tensors):
            raise ConversionError(f"torch returns NaN at {describe_shapes(shapes)}")
        arrays = fit.fill([tensor.numpy() for tensor in tensors])
        differences = measure_all(expected, fit.cut([*self.request.infer(arrays).values()], share_outputs=True))
        failed = find_failures(differences, self.tolerance, self.exact)
        if failed:
            raise _parity_error(failed[0], differences, fit, shapes)


def _of_one_sign(call: Call, buckets: Buckets) -> list[list[torch.Tensor]]:
    """Return the example with positive, and with negative numbers only: floats first, then integers.

    A maximum hides the padding as long as one real value is above it. Masks stay as they are. Where the module has no
    use for a negative number, such as the index of an embedding, it raises, and is not compared.
    """
    samples: list[list[torch.Tensor]] = []
    for is_float in (True, False):
        changes = [
            name in buckets.padding
            and tensor.dtype is not torch.bool
            and tensor.is_floating_point() == is_float
            and bool((tensor != tensor.bool()).any())
            for name, tensor in zip(call.input_names, call.tensors, strict=True)
        ]
        for sign in (1, -1) if any(changes) else ():
            both = zip(call.tensors, changes, strict=True)
            samples.append([sign * (tensor.abs() + 1) if change else tensor for tensor, change in both])
    return samples


def _read(graph: Graph, bucket: Shapes, directory: Path) -> Any:
    model = read_written(directory / graph.path, directory / "weights.safetensors")
    try:
        model.reshape(
            {index: list(bucket[port.name]) for index, port in enumerate(graph.inputs) if port.name in bucket}
        )
    except RuntimeError as error:
        raise ConversionError(f"the graph does not run at the bucket {describe_shapes(bucket)}: {error}") from error
    return model


def _parity_error(worst: Difference, differences: tuple[Difference, ...], fit: Fit, shapes: Shapes) -> ParityError:
    bucket = describe_shapes(fit.bucket)
    by = describe(worst)
    if fit.is_exact:
        text = (
            f"output {worst.output}: at the bucket {bucket} OpenVINO differs from torch {by}, although it does "
            "not at the example's sizes: what the trace froze cannot vary"
        )
    else:
        text = (
            f"output {worst.output}: padding {describe_shapes(shapes)} up to the bucket {bucket} changes the "
            f"result, which differs from torch's {by}. If the module takes a mask, put it into the example; if not, "
            "try another value or side, padding={input: Padding(value, side)}; and if values at the border or "
            "means over an axis have to differ, this axis cannot be filled up: give each size a graph of its own. If "
            "calls are never that small, say so with dynamic_shapes, as in Dim(..., min=8)"
        )
    return ParityError(f"{text}. Nothing was published.", output=worst.output, differences=differences)


def _smaller(inputs: Sequence[Port], bucket: Shapes, shares: Sequence[float] = (1 / 3, 1 / 2, 0)) -> Iterator[Shapes]:
    """Yield shapes below a bucket's: each open axis less by a share, at least by one, within its bounds."""
    top = read_sizes(inputs, bucket)
    for share in shares:
        sizes = {root: max(size - max(int(size * share), 1), 1) for root, size in top.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for port in inputs:
            shape = list(bucket.get(port.name, ()))
            for axis, bounds, factor, root, offset in open_axes(port):
                shape[axis] = max(factor * sizes[root] + offset, bounds.min)
            if shape:
                shapes[port.name] = tuple(shape)
        # The bounds of axes that depend on others may break the relation.
        known = read_sizes(inputs, shapes)
        is_consistent = all(
            shapes[port.name][found.axis] == found.factor * known[found.root] + found.offset
            for port in inputs
            for found in open_axes(port)
        )
        if is_consistent and shapes != dict(bucket):
            yield shapes
