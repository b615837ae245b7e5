"""The verb `cache` and its subcommands.

Nothing is compiled; only `import` asks OpenVINO about this machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import REFERENCE, add_group, add_verb
from npu_persist.cli.output import format_size, pick, table
from npu_persist.errors import NotFoundError, NpuPersistError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.cache import CacheEntry, CompileCache
    from npu_persist.cli.output import Output

_SHOWN_DIGITS = 12


def add_verbs(verbs: Any) -> None:
    """Add them."""
    verbs = add_group(verbs, "cache", "manage this machine's compile cache; all of it can be removed at any time")
    add_verb(verbs, "list", run_list, "list the entries: bundle, device, size, last use")
    parser = add_verb(verbs, "verify", run_verify, "compare every byte with its digest")
    parser.add_argument("--repair", action="store_true", help="quarantine damaged entries; they are compiled again")
    add_prune(verbs)
    parser = add_verb(verbs, "export", run_export, "copy an entry to a folder, for an identical machine")
    parser.add_argument("entry", metavar="KEY|REF", help=f"the first digits of a key, or {REFERENCE}")
    parser.add_argument("directory", metavar="DIR", help="the folder to create")
    parser = add_verb(
        verbs,
        "import",
        run_import,
        "add an exported entry; it is code that runs on a device: import only what you trust",
    )
    parser.add_argument("directory", metavar="DIR", help="a folder that `cache export` wrote")


def run_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache list`."""
    cache = _open_cache(arguments)
    references: dict[str, list[str]] = {}
    for bundle in npu_persist.Store(arguments.store).list():
        references.setdefault(bundle.digest, []).append(bundle.reference)
    entries = [_describe(entry, references) for entry in sorted(cache.entries(), key=lambda entry: entry.last_used)]
    output.show(entries, lambda: _list_text(entries))
    total = format_size(sum(entry["size"] for entry in entries))
    output.note(f"{total} of {format_size(cache.quota)} in {cache.path}")
    for entry in entries:
        if entry["problem"] is not None:
            output.warning(f"{entry['path']} is damaged: {entry['problem']}")
    _warn_of_what_is_wrong(cache, output)


