"""Inputs to try a bundle with: those of its golden sample, or random ones; and the call that passes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.bundle.golden import read_golden_tensors, tensor_name
from npu_persist.bundle.graph_records import below_axis
from npu_persist.bundle.signature import rebuild
from npu_persist.errors import UsageError
from npu_persist.files.filesystem import store_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Graph, Port, Signature

    Array = np.ndarray[Any, Any]
    Call = tuple[list[Any], dict[str, Any]]


def make_random(ports: Iterable[Port], seed: int, shapes: Shapes | None = None) -> dict[str, Array]:
    """Make an input for each port: standard normal floats, integers 0 or 1, which every vocabulary has."""
    generator = np.random.default_rng(seed)
    inputs: dict[str, Array] = {}
    for port in ports:
        smallest = tuple(axis if isinstance(axis, int) else max(axis.min, 1) for axis in port.shape)
        shape = (shapes or {}).get(port.name, smallest)
        if port.dtype.startswith("float"):
            inputs[port.name] = np.asarray(generator.standard_normal(shape), dtype=port.dtype)
        else:
            values = np.asarray(generator.integers(0, 2, shape), dtype=port.dtype)
            bounds, axis = port.bounds, below_axis(port)
            if bounds is not None:
                values = np.clip(values, bounds.low, bounds.high if axis is None else shape[axis] - 1)
            inputs[port.name] = values
    return inputs


def read_golden_inputs(bundle: Bundle, graph: Graph, step: int = 0) -> dict[str, Array]:
    """Read the inputs of a graph's golden sample, and verify them; UsageError if there is none.

    IntegrityError if they are not what the manifest says.
    """
    return _read(bundle, graph, "input", graph.inputs, step)


def read_golden_outputs(bundle: Bundle, graph: Graph, step: int = 0) -> dict[str, Array]:
    """Read torch's outputs for them."""
    return _read(bundle, graph, "output", graph.outputs, step)


def _read(bundle: Bundle, graph: Graph, kind: str, ports: Iterable[Port], step: int) -> dict[str, Array]:
    golden = bundle.manifest.golden_of(graph)
    if golden is None:
        raise UsageError(f"{bundle.reference} has no golden sample to run with; give --inputs FILE.npz or --random")
    path = bundle.verify_file(golden.path)
    tensors = read_golden_tensors(path, graph, golden.steps)
    arrays: dict[str, Array] = {}
    with store_errors(f"read {path}"):
        for port in ports:
            tensor = tensors[tensor_name(kind, port.name, step)]
            count = tensor.size // np.dtype(port.dtype).itemsize
            arrays[port.name] = np.fromfile(path, port.dtype, count, offset=tensor.start).reshape(tensor.shape)
    return arrays


def make_call(signature: Signature, ports: Sequence[Port], inputs: Mapping[str, Array]) -> Call:
    """Return the positional and keyword arguments with which the module's user would pass these inputs by name."""
    names = [port.name for port in ports]
    if set(names) != set(inputs):
        raise UsageError(f"inputs: expected arrays named {', '.join(names)}; got {', '.join(inputs) or 'none'}")
    arrays = [inputs[name] for name in names]
    values = {name: rebuild(tree, arrays) for name, tree in signature.arguments}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    is_positional = True
    for parameter in signature.parameters:
        # A parameter that the example left out has its default; those after it go by name.
        if parameter.name not in values:
            is_positional = False
        elif parameter.kind == "var_keyword":
            kwargs |= values[parameter.name]
        elif parameter.kind == "var_positional":
            args += values[parameter.name]
        elif parameter.kind != "keyword_only" and is_positional:
            args.append(values[parameter.name])
        else:
            kwargs[parameter.name] = values[parameter.name]
    return args, kwargs
