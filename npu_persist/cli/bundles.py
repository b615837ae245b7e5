"""The verbs for the bundles of a store: list, inspect, path, alias, unalias, verify, remove, prune and export.

All but `export` import neither numpy nor openvino.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import REFERENCE, add_reference, add_verb
from npu_persist.cli.output import (
    format_fields,
    format_seconds,
    format_size,
    format_table,
    join_blocks,
    pick,
    section,
    table,
)
from npu_persist.errors import BundleNotFoundError, IncompatibleError, IntegrityError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.golden_records import Difference, Golden
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.manifest import Manifest
    from npu_persist.cli.output import Output
    from npu_persist.store import StoredBundle

    Verify = Callable[[str], "list[str] | None"]

_LONGEST_VALUE = 60
"""Characters of a metadata value that are shown to people; it may be a whole tokenizer."""

_SHORT_DIGEST = len("blake3:") + 12

_ATTACHED = (
    "target",
    "graph",
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
    "shapes",
)
"""What is shown of an attached artifact."""


def add_verbs(verbs: Any) -> None:
    """Add them."""
    parser = add_verb(verbs, "list", run_list, "list the bundles in the store")
    parser.add_argument("name", metavar="NAME", nargs="?", help="list only the versions of this bundle")
    add_reference(
        add_verb(verbs, "inspect", run_inspect, "show a bundle's signature, shapes, precision and attached artifacts")
    )
    add_reference(add_verb(verbs, "path", run_path, "print the directory of a bundle"))
    add_alias(verbs)
    add_verify(verbs)
    parser = add_verb(verbs, "remove", run_remove, "remove a version from the store")
    add_reference(parser, help="the version: unet:3, unet:prod or unet@<digest prefix>")
    parser.add_argument("--force", action="store_true", help="also remove the aliases that point to it")
    add_verb(verbs, "prune", run_prune, "remove what interrupted runs left behind in the store and the compile cache")
    add_export(verbs)


def run_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist list [NAME]`."""
    store = npu_persist.Store(arguments.store)
    bundles = store.list(arguments.name)
    if not bundles:
        output.note(f"no bundles in {store.home}")
    output.show(
        [{**describe_bundle(bundle, bundle.aliases), "problem": bundle.problem} for bundle in bundles],
        lambda: table(
            ["REFERENCE", "ALIASES", "SIZE", "CREATED", "DIGEST"],
            [
                [
                    bundle.reference,
                    ", ".join(bundle.aliases),
                    format_size(bundle.size),
                    bundle.created.astimezone().strftime("%Y-%m-%d %H:%M"),
                    bundle.digest[:_SHORT_DIGEST],
                ]
                for bundle in bundles
            ],
            right=["SIZE"],
        ),
    )
    for bundle in bundles:
        if bundle.problem is not None:
            output.warning(f"{bundle.reference} is damaged: {bundle.problem}")


