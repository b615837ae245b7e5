"""The differences between the manifests of two bundles, field by field. No file is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from npu_persist.bundle.document import dump, plain
from npu_persist.bundle.signature import describe_call, describe_port
from npu_persist.bundle.states import describe_state

if TYPE_CHECKING:
    from npu_persist.bundle.golden_records import Golden
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.manifest import Manifest


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the manifest that differs.

    Attributes:
        field: Which: `call`, `inputs.x`, `precision`, `size`, `files.model.xml`, `golden.tolerance`, `metadata.epoch`,
            `warnings`, `producer.openvino`; where there are several graphs, `graphs.main.call`.
        before: What it is in the first bundle, as JSON; None if it is not there.
        after: The same in the second bundle.
    """

    field: str
    before: Any
    after: Any


def compare_fields(first: Manifest, second: Manifest) -> tuple[tuple[FieldChange, ...], int]:
    """Return the fields that differ, and how many do not. The name is none: a bundle is the same under another."""
    is_single = len(first.graphs) == len(second.graphs) == 1
    old, new = (dict(_list_fields(manifest, is_single=is_single)) for manifest in (first, second))
    names = dict.fromkeys((*old, *new))
    changes = tuple(
        FieldChange(field=name, before=old.get(name), after=new.get(name))
        for name in names
        if name not in old or name not in new or _text(old[name]) != _text(new[name])
    )
    return changes, len(names) - len(changes)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # 1 and true are equal to Python


def has_same_graphs(first: Manifest, second: Manifest) -> bool:
    """Tell whether two bundles have the same graph files, called in the same way."""
    return first.graphs == second.graphs and all(
        first.files[graph.path].digest == second.files[graph.path].digest for graph in first.graphs
    )


def has_same_weights(first: Manifest, second: Manifest) -> bool:
    """Tell whether two bundles have the same weights file."""
    return first.files[first.weights.path].digest == second.files[second.weights.path].digest


def has_same_content(first: Manifest, second: Manifest) -> bool:
    """Tell whether two bundles of one name are the same for their users.

    Left out are the versions of npu_persist and torch, which made them, and the differences from torch, which depend on
    the machine that measured them. That of OpenVINO counts: it says which OpenVINO may read the graph.
    """
    return _content(first) == _content(second)


def _content(manifest: Manifest) -> bytes:
    golden = None if manifest.golden is None else _without_measures(manifest.golden)
    goldens = {name: _without_measures(one) for name, one in manifest.goldens.items()}
    producer = replace(manifest.producer, npu_persist="", torch=None)
    return dump(plain(replace(manifest, golden=golden, goldens=goldens, producer=producer)))


def _without_measures(golden: Golden) -> Golden:
    return golden if golden.differences is None else replace(golden, differences=())


def _list_fields(manifest: Manifest, *, is_single: bool) -> dict[str, Any]:
    """Return all that a manifest says but the name."""
    document = plain(manifest)
    del document["name"], document["graphs"]
    fields: dict[str, Any] = {}
    for graph in manifest.graphs:
        at = "" if is_single else f"graphs.{graph.name}."
        fields |= {f"{at}{name}": value for name, value in _list_graph_fields(graph).items()}
    fields["size"] = sum(entry.size for entry in manifest.files.values())
    fields |= _list_golden_fields("", document.pop("golden"))
    for name, golden in document.pop("goldens", {}).items():
        fields |= _list_golden_fields(f"graphs.{name}.", golden)
    for name, value in document.items():
        members = value if isinstance(value, dict) else None
        fields |= {name: value} if members is None else {f"{name}.{key}": member for key, member in members.items()}
    return fields


def _list_golden_fields(at: str, golden: dict[str, Any] | None) -> dict[str, Any]:
    golden = golden or {}
    measured = golden.pop("differences", None) or ()
    evaluation = golden.pop("evaluation", None) or {}
    fields = {f"{at}golden.{name}": value for name, value in golden.items() if value is not None}
    fields |= {f"{at}golden.measured.{numbers.pop('output')}": numbers for numbers in measured}
    if evaluation:
        fields[f"{at}evaluation.calls"] = evaluation["calls"]
        fields |= {f"{at}evaluation.{numbers.pop('output')}": numbers for numbers in evaluation["differences"]}
        fields |= {f"{at}metrics.{one.pop('name')}": one for one in evaluation.get("metrics", ())}
    return fields


def _list_graph_fields(graph: Graph) -> dict[str, Any]:
    fields = plain(graph)
    text = describe_call(graph.signature, graph.inputs, graph.outputs)
    call = {"text": text, "signature": fields.pop("signature")}
    buckets = fields.pop("buckets", None) or {}
    found: dict[str, Any] = {"call": call, "graph": fields.pop("name")}
    fields.pop("states", None)
    found |= {f"states.{state.name}": f"{describe_state(state)}, at first {state.initial}" for state in graph.states}
    for kind, ports in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        fields[kind] = [port.name for port in ports]  # their order
        for port in ports:
            allowed = "" if port.bounds is None else f", {port.bounds.low} to {port.bounds.below or port.bounds.high}"
            found[f"{kind}.{port.name}"] = f"{describe_port(port)}{allowed}"
    return {**found, **fields, **{f"buckets.{name}": value for name, value in buckets.items()}}
