"""The verb `run`: one inference of a bundle on named arrays.

The promise: what is printed are the outputs of the bundle that was named, on the device that was named, for the inputs
that were given; random inputs are the same for the same seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arrays import read_arrays, write_arrays
from npu_persist.cli.output import format_table
from npu_persist.cli.trust import parse_trust
from npu_persist.runtime.golden import make_random, read_golden_inputs

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from npu_persist.cli.output import Output

    Array = np.ndarray[Any, Any]


def run_run(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist run REF`."""
    given = read_arrays(arguments.inputs) if arguments.inputs else None
    model = npu_persist.load(
        arguments.reference,
        arguments.device,
        hint=arguments.hint,
        verify=arguments.verify,
        fallback=arguments.fallback,
        cache=arguments.cache,
        compile_timeout=arguments.compile_timeout,
        progress=output.beat(),
        trust=parse_trust(arguments.trust),
        require_signature=arguments.require_signature,
        store=arguments.store,
    )
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
    data = {
        "reference": model.bundle.reference,
        "outputs": results,
        "saved": arguments.output,
        "report": model.report.to_dict(),
    }
    output.show(data, lambda: _text(results, output))
    if arguments.report:
        output.note(str(model.report))
    if arguments.output:
        output.note(f"saved to {arguments.output}")


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
