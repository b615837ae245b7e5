"""The verbs `push` and `pull`: bundles to and from a repository on the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import add_reference, add_verb
from npu_persist.cli.output import format_size, format_table, pick, section

if TYPE_CHECKING:
    import argparse

    from npu_persist.cli.output import Output
    from npu_persist.hub.plan import PullPlan
    from npu_persist.hub.push import PushResult

_SHOWN_DIGITS = 12
"""Digits of a commit or digest that people are shown."""


def add_verbs(verbs: Any) -> None:
    """Add them."""
    add_push(verbs)
    add_pull(verbs)


def add_push(verbs: Any) -> None:
    """Add `push`."""
    parser = add_verb(verbs, "push", run_push, "send a bundle to a repository on the hub, in one commit")
    add_reference(parser)
    parser.add_argument("repo_id", metavar="REPO", help="the repository, for example org/unet; created if missing")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch; created if missing (default: main)")
    parser.add_argument("--tag", help="tag for the commit (default: v3 for version 3)")
    parser.add_argument("--commit-message", help="commit message (default: the bundle and its digest)")
    parser.add_argument("--private", action="store_const", const=True, help="make a new repository private")
    parser.add_argument(
        "--create-pr", action="store_true", help="open a pull request instead of committing to the branch"
    )
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="do not upload attached artifacts")


def run_push(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist push REF REPO`."""
    pushed = npu_persist.push(
        arguments.reference,
        arguments.repo_id,
        revision=arguments.revision,
        tag=arguments.tag,
        commit_message=arguments.commit_message,
        private=arguments.private,
        create_pr=arguments.create_pr,
        compiled=arguments.compiled,
        store=arguments.store,
        progress=output.progress,
    )
    output.show(pushed, lambda: _push_text(pushed))


def _push_text(pushed: PushResult) -> list[str]:
    tagged = f", tagged {pushed.tag}" if pushed.tag else ""
    sizes = f"{format_size(pushed.uploaded_bytes)}sent, {format_size(pushed.skipped_bytes)} already there"
    return [f"{pushed.repo_id} at {pushed.commit[:_SHOWN_DIGITS]}{tagged}: {sizes}", pushed.url]


def add_pull(verbs: Any) -> None:
    """Add `pull`."""
    parser = add_verb(verbs, "pull", run_pull, "download a bundle from a repository on the hub into the store")
    parser.add_argument("repo_id", metavar="REPO", help="org/unet, hf://org/unet@v3 or hf://org/unet@v3#<digest>")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (default: the default branch)")
    artifacts = parser.add_mutually_exclusive_group()
    artifacts.add_argument(
        "--device", metavar="D", help="download the artifacts for this device (default: for any device of this machine)"
    )
    artifacts.add_argument(
        "--target", metavar="T", help="download the artifacts for another machine, for example NPU:4000"
    )
    artifacts.add_argument("--all", dest="compiled", action="store_const", const="all", help="download all artifacts")
    artifacts.add_argument(
        "--no-compiled", dest="compiled", action="store_const", const="none", help="download no artifacts"
    )
    parser.set_defaults(compiled="fitting")
    parser.add_argument(
        "--alias", help="point this alias to the version, unless it points to a version from another origin"
    )
    parser.add_argument("--name", help="publish it under this name (default: the name in its manifest)")
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="add it to its name, and move the alias, even if these belong to versions from another origin",
    )
    parser.add_argument(
        "--allow-older", action="store_true", help="accept a bundle that was signed earlier than one in the store"
    )
    parser.add_argument(
        "--require-signature", action="store_true", help="refuse a bundle if no known key signed its manifest"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be downloaded, and change nothing")


def run_pull(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist pull REPO`."""
    pulled = npu_persist.pull(
        arguments.repo_id,
        revision=arguments.revision,
        device=arguments.device,
        target=arguments.target,
        compiled=arguments.compiled,
        alias=arguments.alias,
        name=arguments.name,
        adopt=arguments.adopt,
        allow_older=arguments.allow_older,
        require_signature=arguments.require_signature,
        store=arguments.store,
        dry_run=arguments.dry_run,
        progress=output.progress,
    )
    if isinstance(pulled, npu_persist.Bundle):
        fields = pick(pulled, "reference", "name", "version", "digest", "path")
        output.show(fields, f"{pulled.reference}  {pulled.digest}  {pulled.path}")
        return
    plan = pulled
    fields = pick(plan, "repo_id", "commit", "name", "digest", "reference", "download_size", "files", "skipped")
    output.show(fields, lambda: _plan_text(plan))


def _plan_text(plan: PullPlan) -> list[str]:
    rows = [[file.path, format_size(file.size), "in the store" if file.is_here else "hub"] for file in plan.files]
    here = f" (in the store: {plan.reference})" if plan.reference else ""
    digest = plan.digest.partition(":")[2][:_SHOWN_DIGITS]
    title = f"{plan.name} {digest} of {plan.repo_id} at {plan.commit[:_SHOWN_DIGITS]}{here}"
    lines = section(title, format_table(["FILE", "SIZE", "FROM"], rows, right=["SIZE"]))
    if plan.skipped:
        lines += section("skipped", [f"{one.folder}: {one.reason}" for one in plan.skipped])
    return [*lines, f"{format_size(plan.download_size)} to download"]
