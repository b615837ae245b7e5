"""The verbs `diff`, which compares two bundles, and `history`, which compares the versions of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import (
    REFERENCE,
    add_config,
    add_load_options,
    add_verb,
    parse_pairs,
    read_load_options,
)
from npu_persist.cli.output import Heading, format_size, join_blocks, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.bundle.field_changes import FieldChange
    from npu_persist.bundle.tensor_changes import TensorChange
    from npu_persist.cli.output import Output
    from npu_persist.runtime.diff import DiffResult
    from npu_persist.store.history import HistoryEntry

EXIT_DIFFERENT = 1
EXIT_TROUBLE = 2
"""Of `diff`, as of diff(1), in place of the 1 of other verbs."""

_LIMIT = 20
"""Tensors that are shown without `--all`."""

_LONGEST = 48
"""Characters of a field's value that are shown."""

_SHOWN_DIGITS = len("blake3:") + 12


def add_verbs(verbs: Any) -> None:
    """Add them."""
    add_diff(verbs)
    parser = add_verb(verbs, "history", run_history, "show the versions of a bundle, and what changed in each")
    parser.add_argument("name", metavar="NAME", help="the bundle's name, for example unet")


def add_diff(verbs: Any) -> None:
    """Add `diff`."""
    parser = add_verb(
        verbs,
        "diff",
        run_diff,
        "show what differs between two bundles: call, shapes, precision, size, metadata; tensors; B's results on a "
        "device for A's golden inputs; exit code 1 if anything differs, 2 or more on failure",
    )
    parser.add_argument("first", metavar="A", help=REFERENCE)
    parser.add_argument("second", metavar="B", help="the bundle to compare it with")
    parser.add_argument("--device", default="AUTO", help="device to run B on: NPU, GPU, CPU, AUTO (default: AUTO)")
    parser.add_argument("--no-run", action="store_true", help="compare only the files; run nothing")
    parser.add_argument("--all", action="store_true", help=f"all tensors that differ, not the first {_LIMIT}")
    add_config(parser)
    add_load_options(parser)
    parser.set_defaults(exit_failed=EXIT_TROUBLE)


