"""What the command line says about a bundle: the fields of `--json`, and the lines for people.

The promise: only the manifest, the store and what describes attached artifacts are looked at; no array is read and
openvino is not imported.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from npu_persist.cli.output import format_fields, format_seconds, format_size, format_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Protocol

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.manifest import Golden, Graph

    class Described(Protocol):
        """What a bundle and a store's entry for one have in common."""

        @property
        def reference(self) -> str:
            """What to call it."""

        @property
        def name(self) -> str:
            """Its name."""

        @property
        def version(self) -> int | None:
            """Its version in the store."""

        @property
        def digest(self) -> str:
            """The digest of its manifest."""

        @property
        def size(self) -> int:
            """Its size in bytes."""

        @property
        def created(self) -> datetime:
            """When it was persisted, in UTC."""

        @property
        def path(self) -> Path:
            """Its directory."""


_LONGEST_VALUE = 60
"""Characters of a metadata value that are shown to people; a whole tokenizer can be in there."""

_SHORT_DIGEST = len("blake3:") + 12

_ATTACHED = (
    "target",
    "graph",
    "shapes",
    "size",
    "weightless",
    "toolchain",
    "compiler",
    "openvino",
    "requirements",
    "properties",
    "seconds",
    "peak_memory",
    "key",
)
"""What is shown of an attached artifact."""


def describe_bundle(bundle: Described, aliases: Sequence[str]) -> dict[str, Any]:
    """Return a bundle's fields as `--json` shows them."""
    return {
        "reference": bundle.reference,
        "name": bundle.name,
        "version": bundle.version,
        "aliases": list(aliases),
        "digest": bundle.digest,
        "size": bundle.size,
        "created": bundle.created.isoformat(timespec="seconds"),
        "path": str(bundle.path),
    }


def describe_manifest(bundle: Bundle) -> Any:
    """Return the manifest as it stands in its file."""
    return json.loads(bundle.manifest.to_json())


def list_lines(rows: Iterable[tuple[Described, Sequence[str]]]) -> list[str]:
    """Return the table of `list`: one line a bundle."""
    return format_table(
        ["REFERENCE", "ALIASES", "SIZE", "CREATED", "DIGEST"],
        [
            [
                bundle.reference,
                ", ".join(aliases),
                format_size(bundle.size),
                bundle.created.astimezone().strftime("%Y-%m-%d %H:%M"),
                bundle.digest[:_SHORT_DIGEST],
            ]
            for bundle, aliases in rows
        ],
        right=["SIZE"],
    )


def head_lines(bundle: Bundle, aliases: Sequence[str]) -> list[str]:
    """Return what a bundle is and where, one field a line."""
    manifest = bundle.manifest
    fields = {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "size": f"{format_size(bundle.size)} in {len(manifest.files) + 1} files",
        "created": bundle.created.astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        "aliases": ", ".join(aliases),
        "made by": f"npu_persist {manifest.producer.npu_persist}, openvino {manifest.producer.openvino}"
        + (f", torch {manifest.producer.torch}" if manifest.producer.torch else ""),
        "metadata": ", ".join(f"{key}={_plain(value)}" for key, value in manifest.metadata.items()),
    }
    return format_fields({name: value for name, value in fields.items() if value})


def graph_lines(graph: Graph) -> list[str]:
    """Return how a graph is called, and its ports."""
    from npu_persist.bundle.buckets import describe_shapes
    from npu_persist.bundle.signature import CallPlan, describe_shape

    buckets = () if graph.buckets is None else graph.buckets.shapes
    padding = {} if graph.buckets is None else graph.buckets.padding
    ports = [("input", port) for port in graph.inputs] + [("output", port) for port in graph.outputs]
    return [
        *format_fields(
            {
                "file": graph.path,
                "weights as": graph.precision,
                "captured by": {"trace": "torch.jit.trace", "export": "torch.export"}[graph.conversion],
                "call": str(CallPlan(graph.signature, graph.inputs, graph.outputs)),
                **{f"bucket {number}": describe_shapes(one) for number, one in enumerate(buckets, 1)},
                **{f"fills {name}": f"with {one.value:g} on the {one.side}" for name, one in padding.items()},
            }
        ),
        "",
        *format_table(
            ["PORT", "NAME", "DTYPE", "SHAPE"],
            [[kind, port.name, port.dtype, describe_shape(port.shape)] for kind, port in ports],
        ),
    ]


def check_lines(golden: Golden | None) -> list[str]:
    """Return what the check against torch demanded and measured."""
    if golden is None or golden.tolerance is None or golden.differences is None:
        return ["not checked against torch (persisted with --no-check)"]
    return [
        f"demanded: max relative <= {golden.tolerance.max_relative:g}, cosine >= {golden.tolerance.cosine:g}",
        "",
        *format_table(
            ["OUTPUT", "MAX ABSOLUTE", "MAX RELATIVE", "COSINE"],
            [
                [found.output, f"{found.max_abs:.3g}", f"{found.max_relative:.3g}", f"{found.cosine:.7g}"]
                for found in golden.differences
            ],
            right=["MAX ABSOLUTE", "MAX RELATIVE", "COSINE"],
        ),
    ]


def file_lines(bundle: Bundle) -> list[str]:
    """Return the table of the files that the manifest names."""
    return format_table(
        ["FILE", "SIZE", "DIGEST"],
        [[path, format_size(entry.size), entry.digest] for path, entry in sorted(bundle.manifest.files.items())],
        right=["SIZE"],
    )


def describe_attached(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the artifacts that are attached to a bundle, as `--json` shows them; of damaged ones only the problem."""
    from npu_persist.artifact.artifact import Artifact
    from npu_persist.artifact.attached import list_attached

    described = []
    for folder, found in list_attached(bundle):
        artifact = found if isinstance(found, Artifact) else None
        fields = {name: getattr(artifact, name, None) for name in _ATTACHED}
        shapes = fields["shapes"] and {name: list(shape) for name, shape in fields["shapes"].items()}
        properties = None if artifact is None else dict(artifact.properties)
        problem = None if artifact is not None else str(found)
        described.append({
            "folder": str(folder), **fields, "shapes": shapes, "properties": properties, "problem": problem,
        })  # fmt: skip
    return described


def attached_lines(attached: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what `describe_attached` gave."""
    from npu_persist.bundle.buckets import describe_shapes

    sound = [entry for entry in attached if entry["problem"] is None]
    table = format_table(
        ["FOLDER", "TARGET", "GRAPH", "SIZES", "SIZE", "COMPILER", "TOOK"],
        [
            [
                PurePath(entry["folder"]).name,
                entry["target"],
                entry["graph"],
                describe_shapes(entry["shapes"]) if entry["shapes"] else "-",
                format_size(entry["size"]) + (" weightless" if entry["weightless"] else ""),
                f"{entry['toolchain']} {(entry['compiler'] or '').partition('-')[0]}".rstrip(),  # without its build
                format_seconds(entry["seconds"]),
            ]
            for entry in sound
        ],
        right=["TOOK"],
    )
    lines = []
    for entry in sound:
        options = ", ".join(f"{name}={value}" for name, value in entry["properties"].items())
        said = [f"requires {entry['requirements']}"] if entry["requirements"] else []
        said += [f"compiled with {options}"] if options else []
        lines += [f"{PurePath(entry['folder']).name}: {'; '.join(said)}"] if said else []
    return [*(table if sound else ()), *lines, *(entry["problem"] for entry in attached if entry["problem"])]


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    shown = " ".join(text.split())
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}... ({format_size(len(text.encode()))})"
