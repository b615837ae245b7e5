"""The verb `persist`: the model that a factory makes, published as a bundle.

The promise: whatever the user's code prints goes to stderr; stdout has the published bundle and nothing else.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli import describe
from npu_persist.cli.arrays import read_arrays
from npu_persist.cli.factory import as_tensors, make_model
from npu_persist.cli.output import format_section
from npu_persist.cli.shapes import parse_buckets, parse_padding
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.cli.output import Output


def run_persist(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist persist module.path:factory --name NAME`."""
    metadata = parse_metadata(arguments.metadata)
    inputs = read_arrays(arguments.inputs) if arguments.inputs else None
    with contextlib.redirect_stdout(sys.stderr):
        made = make_model(arguments.factory)
        args, kwargs = made.args, made.kwargs
        if inputs is not None:
            args, kwargs = None, {**(kwargs or {}), **as_tensors(inputs)}
        bundle = npu_persist.persist(
            made.model,
            arguments.name,
            args,
            kwargs,
            buckets=parse_buckets(arguments.bucket),
            padding=parse_padding(arguments.pad),
            precision=arguments.precision,
            alias=arguments.alias,
            metadata=metadata,
            store=arguments.store,
            check=arguments.check,
            tolerance=arguments.tolerance,
            targets=arguments.target or None,
            progress=output.progress(),
        )
    aliases = [arguments.alias] if arguments.alias else []
    data: dict[str, Any] = {
        **describe.describe_bundle(bundle, aliases),
        "manifest": describe.describe_manifest(bundle),
    }
    output.show(data, lambda: _text(bundle, aliases, output))


def parse_metadata(pairs: Sequence[str]) -> dict[str, str]:
    """Return `key=value` texts as a dict; values stay text, for `1.10` is no number to whoever wrote a version.

    Raises:
        UsageError: A text has no `=`, or a key comes twice.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"--metadata: expected KEY=VALUE, such as epoch=12; got {pair!r}")
        if key in metadata:
            raise UsageError(f"--metadata: {key!r} is given twice")
        metadata[key] = value
    return metadata


def _text(bundle: Bundle, aliases: list[str], output: Output) -> str:
    lines = [*describe.head_lines(bundle, aliases), "", *describe.check_lines(bundle.manifest.golden)]
    return format_section(output.heading(bundle.reference), lines)