def run_diff(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist diff A B`."""
    result = npu_persist.diff(
        arguments.first,
        arguments.second,
        None if arguments.no_run else arguments.device,
        config=parse_pairs("--config", arguments.config),
        progress=output.progress,
        **read_load_options(arguments),
    )
    limit = len(result.tensors) if arguments.all else _LIMIT
    output.show(result.to_dict(), lambda: _diff_text(result, limit))
    if result.drift.skipped is not None and not (arguments.no_run or result.is_same):
        output.note(f"results were not compared: {result.drift.skipped}")
    return 0 if result.is_same else EXIT_DIFFERENT


def _diff_text(result: DiffResult, limit: int) -> list[str]:
    columns = [result.first, result.second]
    if result.is_same:
        same = f"{result.same_tensors} tensors, {result.same_fields} fields"
        return [f"{result.first} and {result.second} are the same: {same}"]
    calls = [one for one in result.fields if _is_call(one.before) or _is_call(one.after)]
    warnings = [one for one in result.fields if one.field == "warnings"]
    rows = [[one.field, *_values(one)] for one in result.fields if one not in calls + warnings]
    blocks = [
        _count("fields", len(result.fields), result.same_fields),
        table(["FIELD", *columns], rows),
        [line for one in calls for line in _call_lines(one, columns)],
        [line for one in warnings for line in _warning_lines(one, columns)],
        _count("tensors", len(result.tensors), result.same_tensors),
        table(["TENSOR", "CHANGE", *columns], [*map(_tensor_row, result.tensors[:limit])], right=["CHANGE"]),
    ]
    if len(result.tensors) > limit:
        blocks[-1].append(f"and {len(result.tensors) - limit} more; --all shows them")
    if result.drift.skipped is None:
        blocks.append(_drift_lines(result))
    return join_blocks(blocks)


def _drift_lines(result: DiffResult) -> list[str]:
    drift, numbers = result.drift, ["MAX ABSOLUTE", "MAX RELATIVE", "COSINE"]
    rows = [[one.output, f"{one.max_abs:.3g}", f"{one.max_relative:.3g}", f"{one.cosine:.7g}"] for one in drift.outputs]
    where = ", ".join(drift.devices) or "an unnamed device"
    return [
        Heading(
            f"results of {result.second} on {where} for the golden inputs of {result.first}, compared with torch's"
        ),
        *table(["OUTPUT", *numbers], rows, right=numbers),
        *(f"{name}: {result.second} has no such output" for name in drift.missing),
    ]


def _count(what: str, different: int, same: int) -> list[str]:
    return [Heading(f"{different} {what} differ, {same} do not")]


def _values(change: FieldChange) -> list[str]:
    if change.field == "size":
        return [format_size(change.before), format_size(change.after)]
    return [_show(change.before), _show(change.after)]


def _show(value: Any) -> str:
    """Return a field's value for people: a file by its size and digest, and nothing longer than a line."""
    if value is None:
        return "-"
    if isinstance(value, dict) and value.keys() == {"size", "digest"}:
        return f"{format_size(value['size'])} {value['digest'][:_SHOWN_DIGITS]}"
    if isinstance(value, dict):
        text = ", ".join(f"{name}={json.dumps(part)}" for name, part in value.items())
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"text", "signature"}


def _call_lines(change: FieldChange, columns: Sequence[str]) -> list[str]:
    texts = [call["text"] if _is_call(call) else "-" for call in (change.before, change.after)]
    lines = [f"{change.field} of {one}: {text}" for one, text in zip(columns, texts, strict=True)]
    return lines if texts[0] != texts[1] else [lines[0], "the other differs in text not shown here: see --json"]


def _warning_lines(change: FieldChange, columns: Sequence[str]) -> list[str]:
    sides = (change.before, change.after), (change.after, change.before)
    return [
        f"only {reference} warns: {text}"
        for reference, (own, other) in zip(columns, sides, strict=True)
        for text in own
        if text not in other
    ]


def _tensor_row(tensor: TensorChange) -> list[str]:
    shown = tensor.kind if tensor.change is None else f"{tensor.change:.3g}"
    return [tensor.name, shown, tensor.before or "-", tensor.after or "-"]


def run_history(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist history NAME`."""
    entries = npu_persist.history(arguments.name, store=arguments.store)
    output.show(entries, lambda: _history_text(entries))
    output.note(
        f"{format_size(sum(entry.added for entry in entries))} on disk; files shared by versions are counted once"
    )
    for entry in entries:
        if entry.problem is not None:
            output.warning(f"{entry.reference} is damaged: {entry.problem}")


def _history_text(entries: Sequence[HistoryEntry]) -> list[str]:
    numbers = ["SIZE", "ADDED", "LOSS"]
    rows = [
        [
            entry.reference,
            entry.created.astimezone().strftime("%Y-%m-%d %H:%M"),
            format_size(entry.size),
            format_size(entry.added),
            "-" if entry.loss is None else f"{entry.loss:.3g}",
            entry.precision or "?",
            entry.changed or "?",
            ", ".join(entry.aliases),
        ]
        for entry in entries
    ]
    metrics = [
        [entry.reference, one.name, f"{one.torch:.6g}", f"{one.model:.6g}"]
        for entry in entries
        for one in entry.metrics
    ]
    blocks = [table(["REFERENCE", "CREATED", *numbers, "PRECISION", "CHANGED", "ALIASES"], rows, right=numbers)]
    if metrics:
        blocks.append(table(["REFERENCE", "METRIC", "TORCH", "MODEL"], metrics, right=["TORCH", "MODEL"]))
    return join_blocks(blocks)
