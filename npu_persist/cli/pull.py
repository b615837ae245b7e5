"""The verb `pull`: a bundle of a repository on the hub, brought into the store.

The promise: what was brought, or would be, goes to stdout; bytes and rate show on a terminal only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import npu_persist
import npu_persist.progress
from npu_persist.bundle.bundle import Bundle
from npu_persist.cli.output import format_section, format_size, format_table

if TYPE_CHECKING:
    import argparse

    from npu_persist.cli.output import Output
    from npu_persist.hub.plan import PullPlan

_SHOWN = 12
"""Digits of a commit or digest that people are shown."""


def run_pull(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist pull REPO [--device D | --target T | --all | --no-compiled] [--dry-run]`."""
    found: Bundle | PullPlan = npu_persist.pull(
        arguments.repo,
        revision=arguments.revision,
        device=arguments.device,
        target=arguments.target,
        compiled=arguments.compiled,
        alias=arguments.alias,
        store=arguments.store,
        dry_run=arguments.dry_run,
        progress=None if output.progress() is None else npu_persist.progress.ProgressPrinter(),
    )
    if isinstance(found, Bundle):
        output.show(_describe(found), f"{found.reference}  {found.digest}  {found.path}")
        return
    plan = found
    output.show(_describe_plan(plan), lambda: _show_plan(plan, output))


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "reference": bundle.reference,
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "path": str(bundle.path),
    }


def _describe_plan(plan: PullPlan) -> dict[str, Any]:
    return {
        "repo_id": plan.repo_id,
        "commit": plan.commit,
        "name": plan.name,
        "digest": plan.digest,
        "reference": plan.reference,
        "download_size": plan.download_size,
        "files": [msgspec.structs.asdict(file) for file in plan.files],
        "skipped": [msgspec.structs.asdict(artifact) for artifact in plan.skipped],
    }


def _show_plan(plan: PullPlan, output: Output) -> str:
    rows = [[file.path, format_size(file.size), "in the store" if file.is_here else "hub"] for file in plan.files]
    here = f" (in the store: {plan.reference})" if plan.reference else ""
    title = f"{plan.name} {plan.digest.partition(':')[2][:_SHOWN]} of {plan.repo_id} at {plan.commit[:_SHOWN]}{here}"
    sections = [format_section(output.heading(title), format_table(["FILE", "SIZE", "FROM"], rows, right=["SIZE"]))]
    if plan.skipped:
        lines = [f"{artifact.folder}: {artifact.reason}" for artifact in plan.skipped]
        sections.append(format_section(output.heading("skipped"), lines))
    return "\n".join([*sections, f"{format_size(plan.download_size)} to download"])
