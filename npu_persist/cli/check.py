"""The verb `check`: compare a bundle's outputs on a device with torch's; the exit code is the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.bundle.buckets import describe_shapes
from npu_persist.cli.arguments import (
    add_config,
    add_load_options,
    add_reference,
    add_verb,
    parse_buckets,
    parse_pairs,
    read_load_options,
)
from npu_persist.cli.output import format_number, format_seconds, join_blocks, section, table
from npu_persist.errors import ParityError

if TYPE_CHECKING:
    import argparse

    from npu_persist.cli.output import Output
    from npu_persist.runtime.check import CheckedOutput, CheckResult

_ALLOWED = {
    "given": "as given",
    "manifest": "the tolerance of persist",
    "default": "the default for its precision, since it was persisted without a check",
}
_SOURCES = {"attached": "an attached artifact", "cache": "the compile cache", "graph": "its graph"}


def add_verbs(verbs: Any) -> None:
    """Add `check`."""
    parser = add_verb(
        verbs,
        "check",
        run_check,
        "run the golden sample on a device, loaded as `load` does, and compare the outputs with torch's; exit code 6 "
        "if they differ",
    )
    add_reference(parser)
    parser.add_argument(
        "--device", default="AUTO", help="OpenVINO's device string: NPU, GPU, CPU, AUTO (default: AUTO)"
    )
    parser.add_argument("--graph", metavar="NAME", help="one of the bundle's graphs (default: all)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="largest difference from torch, relative to an output's scale (default: the tolerance of persist)",
    )
    parser.add_argument(
        "--bucket",
        metavar="INPUT=SHAPE",
        action="append",
        default=[],
        help="sizes to load it for, for example input_ids=1x128 (default: as `load`); may be repeated",
    )
    add_config(parser)
    add_load_options(parser)


def run_check(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist check REF`."""
    from npu_persist.runtime.check import check_model

    with npu_persist.load(
        arguments.reference,
        arguments.device,
        graph=arguments.graph,
        config=parse_pairs("--config", arguments.config),
        buckets=parse_buckets(arguments.bucket),
        progress=output.progress,
        **read_load_options(arguments),
    ) as model:
        results = [check_model(one, arguments.tolerance) for one in model.graphs.values()]
    is_right = all(result.is_right for result in results)
    first = results[0]
    data = {
        "reference": first.reference,
        "device": first.device,
        "is_right": is_right,
        "graphs": [result.to_dict() for result in results],
    }
    output.show(
        data if len(results) > 1 else first.to_dict(), lambda: join_blocks(_check_text(result) for result in results)
    )
    for result in results:
        for shapes in result.skipped:
            output.note(f"not checked: {describe_shapes(shapes)}, because the golden sample does not fit into it")
    for warning in () if is_right else first.warnings:
        output.note(f"persist warned: {warning}")
    for result in results:
        if not result.is_right:
            _advise(result, output)
    return 0 if is_right else ParityError.exit_code


def _advise(result: CheckResult, output: Output) -> None:
    """Say how to find out whether the device or the bundle is to blame."""
    graph = "" if result.graph is None else f" --graph {result.graph}"
    if set(result.report.execution_devices) != {"CPU"}:
        output.note(f"to tell the device from the bundle: npu-persist check {result.reference}{graph} --device CPU")
    elif precisions := set(result.report.execution_precisions.values()) - {"f32"}:
        output.note(f"without {', '.join(sorted(precisions))}: add --config INFERENCE_PRECISION_HINT=f32")


def _check_text(result: CheckResult) -> list[str]:
    report = result.report
    verdict = "matches torch" if result.is_right else "differs from torch"
    places = [
        f"{name} in {report.execution_precisions[name]}" if name in report.execution_precisions else name
        for name in report.execution_devices
    ]
    where = ", ".join(places) or "an unnamed device"
    sources = dict.fromkeys(_SOURCES[attempt.source] for attempt in report.attempts if attempt.is_used)
    allowed = f"{result.tolerance.max_relative:g} of an output's scale, cosine {result.tolerance.cosine:g} and above"
    if any(one.difference.mismatched is not None for run in result.runs for one in run.outputs):
        allowed += f", {result.tolerance.mismatched:g} of an output's integers"
    lines = [
        f"runs on {where}; from {' and '.join(sources)}, loaded in {format_seconds(report.phases['load'])}",
        f"allowed: {allowed}, {_ALLOWED[result.tolerance_source]}",
    ]
    what = result.reference if result.graph is None else f"{result.reference} {result.graph}"
    parts = [section(f"{what} on {result.device}: {verdict}", lines)]
    for run in result.runs:
        title = "inference" if run.shapes is None else describe_shapes(run.shapes)
        parts.append([f"{title}: {format_number(run.seconds * 1000)} ms", *_table(run.outputs)])
    return join_blocks(parts)


def _table(outputs: tuple[CheckedOutput, ...]) -> list[str]:
    numbers = ["MAX ABSOLUTE", "MAX RELATIVE", "AT PERSIST", "COSINE"]
    rows = [
        [
            one.output,
            f"{one.dtype}{list(one.shape)}",
            f"{one.difference.max_abs:.3g}",
            f"{one.difference.max_relative:.3g}",
            "-" if one.persisted is None else f"{one.persisted.max_relative:.3g}",
            f"{one.difference.cosine:.7g}",
            "right" if one.is_right else f"WRONG: {one.problem}" if one.problem else "WRONG",
        ]
        for one in outputs
    ]
    return table(["OUTPUT", "TYPE", *numbers, "VERDICT"], rows, right=numbers)
