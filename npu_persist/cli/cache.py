"""The verbs of the compile cache: `cache list`, `verify`, `prune`, `export`, `import`.

The promise: they read descriptions and change what they are asked to; nothing is compiled, and only `import` asks
OpenVINO what this machine is. Damage is shown, and told by the exit code.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.bundle.buckets import describe_shapes
from npu_persist.cache import CompileCache
from npu_persist.cache.amounts import parse_age, parse_size
from npu_persist.cli.errors import find_advice
from npu_persist.cli.output import format_size, format_table
from npu_persist.errors import NotFoundError, NpuPersistError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.cache import Entry
    from npu_persist.cli.output import Output

_SHOWN_DIGITS = 12


def run_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache list`."""
    cache = _open(arguments)
    owners = _owners(arguments)
    entries = [_describe(entry, owners) for entry in sorted(cache.entries(), key=lambda entry: entry.last_used)]
    output.show(entries, lambda: _list_text(entries, output))
    total = format_size(sum(entry["size"] for entry in entries))
    output.note(f"{total} of {format_size(cache.quota)} in {cache.path}")
    for entry in entries:
        if entry["problem"] is not None:
            output.warning(f"{entry['path']} is damaged: {entry['problem']}")
    _warn_of_strangers(cache, output)


def run_verify(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist cache verify`."""
    cache = _open(arguments)
    results: list[dict[str, Any]] = []
    failures: list[NpuPersistError] = []
    for entry, error in cache.verify():
        results.append(
            {"key": entry.key, "bundle": entry.reference, "ok": error is None, "problem": error and str(error)}
        )
        if error is not None:
            failures.append(error)
            if arguments.repair:
                cache.put_aside(entry, str(error))
    output.show(results, lambda: _verify_text(results, output))
    for error in failures:
        output.error(str(error), None if arguments.repair else find_advice(error))
    if failures and arguments.repair:
        output.note("damaged entries were put aside; `npu-persist cache prune` removes them")
    _warn_of_strangers(cache, output)
    return max((error.exit_code for error in failures), default=0)


def run_prune(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache prune`."""
    max_size = None if arguments.max_size is None else parse_size(arguments.max_size, "--max-size")
    older_than = None if arguments.older_than is None else parse_age(arguments.older_than, "--older-than")
    removed = _open(arguments).prune(max_size=max_size, older_than=older_than, device=arguments.device)
    data = [
        {"path": str(one.path), "bundle": one.reference, "device": one.device, "size": one.size, "reason": one.reason}
        for one in removed
    ]
    lines = [
        f"removed {one.path.name}: {one.reference or '?'}, {_plain(one.device)}, {format_size(one.size)}, {one.reason}"
        for one in removed
    ]
    output.show({"removed": data}, "\n".join(lines) or "nothing to prune")


def run_export(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache export KEY|REF DIR`."""
    cache = _open(arguments)
    entry = _choose(cache, arguments)
    directory = Path(os.path.abspath(arguments.directory))  # noqa: PTH100 (resolve() would follow links)
    cache.export(entry, directory)
    output.show({"key": entry.key, "path": str(directory)}, f"{entry.key} is in {directory}")


def run_import(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist cache import DIR`."""
    entry = _open(arguments).import_entry(Path(arguments.directory))
    foreign = [] if entry.artifact is None else _differences(entry.artifact)
    output.show({"key": entry.key, "path": str(entry.path), "foreign": foreign}, f"{entry.key} is in {entry.path}")
    if foreign:
        output.warning(f"this machine will not use it, for it was compiled elsewhere: {'; '.join(foreign)}")


def _open(arguments: argparse.Namespace) -> CompileCache:
    return CompileCache(npu_persist.Store(arguments.store).home)


def _owners(arguments: argparse.Namespace) -> Mapping[str, Sequence[str]]:
    """Return the references of the store's bundles by digest."""
    owners: dict[str, list[str]] = {}
    for bundle in npu_persist.Store(arguments.store).list():
        owners.setdefault(bundle.digest, []).append(bundle.reference)
    return owners


def _choose(cache: CompileCache, arguments: argparse.Namespace) -> Entry:
    """Return the entry that is meant, by the start of its key or by the bundle that it was compiled from."""
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
    choices = ", ".join(f"{key[:_SHOWN_DIGITS]} ({_plain(device)})" for key, (_, device) in found.items())
    raise UsageError(f"{len(found)} entries were compiled from {arguments.entry}: {choices}. Give the key of one")


def _differences(artifact: Artifact) -> list[str]:
    """Say in what this machine differs from the one that an artifact was compiled on."""
    from npu_persist.device.core import get_core, get_version
    from npu_persist.device.devices import identify

    here = {"OpenVINO": get_version(), **identify(get_core(), artifact.device)}
    there = {"OpenVINO": artifact.openvino, **artifact.identity}
    return [
        f"{name} is {_plain(there.get(name))} there and {_plain(here.get(name))} here"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]


def _describe(entry: Entry, owners: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    artifact = entry.artifact
    names = ("bundle", "graph", "shapes", "device", "openvino", "kind", "weightless", "seconds")
    about: dict[str, Any] = dict.fromkeys(names)
    if artifact is not None:
        about = {name: getattr(artifact, name) for name in about if name != "bundle"}
        about |= {
            "bundle": entry.reference,
            "properties": dict(artifact.properties),
            "identity": dict(artifact.identity),
        }
    return {
        "key": entry.key,
        **about,
        "references": list(owners.get(artifact.subject, ())) if artifact is not None else [],
        "size": entry.size,
        "last_used": entry.last_used.isoformat(timespec="seconds"),
        "in_use": entry.in_use,
        "problem": entry.problem,
        "path": str(entry.path),
    }


def _subject(entry: Mapping[str, Any]) -> str:
    """Return what was compiled: the bundle, and the bucket if it is one."""
    bundle = ", ".join(entry["references"]) or entry["bundle"] or "?"
    return f"{bundle} {_plain(describe_shapes(entry['shapes']))}" if entry["shapes"] else bundle


def _list_text(entries: Sequence[Mapping[str, Any]], output: Output) -> str:
    if not entries:
        return ""
    header, *rows = format_table(
        ["KEY", "BUNDLE", "DEVICE", "SIZE", "LAST USED", "IN USE"],
        [
            [
                entry["key"][:_SHOWN_DIGITS],
                _subject(entry),
                _plain(entry["device"]),
                format_size(entry["size"]),
                datetime.fromisoformat(entry["last_used"]).astimezone().strftime("%Y-%m-%d %H:%M"),
                "yes" if entry["in_use"] else "",
            ]
            for entry in entries
        ],
        right=["SIZE"],
    )
    return "\n".join([output.heading(header), *rows])


def _verify_text(results: Sequence[Mapping[str, Any]], output: Output) -> str:
    if not results:
        return ""
    header, *rows = format_table(
        ["KEY", "BUNDLE", "RESULT"],
        [
            [result["key"][:_SHOWN_DIGITS], result["bundle"] or "?", "ok" if result["ok"] else "FAILED"]
            for result in results
        ],
    )
    return "\n".join([output.heading(header), *rows])


def _warn_of_strangers(cache: CompileCache, output: Output) -> None:
    for path in cache.strangers():
        output.warning(f"{path} is not of the compile cache, and left alone")


def _plain(text: str | None) -> str:
    """Return a text of a description without what would steer a terminal: an imported one can hold anything."""
    if text is None:
        return "?"
    return text if text.isprintable() else repr(text)
