"""Reads an IR's XML into layers and edges, within limits, without entities and without unknown elements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from npu_persist.bundle.weights import malformed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

MAX_BYTES = 1 << 28
"""An IR's xml may be this many bytes long; its weights are not in it."""
MAX_LAYERS = 100_000
"""Layers of a graph and all of its bodies. Large language models have some thousands; where each of many experts is
traced by itself, some tens of thousands."""
MAX_BODIES = 4
"""Bodies of Ifs and loops inside each other: OpenVINO's passes take several times as long with each, and recurse."""
MAX_RANK = 64
"""Axes of one tensor, at most."""
MAX_TEXT = 16_384
"""Characters of one attribute, at most: OpenVINO matches some with regular expressions that need stack for each."""


@dataclass(slots=True)
class Layer:
    """One `<layer>`, as it is written."""

    position: int
    name: str
    type: str
    version: str
    data: dict[str, str] | None = None
    inputs: list[dict[str, str]] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    bodies: dict[str, Net] = field(default_factory=dict)
    """By the element's name: `body`, `then_body`, `else_body`."""
    maps: dict[str, list[tuple[str, dict[str, str]]]] = field(default_factory=dict)
    """By the element's name: entries of `port_map`, `then_port_map`, `else_port_map`, `back_edges`, with their tag."""


@dataclass(slots=True)
class Net:
    """The graph itself, or the body of an If or a loop."""

    layers: list[Layer] = field(default_factory=list)
    edges: list[dict[str, str]] = field(default_factory=list)


def read_net(graph: Path) -> Net:
    """Read an IR's XML."""
    from xml.parsers import expat

    if (size := graph.stat().st_size) > MAX_BYTES:
        raise malformed(graph, f"at most {MAX_BYTES} bytes", f"{size}")
    reader = _Reader(graph)
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse_document_type
    try:
        with graph.open("rb") as file:
            # Other encodings, which expat tells by their first bytes, would be read by two parsers in two ways.
            if file.read(len(b"<net")) not in {b"<?xm", b"<net"}:
                raise malformed(graph, "well-formed XML", "something else")
            file.seek(0)
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise malformed(graph, "well-formed XML", str(error)) from error
    return reader.net


def _sets(*texts: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(text.split()) for text in texts)


_NONE = _sets("")
_BODIES = ("body", "then_body", "else_body")
_MAPS = ("port_map", "then_port_map", "else_port_map")
_NET = {"layers": _NONE, "edges": _NONE, "rt_info": _NONE}
_MAPPED, _SLICE = "external_port_id internal_layer_id", "axis start end stride part_size"
_MAP = _sets(_MAPPED, f"{_MAPPED} purpose", f"{_MAPPED} {_SLICE}", f"{_MAPPED} {_SLICE} purpose")
_CHILDREN: Mapping[str, Mapping[str, tuple[frozenset[str], ...]]] = {
    "": {"net": _sets("name version")},
    "net": _NET,
    **dict.fromkeys(_BODIES, _NET),
    "layers": {"layer": _sets("id name type version", "id name type version output_names")},
    "layer": {
        "data": (),  # its attributes are the operation's
        **dict.fromkeys(("input", "output", "rt_info", "back_edges", *_MAPS, *_BODIES), _NONE),
    },
    "input": {"port": _sets("id precision")},
    "output": {"port": _sets("id precision", "id precision names")},
    "edges": {"edge": _sets("from-layer from-port to-layer to-port")},
    "rt_info": {"attribute": _sets("name version", "name version value"), "info": _sets("name value")},
    "back_edges": {"edge": _sets("from-layer to-layer")},
    **{name: {"input": _MAP, "output": _MAP} for name in _MAPS},
}
"""What may stand in an element, and the sets of attributes that each of it may have."""
_NOTHING: Mapping[str, tuple[frozenset[str], ...]] = {}
_ATTRIBUTES = frozenset({"decompression", "DisablePrecisionConversion", "dequantization_node", "keep_const_precision"})
"""Runtime attributes of a layer. OpenVINO knows more: one names a range of the weights file, unchecked; others are
parsed with regular expressions."""


