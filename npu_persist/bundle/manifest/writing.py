"""From the manifest's parts to a JSON document: the inverse of `reading`.

The promise: what `reading` made of a document comes out as that document again.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.manifest import parts

if TYPE_CHECKING:
    from collections.abc import Mapping


def graph_document(graph: parts.Graph) -> dict[str, Any]:
    """Return a graph's JSON object."""
    document: dict[str, Any] = {
        "name": graph.name,
        "path": graph.path,
        "precision": graph.precision,
        "conversion": graph.conversion,
        "inputs": [port_document(port) for port in graph.inputs],
        "outputs": [port_document(port) for port in graph.outputs],
        "signature": _signature_document(graph.signature),
    }
    if graph.buckets is not None:
        document["buckets"] = {
            "shapes": [{name: list(shape) for name, shape in one.items()} for one in graph.buckets.shapes],
            "padding": {
                name: {"value": float(one.value), "side": one.side} for name, one in graph.buckets.padding.items()
            },
        }
    return document


def port_document(port: parts.Port) -> dict[str, Any]:
    """Return the JSON object of an input or output."""
    shape = [asdict(axis) if isinstance(axis, parts.Dimension) else axis for axis in port.shape]
    return {"name": port.name, "dtype": port.dtype, "shape": shape}


def golden_document(golden: parts.Golden) -> dict[str, Any]:
    """Return the golden sample's JSON object."""
    tolerance, differences = golden.tolerance, golden.differences
    return {
        "path": golden.path,
        "tolerance": None
        if tolerance is None
        else {"max_relative": float(tolerance.max_relative), "cosine": float(tolerance.cosine)},
        "differences": None if differences is None else [_difference_document(entry) for entry in differences],
    }


def files_document(files: Mapping[str, parts.FileEntry]) -> dict[str, Any]:
    """Return the JSON object of sizes and digests."""
    return {path: asdict(entry) for path, entry in files.items()}


def tree_document(tree: parts.Tree) -> dict[str, Any]:
    """Return a structure's JSON object."""
    match tree:
        case parts.TensorNode(index):
            return {"tensor": index}
        case parts.ValueNode(float() as value) if not math.isfinite(value):
            return {"float": str(float(value))}
        case parts.ValueNode(value):
            return {"value": value}
        case parts.OpaqueNode(text):
            return {"opaque": text}
        case parts.ListNode(items):
            return {"list": [tree_document(item) for item in items]}
        case parts.TupleNode(items):
            return {"tuple": [tree_document(item) for item in items]}
        case parts.DictNode(pairs):
            return {"dict": [[key, tree_document(item)] for key, item in pairs]}
        case parts.NamedTupleNode(type_name, fields):
            return {"namedtuple": {"type": type_name, "fields": _fields_document(fields)}}
        case parts.RecordNode(type_name, fields):
            return {"record": {"type": type_name, "fields": _fields_document(fields)}}


def _fields_document(fields: tuple[tuple[str, parts.Tree], ...]) -> list[Any]:
    return [[name, tree_document(item)] for name, item in fields]


def _signature_document(signature: parts.Signature) -> dict[str, Any]:
    return {
        "parameters": [
            {
                "name": parameter.name,
                "kind": parameter.kind,
                "default": None if parameter.default is None else tree_document(parameter.default),
            }
            for parameter in signature.parameters
        ],
        "arguments": _fields_document(signature.arguments),
        "result": tree_document(signature.result),
    }


def _difference_document(difference: parts.Difference) -> dict[str, Any]:
    return {
        "output": difference.output,
        "max_abs": float(difference.max_abs),
        "max_relative": float(difference.max_relative),
        "cosine": float(difference.cosine),
    }
