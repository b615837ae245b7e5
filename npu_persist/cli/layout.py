"""The verb `export`: a bundle as a folder that OpenVINO's own tools read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.store.export import export

if TYPE_CHECKING:
    import argparse

    from npu_persist.cli.output import Output


def run_export(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist export REF --layout LAYOUT DIR`."""
    written = export(
        arguments.reference, arguments.layout, arguments.directory, graph=arguments.graph, store=arguments.store
    )
    files = [str(path) for path in written]
    output.show({"layout": arguments.layout, "files": files}, "\n".join(files))