def run_inspect(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist inspect REF`."""
    from npu_persist.hub.pulled import resolve_offline

    store = npu_persist.Store(arguments.store)
    bundle = resolve_offline(store, arguments.reference)
    aliases = []
    if bundle.version is not None:
        aliases = [alias for alias, version in store.aliases(bundle.name).items() if version == bundle.version]
    attached = _describe_attached(bundle)
    output.show(
        {**describe_bundle(bundle, aliases), "manifest": read_manifest(bundle), "attached": attached},
        lambda: _inspect_text(bundle, aliases, attached),
    )


def run_path(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist path REF`."""
    from npu_persist.hub.pulled import resolve_offline

    path = resolve_offline(npu_persist.Store(arguments.store), arguments.reference).path
    output.show({"path": path}, str(path))


def add_alias(verbs: Any) -> None:
    """Add `alias` and `unalias`."""
    parser = add_verb(verbs, "alias", run_alias, "point an alias to a version")
    add_reference(parser, help="the version, for example unet:3")
    parser.add_argument("alias", metavar="ALIAS", help="the alias, for example prod")
    parser = add_verb(verbs, "unalias", run_unalias, "remove an alias")
    add_reference(parser, metavar="NAME:ALIAS", help="the alias with its bundle's name, for example unet:prod")


def run_alias(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist alias REF ALIAS`."""
    reference = npu_persist.alias(arguments.reference, arguments.alias, store=arguments.store)
    output.show({"reference": reference, "alias": arguments.alias}, f"{reference} is {arguments.alias}")


def run_unalias(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist unalias NAME:ALIAS`."""
    name, _, alias = arguments.reference.partition(":")
    if not alias:
        raise UsageError(f"expected NAME:ALIAS, such as unet:prod; got {arguments.reference!r}")
    npu_persist.unalias(name, alias, store=arguments.store)
    output.show({"removed": arguments.reference}, f"removed {arguments.reference}")


def add_verify(verbs: Any) -> None:
    """Add `verify`."""
    parser = add_verb(verbs, "verify", run_verify, "compare every byte with the manifest")
    add_reference(parser, nargs="?", help=f"{REFERENCE} (default: every version in the store)")
    signed = parser.add_mutually_exclusive_group()
    signed.add_argument(
        "--signed",
        action="store_true",
        help="also check that a known key signed the manifest and the attached artifacts",
    )
    signed.add_argument(
        "--key", metavar="KEY", help="check that this public key signed them: a file, or the key in hex"
    )


def run_verify(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist verify [REF]`: one bundle, or all in the store, the damaged ones included."""
    from npu_persist.hub.pulled import resolve_offline

    store = npu_persist.Store(arguments.store)

    def verify(reference: str) -> list[str] | None:
        """Return who signed it, where that was asked for."""
        store.verify(reference)
        if not arguments.signed and arguments.key is None:
            return None
        return sorted({signed.signer for signed in npu_persist.verify_signature(reference, arguments.key, store=store)})

    failures: list[IntegrityError | IncompatibleError] = []
    if arguments.reference:
        bundle = resolve_offline(store, arguments.reference)
        results = [_describe_result(bundle.reference, bundle.size, None, verify(bundle.reference))]
    else:
        results, failures = _verify_all(store, verify, output)
    if not results:
        output.note(f"no bundles in {store.home}")
    output.show(results, lambda: _verify_text(results))
    for error in failures:
        output.error(str(error))
    kinds = [kind for kind in (IntegrityError, IncompatibleError) if any(isinstance(error, kind) for error in failures)]
    return kinds[0].exit_code if kinds else 0


def _verify_all(
    store: npu_persist.Store, verify: Verify, output: Output
) -> tuple[list[dict[str, Any]], list[IntegrityError | IncompatibleError]]:
    from npu_persist.bundle.bundle import gone_errors

    results: list[dict[str, Any]] = []
    failures: list[IntegrityError | IncompatibleError] = []
    # Not through `list`, which reads every manifest: a damaged one must be found here.
    for reference in [f"{name}:{version}" for name in store.names() for version in store.versions(name)]:
        size = None
        try:
            bundle = store.resolve(reference)
            size = bundle.size
            store.aliases(bundle.name)
            with gone_errors(bundle):
                signers = verify(reference)
        except BundleNotFoundError:
            output.note(f"{reference} was removed meanwhile")
        except (IntegrityError, IncompatibleError) as error:
            failures.append(error)
            results.append(_describe_result(reference, size, error, None))
        else:
            results.append(_describe_result(reference, size, None, signers))
    return results, failures


def _describe_result(
    reference: str, size: int | None, error: Exception | None, signers: list[str] | None
) -> dict[str, Any]:
    problem = None if error is None else str(error)
    return {"reference": reference, "ok": error is None, "size": size, "problem": problem, "signers": signers}


def _verify_text(results: Sequence[dict[str, Any]]) -> list[str]:
    def describe(result: dict[str, Any]) -> str:
        if not result["ok"]:
            return "FAILED"
        return "ok" if result["signers"] is None else f"ok, signed by {', '.join(result['signers'])}"

    rows = [
        [one["reference"], "?" if one["size"] is None else format_size(one["size"]), describe(one)] for one in results
    ]
    return table(["REFERENCE", "SIZE", "RESULT"], rows, right=["SIZE"])


def run_remove(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist remove REF`."""
    removed = npu_persist.remove(arguments.reference, force=arguments.force, store=arguments.store)
    output.show({"removed": removed}, f"removed {removed}")


def run_prune(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist prune`."""
    removed = npu_persist.prune(store=arguments.store)
    output.show({"removed": removed}, lambda: [f"removed {path}" for path in removed] or ["nothing to prune"])


def add_export(verbs: Any) -> None:
    """Add `export`."""
    parser = add_verb(verbs, "export", run_export, "write a bundle as a folder for OpenVINO's own tools")
    add_reference(parser)
    parser.add_argument("directory", metavar="DIR", help="the folder to create")
    parser.add_argument(
        "--layout",
        choices=["openvino", "ovms", "genai"],
        default="openvino",
        help="openvino: model.xml and model.bin; ovms: the same in DIR/1, for OpenVINO Model Server; genai: "
        "openvino_model.xml and .bin, for a part of an OpenVINO GenAI pipeline (default: openvino)",
    )
    parser.add_argument("--graph", metavar="NAME", help="one of the bundle's graphs, where there are several")
    parser.add_argument(
        "--link",
        action="store_true",
        help="hard-link the files instead of copying them: saves space, but changing one of them, as root can, "
        "changes the bundle in the store and every version that shares the file",
    )


def run_export(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist export REF --layout LAYOUT DIR`."""
    files = npu_persist.export(
        arguments.reference,
        arguments.layout,
        arguments.directory,
        graph=arguments.graph,
        link=arguments.link,
        store=arguments.store,
    )
    output.show({"layout": arguments.layout, "files": files}, lambda: list(map(str, files)))


def describe_bundle(bundle: Bundle | StoredBundle, aliases: Sequence[str]) -> dict[str, Any]:
    """Return a bundle's fields as `--json` shows them."""
    return {
        **pick(bundle, "reference", "name", "version"),
        "aliases": aliases,
        **pick(bundle, "digest", "size"),
        "created": bundle.created.isoformat(timespec="seconds"),
        "path": bundle.path,
    }


def read_manifest(bundle: Bundle) -> Any:
    """Return the manifest as it is in its file."""
    import json

    return json.loads(bundle.manifest.to_json())


def head_lines(bundle: Bundle, aliases: Sequence[str]) -> list[str]:
    """Return what a bundle is and where, one field a line."""
    manifest, producer = bundle.manifest, bundle.manifest.producer
    fields = {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "size": f"{format_size(bundle.size)} in {len(manifest.files) + 1} files",
        "created": bundle.created.astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        "aliases": ", ".join(aliases),
        "made by": f"npu_persist {producer.npu_persist}, openvino {producer.openvino}"
        + (f", torch {producer.torch}" if producer.torch else ""),
        "metadata": ", ".join(f"{key}={_shorten(value)}" for key, value in manifest.metadata.items()),
    }
    return format_fields({name: value for name, value in fields.items() if value})


def _shorten(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value)
    shown = " ".join(text.split())
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}... ({format_size(len(text.encode()))})"


def check_lines(manifest: Manifest) -> list[str]:
    """Return the required and the measured agreement with torch, of each graph."""
    if len(manifest.graphs) == 1:
        return _golden_lines(manifest.golden)
    parts = ([f"graph {graph.name}", *_golden_lines(manifest.golden_of(graph))] for graph in manifest.graphs)
    return join_blocks(parts)


def _golden_lines(golden: Golden | None) -> list[str]:
    if golden is None or golden.tolerance is None or golden.differences is None:
        return ["not checked against torch (persisted with --no-check)"]
    evaluated: list[str] = []
    if golden.evaluation is not None:
        table = _difference_table(golden.evaluation.differences)
        evaluated = ["", f"the worst of {golden.evaluation.calls} other calls:", "", *table]
        if golden.evaluation.metrics:
            rows = [[one.name, f"{one.torch:.6g}", f"{one.model:.6g}"] for one in golden.evaluation.metrics]
            evaluated += ["", *format_table(["METRIC", "TORCH", "MODEL"], rows, right=["TORCH", "MODEL"])]
    return [
        f"required: max relative <= {golden.tolerance.max_relative:g}, cosine >= {golden.tolerance.cosine:g}",
        f"of integers: mismatched <= {golden.tolerance.mismatched:g}",
        "",
        *_difference_table(golden.differences),
        *evaluated,
    ]


def _difference_table(differences: Sequence[Difference]) -> list[str]:
    columns = ["OUTPUT", "MAX ABSOLUTE", "MAX RELATIVE", "COSINE", "MISMATCHED"]
    rows = [
        [
            found.output,
            f"{found.max_abs:.3g}",
            f"{found.max_relative:.3g}",
            f"{found.cosine:.7g}",
            "" if found.mismatched is None else f"{found.mismatched:.3g}",
        ]
        for found in differences
    ]
    return format_table(columns, rows, right=columns[1:])


def _inspect_text(bundle: Bundle, aliases: Sequence[str], attached: Sequence[dict[str, Any]]) -> list[str]:
    manifest = bundle.manifest
    files = [[path, format_size(entry.size), entry.digest] for path, entry in sorted(manifest.files.items())]
    sections = {
        bundle.reference: head_lines(bundle, aliases),
        **{f"graph {graph.name}": _graph_lines(graph) for graph in manifest.graphs},
        "weights": _weights_lines(bundle),
        "check against torch": check_lines(manifest),
        "warnings": list(manifest.warnings),
        "files": format_table(["FILE", "SIZE", "DIGEST"], files, right=["SIZE"]),
        "compiled artifacts": _attached_lines(attached),
    }
    return join_blocks(section(title, lines) for title, lines in sections.items() if lines)


def _weights_lines(bundle: Bundle) -> list[str]:
    """Return how much of the weights is stored as what, where they are compressed."""
    if not any(graph.precision in {"int8", "int4"} for graph in bundle.manifest.graphs):
        return []
    from npu_persist.bundle.tensors import Tensors

    try:
        shares = Tensors(bundle.path / bundle.manifest.weights.path).shares()
    except (OSError, IntegrityError) as error:
        return [f"cannot be read: {error}"]
    rows = [[kind, f"{count:,}", f"{count / max(sum(shares.values()), 1):.1%}"] for kind, count in shares.items()]
    return format_table(["STORED AS", "ELEMENTS", "SHARE"], rows, right=["ELEMENTS", "SHARE"])


def _graph_lines(graph: Graph) -> list[str]:
    """Return how a graph is called, and its ports."""
    from npu_persist.bundle.buckets import describe_shapes
    from npu_persist.bundle.signature import CallPlan, describe_shape
    from npu_persist.bundle.states import describe_state

    buckets = () if graph.buckets is None else graph.buckets.shapes
    padding = {} if graph.buckets is None else graph.buckets.padding
    ports = [("input", port) for port in graph.inputs] + [("output", port) for port in graph.outputs]
    fields = {
        "file": graph.path,
        "weights as": graph.stored_as,
        "captured by": {"trace": "torch.jit.trace", "export": "torch.export"}[graph.conversion],
        "call": str(CallPlan(graph.signature, graph.inputs, graph.outputs)),
        **{f"state {state.name}": describe_state(state) for state in graph.states},
        **{f"bucket {number}": describe_shapes(one) for number, one in enumerate(buckets, 1)},
        **{f"pads {name}": f"with {one.value:g} on the {one.side}" for name, one in padding.items()},
    }
    rows = [[kind, port.name, port.dtype, describe_shape(port.shape)] for kind, port in ports]
    return [*format_fields(fields), "", *format_table(["PORT", "NAME", "DTYPE", "SHAPE"], rows)]


def _describe_attached(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the artifacts that are attached to a bundle, as `--json` shows them; of damaged ones only the problem."""
    from npu_persist.artifact.artifact import Artifact
    from npu_persist.artifact.attached import list_attached

    return [
        {"folder": folder, **pick(found, *_ATTACHED), "problem": None if isinstance(found, Artifact) else str(found)}
        for folder, found in list_attached(bundle)
    ]


def _attached_lines(attached: Sequence[dict[str, Any]]) -> list[str]:
    from npu_persist.bundle.buckets import describe_shapes

    sound = [entry for entry in attached if entry["problem"] is None]
    table = format_table(
        ["FOLDER", "TARGET", "GRAPH", "SIZES", "SIZE", "COMPILER", "TOOK"],
        [
            [
                entry["folder"].name,
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
        about = [f"requires {entry['requirements']}"] if entry["requirements"] else []
        about += [f"compiled with {options}"] if options else []
        lines += [f"{entry['folder'].name}: {'; '.join(about)}"] if about else []
    return [*(table if sound else ()), *lines, *(entry["problem"] for entry in attached if entry["problem"])]
