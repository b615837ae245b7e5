"""The rules for a graph's layers, edges and bodies, beyond well-formed XML."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from npu_persist.bundle.graph.operations import find_operation
from npu_persist.bundle.weights import malformed

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.graph.reader import Layer, Net
    from npu_persist.errors import GraphIntegrityError

BIT_SIZES = {
    "boolean": 8, "u8": 8, "i8": 8, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8, "u16": 16, "i16": 16, "f16": 16,
    "u32": 32, "i32": 32, "f32": 32, "u64": 64, "i64": 64, "f64": 64, "u1": 1, "u2": 2, "u4": 4, "i4": 4, "nf4": 4,
    "f4e2m1": 4,
}  # fmt: skip
"""Bits of one element, by OpenVINO's name of the type."""

_PORT_TYPES = frozenset(
    {"BOOL", "U1", "U2", "U4", "U8", "U16", "U32", "U64", "I4", "I8", "I16", "I32", "I64", "FP16", "FP32", "FP64"}
    | {"NF4", "F4E2M1", "F8E4M3", "F8E5M2", "F8E8M0", "UNSPECIFIED", "DYNAMIC", "dynamic"}
)
_INTEGER = re.compile("-?[0-9]{1,18}", re.ASCII)
_BODIES = {
    "If": {"then_body": "then_port_map", "else_body": "else_port_map"},
    "Loop": {"body": "port_map"},
    "TensorIterator": {"body": "port_map"},
}
"""Types with bodies: for each body, the element that maps ports of the layer to Parameters and Results of the body."""
_AXES = frozenset({("CumSum", 1), ("Gather", 2), ("ScatterElementsUpdate", 3), ("ScatterUpdate", 3)})
"""Inputs that are an axis: OpenVINO reads the first element of a constant there as it reads the graph."""
_PURPOSES = {"input": "current_iteration", "output": "execution_condition"}
"""What a Loop may map to no port of its own."""