_WITH_PARTS = frozenset({"net", "layer", *_BODIES})


class _Reader:
    """Handles expat's events. Most elements are axes, ports and edges: these come first."""

    def __init__(self, graph: Path) -> None:
        self.graph = graph
        self.net = Net()
        self.nets: list[Net] = []
        """The net that is open, and those in whose bodies it is."""
        self.layers: list[Layer] = []
        self.ports: list[dict[str, str]] = []
        self.path = [""]
        self.seen: list[set[str]] = []
        """What was there of the open net or layer, and of those that it is in: OpenVINO reads the first of each."""
        self.count = 0
        self.rank = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        parent = self.path[-1]
        if tag == "dim":  # has no parts: what stands in one, another axis at most, stands in its port
            self.rank += 1
            if parent != "port" or attributes or self.rank > MAX_RANK:
                raise malformed(self.graph, f"at most {MAX_RANK} plain axes, in a port", f"{self.rank} in <{parent}>")
            return
        self.path.append(tag)
        allowed = _CHILDREN.get(parent, _NOTHING).get(tag)
        if allowed is None:
            raise malformed(self.graph, f"elements of an IR in <{parent or 'xml'}>", f"<{tag}>")
        if allowed and attributes.keys() not in allowed:
            raise malformed(self.graph, f"the attributes of <{tag}>", f"{attributes}")
        if tag == "port":
            self.rank = 0
            self.ports.append(attributes)
        elif tag == "edge" and parent == "edges":
            self.nets[-1].edges.append(attributes)
        else:
            self.start_other(parent, tag, attributes)
        if attributes and len("".join(attributes.values())) > MAX_TEXT:
            raise malformed(self.graph, f"texts of at most {MAX_TEXT} characters", f"more in <{tag}>")

    def start_other(self, parent: str, tag: str, attributes: dict[str, str]) -> None:  # noqa: C901 - a dispatch over tags
        if parent in _WITH_PARTS:
            if tag in self.seen[-1]:
                raise malformed(self.graph, f"one <{tag}> in <{parent}>", "two")
            self.seen[-1].add(tag)
        if tag in _WITH_PARTS:
            self.seen.append(set())
        if tag == "input" and parent == "layer":
            self.ports = self.layers[-1].inputs
        elif tag == "output" and parent == "layer":
            self.ports = self.layers[-1].outputs
        elif tag == "data":
            self.layers[-1].data = attributes
        elif tag == "layer":
            self.start_layer(attributes)
        elif tag == "attribute" and attributes["name"] not in _ATTRIBUTES:
            raise malformed(self.graph, f"one of {sorted(_ATTRIBUTES)} in <rt_info>", attributes["name"])
        elif parent in _MAPS or parent == "back_edges":
            self.path[-1] = "mapped"  # not the <input> with a layer's ports
            self.layers[-1].maps.setdefault(parent, []).append((tag, attributes))
        elif tag == "net":
            self.nets.append(self.net)
        elif tag in _BODIES:
            if len(self.nets) > MAX_BODIES:
                raise malformed(self.graph, f"at most {MAX_BODIES} bodies inside each other", "more")
            self.nets.append(Net())
            self.layers[-1].bodies[tag] = self.nets[-1]

    def start_layer(self, attributes: dict[str, str]) -> None:
        self.count += 1
        if self.count > MAX_LAYERS:
            raise malformed(self.graph, f"at most {MAX_LAYERS} layers", "more")
        layers = self.nets[-1].layers
        if attributes["id"] != str(len(layers)):
            raise malformed(self.graph, f"layer {len(layers)} of {attributes['name']!r} in its place", attributes["id"])
        layers.append(Layer(len(layers), attributes["name"], attributes["type"], attributes["version"]))
        self.layers.append(layers[-1])

    def end(self, tag: str) -> None:
        if tag == "dim":
            return
        self.path.pop()
        if tag in _WITH_PARTS:
            self.seen.pop()
            if tag == "layer":
                self.layers.pop()
            else:
                self.nets.pop()

    def refuse_document_type(self, *_: Any) -> None:
        raise malformed(self.graph, "an IR without a document type", "<!DOCTYPE>")
