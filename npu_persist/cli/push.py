"""The verb `push`: a bundle, sent to a repository on the hub.

The promise: what was sent and where it is now goes to stdout; the client's progress bars show on a terminal only.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import npu_persist
from npu_persist.cli.output import format_size

if TYPE_CHECKING:
    import argparse

    from npu_persist.cli.output import Output
    from npu_persist.hub.push import Pushed


def run_push(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist push REF REPO`."""
    pushed = npu_persist.push(
        arguments.reference,
        arguments.repo,
        revision=arguments.revision,
        tag=arguments.tag,
        message=arguments.message,
        private=arguments.private,
        create_pr=arguments.create_pr,
        compiled=arguments.compiled,
        store=arguments.store,
        progress=output.progress() is not None,
    )
    output.show(asdict(pushed), lambda: _text(pushed))


def _text(pushed: Pushed) -> str:
    tagged = f", tagged {pushed.tag}" if pushed.tag else ""
    moved = f"{format_size(pushed.uploaded_bytes)} sent, {format_size(pushed.skipped_bytes)} there already"
    return f"{pushed.repo} at {pushed.commit[:12]}{tagged}: {moved}\n{pushed.url}"
