"""The verb `compile`: a bundle, compiled ahead of time and attached.

The promise: a line for each compilation on stdout, done or failed, whatever became of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.bundle.buckets import describe_shapes
from npu_persist.cache.amounts import parse_size
from npu_persist.cli.bench import parse_config
from npu_persist.cli.errors import find_advice
from npu_persist.cli.output import format_seconds, format_size, format_table
from npu_persist.cli.shapes import parse_buckets
from npu_persist.errors import JobsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.cli.output import Output
    from npu_persist.compilation.job import JobResult


def run_compile(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist compile REF --target T`."""
    limit = arguments.memory_limit
    show = output.beats()
    try:
        results = npu_persist.compile(
            arguments.reference,
            arguments.target,
            graph=arguments.graph,
            config=parse_config(arguments.config),
            buckets=parse_buckets(arguments.bucket),
            weightless=arguments.weightless,
            toolchain=arguments.toolchain,
            timeout=arguments.timeout,
            memory_limit=None if limit is None else parse_size(limit, "--memory-limit"),
            jobs=arguments.jobs,
            # Of one bundle, the target says which.
            progress=None if show is None else lambda label, beat: show(label.rpartition(" for ")[2], beat),
            store=arguments.store,
        )
    except JobsError as error:
        _show(error.results, output)
        output.error(str(error), find_advice(error))
        return error.exit_code
    _show(results, output)
    return 0


def _show(results: Sequence[JobResult], output: Output) -> None:
    output.show([_describe(result) for result in results], lambda: _text(results, output))


def _describe(result: JobResult) -> dict[str, Any]:
    artifact = result.artifact
    return {
        "label": result.label,
        "graph": result.graph,
        "target": result.target,
        "shapes": result.shapes and {name: list(shape) for name, shape in result.shapes.items()},
        "path": None if result.path is None else str(result.path),
        "size": None if artifact is None else artifact.size,
        "weightless": None if artifact is None else artifact.weightless,
        "toolchain": None if artifact is None else artifact.toolchain,
        "compiler": None if artifact is None else artifact.compiler,
        "requirements": None if artifact is None else artifact.requirements,
        "seconds": result.seconds,
        "peak_memory": result.peak_memory,
        "problem": None if result.error is None else str(result.error),
    }


def _text(results: Sequence[JobResult], output: Output) -> str:
    numbers = ["SIZE", "TIME", "MEMORY"]
    header, *rows = format_table(
        ["TARGET", "GRAPH", "SIZES", *numbers, "WEIGHTS", "RESULT"],
        [
            [
                result.target,
                result.graph,
                describe_shapes(result.shapes) if result.shapes else "-",
                format_size(result.artifact.size) if result.artifact else "-",
                format_seconds(result.seconds),
                "-" if result.peak_memory is None else format_size(result.peak_memory),
                "-" if result.artifact is None else "in the bundle" if result.artifact.weightless else "inside",
                "FAILED" if result.path is None else result.path.name,
            ]
            for result in results
        ],
        right=numbers,
    )
    return "\n".join([output.heading(header), *rows])