class Rules:
    """Checks a graph and its bodies. An error names the layer and the rule."""

    def __init__(self, graph: Path, data_start: int, file_size: int) -> None:
        self.graph = graph
        self.data_start = data_start
        self.file_size = file_size

    def check(self, net: Net, *, is_body: bool = False) -> None:
        """Check the layers and edges of a graph or a body."""
        for layer in net.layers:
            self._check_layer(layer)
        self._check_edges(net)
        self._check_variables(net, is_body=is_body)

    def _bad(self, layer: Layer, expected: str, got: str) -> GraphIntegrityError:
        return malformed(self.graph, f"{expected} in layer {layer.position}, {layer.type} {layer.name[:100]!r}", got)

    def _check_layer(self, layer: Layer) -> None:  # noqa: C901 - one rule after the other
        operation = find_operation(layer.type, layer.version)
        if operation is None:
            raise self._bad(layer, "an operation that persist writes", f"{layer.type} of {layer.version}")
        formats, data = operation.attributes, layer.data or {}
        if data.keys() != formats.keys():
            raise self._bad(layer, f"the attributes {sorted(formats)}", f"{sorted(data)}")
        for name, text in data.items():
            if not formats[name](text):
                raise self._bad(layer, f"a value of {name} that persist writes", repr(text))
        inputs, outputs = len(layer.inputs), len(layer.outputs)
        if inputs not in operation.inputs or outputs not in operation.outputs:
            expected = f"{_show(operation.inputs)} inputs and {_show(operation.outputs)} outputs"
            raise self._bad(layer, expected, f"{inputs} and {outputs}")
        for number, port in enumerate((*layer.inputs, *layer.outputs)):
            if port["id"] != str(number) or port["precision"] not in _PORT_TYPES:
                raise self._bad(layer, f"port {number}, of a known type", f"{port}")
        if layer.type == "Const":
            self._check_constant(layer, data)
        if layer.type in _BODIES:
            self._check_bodies(layer)
        elif layer.bodies or layer.maps:
            raise self._bad(layer, "no body", "one")

    def _check_constant(self, layer: Layer, data: dict[str, str]) -> None:
        """Check that a constant lies in the weights file, aligned, and is as large as its shape."""
        bits = BIT_SIZES[data["element_type"]]
        axes = data["shape"].split(",") if data["shape"] else ()
        offset, size = int(data["offset"]), int(data["size"])
        if not self.data_start <= offset <= offset + size <= self.file_size:
            expected = f"data between byte {self.data_start} and byte {self.file_size} of the weights file"
            raise self._bad(layer, expected, f"{size} bytes at {offset}")
        if (math.prod(map(int, axes)) * bits + 7) // 8 != size or offset * 8 % max(bits, 8):
            raise self._bad(layer, "data that is aligned and as large as its shape", f"{data}")

    def _check_edges(self, net: Net) -> None:
        """Check that each input has one edge, from an output of an earlier layer: so there is no circle."""
        layers = net.layers
        fed: list[set[int]] = [set() for _ in layers]
        numbers = {str(number): number for number in range(max(len(layers), _most_ports(net)))}
        for edge in net.edges:
            source, begin, target, end = [numbers.get(edge[name], -1) for name in _EDGE]
            if not 0 <= source < target < len(layers):
                raise malformed(self.graph, "edges from a layer to a later one", f"{edge}")
            given, taking = layers[source], layers[target]
            inputs = len(given.inputs)
            if not (inputs <= begin < inputs + len(given.outputs) and 0 <= end < len(taking.inputs)):
                raise malformed(self.graph, "edges between ports that are there", f"{edge}")
            fed[target].add(end)
            if (taking.type, end) in _AXES and given.type == "Const" and (given.data or {})["size"] == "0":
                raise self._bad(taking, "an axis", "none")
        if len(net.edges) != sum(len(layer.inputs) for layer in layers):
            raise malformed(self.graph, "one edge into each input", f"{len(net.edges)} edges")
        for layer, ports in zip(layers, fed, strict=True):
            if len(ports) != len(layer.inputs):
                raise self._bad(layer, "one edge into each input", f"edges into {sorted(ports)}")

    def _check_variables(self, net: Net, *, is_body: bool) -> None:
        """Check that each variable is read once and assigned once, in the graph itself."""
        found: dict[str, list[str]] = {"ReadValue": [], "Assign": []}
        for layer in net.layers:
            if layer.type in found:
                if is_body:
                    raise self._bad(layer, "no variables in bodies", "one")
                found[layer.type].append((layer.data or {})["variable_id"])
        read, assigned = (sorted(names) for names in found.values())
        if read != assigned or len(set(read)) != len(read):
            raise malformed(self.graph, "variables that are read once and assigned once", f"{read} and {assigned}")

    def _check_bodies(self, layer: Layer) -> None:
        wanted = _BODIES[layer.type]
        if layer.bodies.keys() != wanted.keys() or not layer.maps.keys() <= {*wanted.values(), "back_edges"}:
            raise self._bad(layer, f"{' and '.join(wanted)}", f"{sorted(layer.bodies)} and {sorted(layer.maps)}")
        for name, mapping in wanted.items():
            body, entries = layer.bodies[name], layer.maps.get(mapping, [])
            self.check(body, is_body=True)
            self._check_map(layer, body, entries)
        if layer.type == "If" and layer.maps.get("back_edges"):
            raise self._bad(layer, "no back edges", "some")

    def _check_map(self, layer: Layer, body: Net, entries: list[tuple[str, dict[str, str]]]) -> None:  # noqa: C901 - one rule after the other
        """Check that every Parameter of a body and every output of its layer is mapped, once, and by what."""
        inputs = {port["id"] for port in layer.inputs}
        outputs = {port["id"] for port in layer.outputs}
        parameters, results = _find(body, "Parameter"), _find(body, "Result")
        mapped: list[str] = []
        given: list[str] = []
        merged: list[str] = []
        purposes: list[str] = []
        for tag, entry in entries:
            outer, inner = entry["external_port_id"], entry["internal_layer_id"]
            purpose = entry.get("purpose")
            is_special = layer.type == "Loop" and purpose == _PURPOSES[tag]
            if (purpose is not None and not is_special) or (outer == "-1") > is_special:
                raise self._bad(layer, "a port map without other purposes", f"{entry}")
            if is_special:
                purposes.append(str(purpose))
            elif (tag == "input" and layer.type == "If" and outer == "0") or (
                outer not in (inputs if tag == "input" else outputs)
            ):
                raise self._bad(layer, "a port map of ports that are there", f"{entry}")
            if inner not in (parameters if tag == "input" else results):
                raise self._bad(layer, "a port map to Parameters and Results of the body", f"{entry}")
            if "axis" in entry:
                self._check_slice(layer, entry)
            if tag == "input":
                mapped.append(inner)
                if "axis" not in entry and not is_special:
                    merged.append(inner)
            elif outer != "-1":
                given.append(outer)
        if sorted(mapped) != sorted(parameters) or sorted(given) != sorted(outputs):
            raise self._bad(layer, "each Parameter of the body and each output mapped once", f"{mapped} and {given}")
        if layer.type == "Loop" and (purposes.count("execution_condition") != 1 or len(purposes) > 2):  # noqa: PLR2004
            raise self._bad(layer, "one condition and at most one count of iterations", f"{purposes}")
        targets = [edge["to-layer"] for _, edge in layer.maps.get("back_edges", [])]
        sources = {edge["from-layer"] for _, edge in layer.maps.get("back_edges", [])}
        if not (len(set(targets)) == len(targets) and set(targets) <= set(merged) and sources <= set(results)):
            raise self._bad(layer, "back edges from Results to Parameters that are not sliced", f"{sources}, {targets}")

    def _check_slice(self, layer: Layer, entry: dict[str, str]) -> None:
        numbers = [entry[name] for name in ("axis", "start", "end", "stride", "part_size")]
        if layer.type == "If" or not all(map(_INTEGER.fullmatch, numbers)):
            raise self._bad(layer, "a slice in whole numbers", f"{entry}")
        axis, _, _, stride, size = map(int, numbers)
        if not -64 <= axis < 64 or stride == 0 or size < 1:  # noqa: PLR2004
            raise self._bad(layer, "a slice with an axis, a stride and a size", f"{entry}")


_EDGE = ("from-layer", "from-port", "to-layer", "to-port")


def _most_ports(net: Net) -> int:
    return max((len(layer.inputs) + len(layer.outputs) for layer in net.layers), default=0)


def _find(body: Net, kind: str) -> dict[str, Layer]:
    return {str(layer.position): layer for layer in body.layers if layer.type == kind}


def _show(numbers: range) -> str:
    low, high = numbers.start, numbers.stop - 1
    return f"{low}" if low == high else f"{low} to {high}"