def _describe(entry: CacheEntry, references: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    artifact = entry.artifact
    return {
        "key": entry.key,
        **pick(artifact, "graph", "shapes", "device", "openvino", "kind", "weightless", "seconds"),
        "bundle": entry.reference if artifact is not None else None,
        **({} if artifact is None else pick(artifact, "properties", "identity")),
        "references": references.get(artifact.subject, ()) if artifact is not None else (),
        "size": entry.size,
        "last_used": entry.last_used.isoformat(timespec="seconds"),
        **pick(entry, "in_use", "problem", "path"),
    }


def _list_text(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    from datetime import datetime

    from npu_persist.bundle.buckets import describe_shapes

    rows = []
    for entry in entries:
        bundle = ", ".join(entry["references"]) or entry["bundle"] or "?"
        rows.append([
            entry["key"][:_SHOWN_DIGITS],
            f"{bundle} {describe_shapes(entry['shapes'])}" if entry["shapes"] else bundle,
            entry["device"] or "?",
            format_size(entry["size"]),
            datetime.fromisoformat(entry["last_used"]).astimezone().strftime("%Y-%m-%d %H:%M"),
            "yes" if entry["in_use"] else "",
        ])  # fmt: skip
    return table(["KEY", "BUNDLE", "DEVICE", "SIZE", "LAST USED", "IN USE"], rows, right=["SIZE"])


def run_verify(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist cache verify`."""
    cache = _open_cache(arguments)
    results: list[dict[str, Any]] = []
    failures: list[NpuPersistError] = []
    for entry, error in cache.verify():
        problem = None if error is None else str(error)
        results.append({"key": entry.key, "bundle": entry.reference, "ok": error is None, "problem": problem})
        if error is not None:
            failures.append(error)
            if arguments.repair:
                cache.quarantine(entry, str(error))
    rows = [[one["key"][:_SHOWN_DIGITS], one["bundle"] or "?", "ok" if one["ok"] else "FAILED"] for one in results]
    output.show(results, lambda: table(["KEY", "BUNDLE", "RESULT"], rows))
    for error in failures:
        output.error(str(error))
    if failures and arguments.repair:
        output.note("damaged entries were quarantined; `npu-persist cache prune` removes them")
    elif failures:
        output.note("`npu-persist cache verify --repair` quarantines damaged entries; they are compiled again")
    _warn_of_what_is_wrong(cache, output)
    return max((error.exit_code for error in failures), default=0)


def add_prune(verbs: Any) -> None:
    """Add `cache prune`."""
    parser = add_verb(verbs, "prune", run_prune, "remove entries that are not in use, the least recently used first")
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        help="reduce the cache to this size, for example 5GB; 0 removes all (default: NPU_PERSIST_CACHE_QUOTA)",
    )
    parser.add_argument(
        "--older-than", metavar="AGE", help="remove entries not used for this time, for example 30d or 12h"
    )
    parser.add_argument(
        "--device", help="only remove entries for this device, for example NPU (without other options: all of them)"
    )


def run_prune(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache prune`."""
    from npu_persist.cache.amounts import parse_age, parse_size

    max_size = None if arguments.max_size is None else parse_size(arguments.max_size, "--max-size")
    older_than = None if arguments.older_than is None else parse_age(arguments.older_than, "--older-than")
    removed = _open_cache(arguments).prune(max_size=max_size, older_than=older_than, device=arguments.device)
    lines = [
        f"removed {one.path.name}: {one.reference or '?'}, {one.device or '?'}, {format_size(one.size)}, {one.reason}"
        for one in removed
    ]
    data = [{"bundle": one.reference, **pick(one, "path", "device", "size", "reason")} for one in removed]
    output.show({"removed": data}, lambda: lines or ["nothing to prune"])


def run_export(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache export KEY|REF DIR`."""
    from pathlib import Path

    cache = _open_cache(arguments)
    entry = _find_entry(cache, arguments)
    directory = Path(os.path.abspath(arguments.directory))  # noqa: PTH100 (resolve() would follow links)
    cache.export(entry, directory)
    output.show({"key": entry.key, "path": directory}, f"{entry.key} is in {directory}")


def _find_entry(cache: CompileCache, arguments: argparse.Namespace) -> CacheEntry:
    """Return the entry with this start of its key, or the one that was compiled from this bundle."""
    try:
        return cache.lookup(arguments.entry)
    except NotFoundError as no_key:
        try:
            subject = npu_persist.open(arguments.entry, store=arguments.store).digest
        except NpuPersistError as error:
            raise no_key from error
    found = {
        entry.key: (entry, entry.artifact.device)
        for entry in cache.entries()
        if entry.artifact is not None and entry.artifact.subject == subject
    }
    if len(found) == 1:
        return next(iter(found.values()))[0]
    if not found:
        raise NotFoundError(
            f"nothing in {cache.path} was compiled from {arguments.entry}: load it on a device first. "
            "`npu-persist cache list` shows what is there"
        )
    choices = ", ".join(f"{key[:_SHOWN_DIGITS]} ({device})" for key, (_, device) in found.items())
    raise UsageError(f"{len(found)} entries were compiled from {arguments.entry}: {choices}. Give the key of one")


def run_import(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache import DIR`."""
    from pathlib import Path

    entry = _open_cache(arguments).import_entry(Path(arguments.directory))
    foreign = [] if entry.artifact is None else _find_differences(entry.artifact)
    output.show({**pick(entry, "key", "path"), "foreign": foreign}, f"{entry.key} is in {entry.path}")
    if foreign:
        output.warning(f"this machine will not use it; it was compiled elsewhere: {'; '.join(foreign)}")


def _find_differences(artifact: Artifact) -> list[str]:
    """Return how this machine differs from the one that an artifact was compiled on."""
    from npu_persist.device.core import get_core, get_version
    from npu_persist.device.devices import identify

    here = {"OpenVINO": get_version(), **identify(get_core(), artifact.device)}
    there = {"OpenVINO": artifact.openvino, **artifact.identity}
    return [
        f"{name} is {there.get(name, '?')} there and {here.get(name, '?')} here"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]


def _open_cache(arguments: argparse.Namespace) -> CompileCache:
    return npu_persist.CompileCache(npu_persist.Store(arguments.store).home)


def _warn_of_what_is_wrong(cache: CompileCache, output: Output) -> None:
    if distrust := cache.find_distrust():
        output.warning(f"`load` does not use this cache: {distrust}")
    for path in cache.unknown_files():
        output.warning(f"{path} does not belong to the compile cache; not removed")
