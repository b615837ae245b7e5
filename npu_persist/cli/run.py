"""The verb `run`: one inference of a bundle on named arrays.

The promise: what is printed are the outputs of the bundle that was named, on the device that was named, for the inputs
that were given; random inputs are the same for the same seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arrays import read_arrays, write_arrays
from npu_persist.cli.output import format_table
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    import numpy as np

    from npu_persist.bundle import Bundle
    from npu_persist.cli.output import Output
    from npu_persist.manifest import Port

    Array = np.ndarray[Any, Any]


def run_run(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist run REF`."""
    given = read_arrays(arguments.inputs) if arguments.inputs else None
    model = npu_persist.load(arguments.reference, arguments.device, store=arguments.store)
    if given is not None:
        inputs = given
    elif arguments.random:
        inputs = make_random(model.inputs, arguments.seed)
    else:
        inputs = read_golden_inputs(model.bundle, model.inputs)
    outputs = dict(zip([port.name for port in model.outputs], model.infer(inputs), strict=True))
    if arguments.output:
        write_arrays(arguments.output, outputs)
    results = [summarize(name, array) for name, array in outputs.items()]
    data = {"reference": model.bundle.reference, "outputs": results, "saved": arguments.output}
    output.show(data, lambda: _text(results, output))
    if arguments.output:
        output.note(f"saved to {arguments.output}")


def make_random(ports: Iterable[Port], seed: int) -> dict[str, Array]:
    """Make an input for each port: floats standard normal, integers 0 or 1, which every vocabulary has.

    Args:
        ports: The graph's inputs; axes that share a name get the same size, the smallest allowed.
        seed: Of the generator.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    inputs: dict[str, Array] = {}
    for port in ports:
        shape = tuple(axis if isinstance(axis, int) else max(axis.min, 1) for axis in port.shape)
        if port.dtype.startswith("float"):
            inputs[port.name] = np.asarray(generator.standard_normal(shape), dtype=port.dtype)
        else:
            inputs[port.name] = np.asarray(generator.integers(0, 2, shape), dtype=port.dtype)
    return inputs


def read_golden_inputs(bundle: Bundle, ports: Iterable[Port]) -> dict[str, Array]:
    """Read the inputs of the bundle's golden sample.

    Raises:
        UsageError: The bundle has none.
    """
    import numpy as np

    from npu_persist.weights import read_header

    golden = bundle.manifest.golden
    if golden is None:
        raise UsageError(f"{bundle.reference} has no golden sample to run with; give --inputs FILE.npz or --random")
    path = bundle.file(golden.path)
    tensors = read_header(path).tensors
    inputs: dict[str, Array] = {}
    for port in ports:
        tensor = tensors[f"input.{port.name}"]
        count = tensor.size // np.dtype(port.dtype).itemsize
        inputs[port.name] = np.fromfile(path, port.dtype, count, offset=tensor.start).reshape(tensor.shape)
    return inputs


def summarize(name: str, array: Array) -> dict[str, Any]:
    """Return an output's name, dtype, shape, smallest, largest and mean value; None where there is no number."""
    summary: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    for measure in ("min", "max", "mean"):
        summary[measure] = _number(array, measure) if array.size else None
    return summary


def _number(array: Array, measure: str) -> float | int | str:
    import numpy as np

    # Summed in float64: the mean of many float16 overflows in its own type. JSON has no NaN, hence text for those.
    value = array.mean(dtype=np.float64) if measure == "mean" else getattr(array, measure)()
    if not np.isfinite(value):
        return str(float(value))
    return float(value) if isinstance(value, np.floating) else int(value)


def _text(results: list[dict[str, Any]], output: Output) -> str:
    measures = ["MIN", "MAX", "MEAN"]
    header, *rows = format_table(
        ["OUTPUT", "DTYPE", "SHAPE", *measures],
        [
            [
                result["name"],
                result["dtype"],
                str(result["shape"]),
                *(_cell(result[measure.lower()]) for measure in measures),
            ]
            for result in results
        ],
        right=measures,
    )
    return "\n".join([output.heading(header), *rows])


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.6g}"
