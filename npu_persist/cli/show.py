"""The verbs that only look: `list`, `inspect`, `path`.

The promise: they read manifests, the store's folders and, `inspect`, what describes attached artifacts; they change
nothing and import neither numpy nor openvino.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli import describe
from npu_persist.cli.output import format_section
from npu_persist.hub.pulled import resolve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.cli.output import Output
    from npu_persist.store import StoredBundle


def run_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist list [NAME]`."""
    store = npu_persist.Store(arguments.store)
    entries = store.list(arguments.name)
    if not entries:
        output.note(f"no bundles in {store.home}")
    output.show(
        [{**describe.describe_bundle(entry, entry.aliases), "problem": entry.problem} for entry in entries],
        lambda: _list_text(entries, output),
    )
    for entry in entries:
        if entry.problem is not None:
            output.warning(f"{entry.reference} is damaged: {entry.problem}")


def run_inspect(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist inspect REF`."""
    store = npu_persist.Store(arguments.store)
    bundle = resolve(store, arguments.reference)
    aliases = find_aliases(store, bundle)
    attached = describe.describe_attached(bundle)
    data = {
        **describe.describe_bundle(bundle, aliases),
        "manifest": describe.describe_manifest(bundle),
        "attached": attached,
    }
    output.show(data, lambda: _inspect_text(bundle, aliases, attached, output))


def run_path(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist path REF`."""
    bundle = resolve(npu_persist.Store(arguments.store), arguments.reference)
    output.show({"path": str(bundle.path)}, str(bundle.path))


def find_aliases(store: npu_persist.Store, bundle: Bundle) -> list[str]:
    """Return the aliases of a bundle; a bundle outside of the store has none."""
    if bundle.version is None:
        return []
    return [alias for alias, version in store.aliases(bundle.name).items() if version == bundle.version]


def _list_text(entries: Sequence[StoredBundle], output: Output) -> str:
    if not entries:
        return ""
    header, *rows = describe.list_lines((entry, entry.aliases) for entry in entries)
    return "\n".join([output.heading(header), *rows])


def _inspect_text(bundle: Bundle, aliases: list[str], attached: list[dict[str, Any]], output: Output) -> str:
    manifest = bundle.manifest
    sections = {bundle.reference: describe.head_lines(bundle, aliases)}
    for graph in manifest.graphs:
        sections[f"graph {graph.name}"] = describe.graph_lines(graph)
    sections["check against torch"] = describe.check_lines(manifest.golden)
    if manifest.warnings:
        sections["warnings"] = list(manifest.warnings)
    sections["files"] = describe.file_lines(bundle)
    if attached:
        sections["compiled artifacts"] = describe.attached_lines(attached)
    return "\n\n".join(format_section(output.heading(title), lines) for title, lines in sections.items())
