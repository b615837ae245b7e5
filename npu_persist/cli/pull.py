"""The verb `pull`: a bundle of a repository on the hub, brought into the store.

The promise: what was brought, or would be, goes to stdout; bytes and rate show on a terminal only.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.bundle.bundle import Bundle
from npu_persist.cli.output import format_section, format_size, format_table

if TYPE_CHECKING:
    import argparse

    from npu_persist.cli.output import Output
    from npu_persist.hub.download import PullProgress
    from npu_persist.hub.plan import Plan

_SHOWN = 12
"""Digits of a commit or digest that people are shown."""


def run_pull(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist pull REPO [--device D | --target T | --all | --no-compiled] [--dry-run]`."""
    found: Bundle | Plan = npu_persist.pull(
        arguments.repo,
        revision=arguments.revision,
        device=arguments.device,
        target=arguments.target,
        compiled=arguments.compiled,
        alias=arguments.alias,
        store=arguments.store,
        dry_run=arguments.dry_run,
        progress=lambda report: _show_progress(report, output),
    )
    if isinstance(found, Bundle):
        output.show(_describe(found), f"{found.reference}  {found.digest}  {found.path}")
        return
    plan = found
    output.show(_describe_plan(plan), lambda: _show_plan(plan, output))


def _show_progress(report: PullProgress, output: Output) -> None:
    rate = report.done / report.elapsed if report.elapsed else 0.0
    amount = f"{format_size(report.done)} of {format_size(report.total)}, {format_size(round(rate))}/s"
    output.bar(min(report.done / report.total, 1.0), f"{amount}  {report.path.rpartition('/')[2]}")


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "reference": bundle.reference,
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "path": str(bundle.path),
    }


def _describe_plan(plan: Plan) -> dict[str, Any]:
    return {
        "repo": plan.repo,
        "commit": plan.commit,
        "name": plan.name,
        "digest": plan.digest,
        "reference": plan.reference,
        "download_size": plan.download_size,
        "files": [asdict(file) for file in plan.files],
        "passed_over": [asdict(artifact) for artifact in plan.passed_over],
    }


def _show_plan(plan: Plan, output: Output) -> str:
    rows = [[file.path, format_size(file.size), "in the store" if file.is_here else "hub"] for file in plan.files]
    here = f" (in the store: {plan.reference})" if plan.reference else ""
    title = f"{plan.name} {plan.digest.partition(':')[2][:_SHOWN]} of {plan.repo} at {plan.commit[:_SHOWN]}{here}"
    sections = [format_section(output.heading(title), format_table(["FILE", "SIZE", "FROM"], rows, right=["SIZE"]))]
    if plan.passed_over:
        lines = [f"{artifact.folder}: {artifact.reason}" for artifact in plan.passed_over]
        sections.append(format_section(output.heading("passed over"), lines))
    return "\n".join([*sections, f"{format_size(plan.download_size)} to download"])
