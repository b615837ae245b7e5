"""The verb `push`: a bundle, sent to a repository on the hub.

The promise: what was sent and where it is now goes to stdout; the client's progress bars show on a terminal only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

import npu_persist
import npu_persist.progress
from npu_persist.cli.output import format_size

if TYPE_CHECKING:
    import argparse

    from npu_persist.cli.output import Output
    from npu_persist.hub.push import PushResult


def run_push(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist push REF REPO`."""
    pushed = npu_persist.push(
        arguments.reference,
        arguments.repo,
        revision=arguments.revision,
        tag=arguments.tag,
        commit_message=arguments.message,
        private=arguments.private,
        create_pr=arguments.create_pr,
        compiled=arguments.compiled,
        store=arguments.store,
        progress=None if output.progress() is None else npu_persist.progress.ProgressPrinter(),
    )
    output.show(msgspec.structs.asdict(pushed), lambda: _text(pushed))


def _text(pushed: PushResult) -> str:
    tagged = f", tagged {pushed.tag}" if pushed.tag else ""
    moved = f"{format_size(pushed.uploaded_bytes)} sent, {format_size(pushed.skipped_bytes)} there already"
    return f"{pushed.repo_id} at {pushed.commit[:12]}{tagged}: {moved}\n{pushed.url}"
