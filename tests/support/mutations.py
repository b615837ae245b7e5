"""Hostile graphs: random changes of an IR's XML, each of which leaves well-formed XML."""

from __future__ import annotations

import copy
import random
import xml.etree.ElementTree as ET
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TYPES = (
    "f32", "f16", "f64", "bf16", "i64", "i32", "i8", "u8", "u4", "i4", "u1", "u64", "i16", "boolean", "nf4",
    "f8e4m3", "string", "dynamic", "undefined",
)  # fmt: skip
NUMBERS = (
    "0", "1", "2", "3", "4", "5", "7", "8", "16", "64", "100", "1000", "65536", "-1", "-2", "-3", "-64",
    "4294967296", "2147483647", "2147483648", "-2147483648", "9223372036854775807", "-9223372036854775808",
    "18446744073709551615", "999999999999999999", "1000000000", "0.5", "1e9", "nan", "inf", "-inf", "", " ",
    "x", "0x10", "007", "+1", "?", "...",
)  # fmt: skip
SHAPES = (
    "", "0", "1", "2", "1,1", "2,2", "1,1,1", "1,2,3,4", "1,1,1,1,1", "1,1,1,1,1,1", "1,1,1,1,1,1,1,1,1,1",
    "0,0", "?", "?,?", "?,?,?,?", "...", "1..4", "3,0,2", "1000000,1000000", "-1", "-1,-1", "1,3,8,8", "8",
    "16", "4,4", "2,4",
)  # fmt: skip
WORDS = (
    "true", "false", "numpy", "none", "explicit", "bidirectional", "pdpd", "same_upper", "same_lower", "valid",
    "constant", "edge", "reflect", "symmetric", "max", "min", "sum", "prod", "mean", "value", "index",
    "nearest", "linear", "cubic", "linear_onnx", "bilinear_pillow", "sizes", "scales", "forward", "reverse",
    "floor", "ceil", "ceil_torch", "asymmetric", "half_pixel", "align_corners", "tf_half_pixel_for_nn",
    "sigmoid", "tanh", "relu", "INSIDE_SQRT", "ERF", "TANH", "outside_sqrt",
)  # fmt: skip


def mutate(text: str, pool: Sequence[tuple[str, str, dict[str, str]]], seed: int) -> str:
    """Return a graph with one to four changes; `pool` is type, version and attributes of layers to put in."""
    chance = random.Random(seed)  # noqa: S311
    root = ET.fromstring(text)  # noqa: S314
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        with suppress(ValueError, IndexError):  # an earlier change left nothing to change, or no number
            chance.choice(_CHANGES)(root, pool, chance)
    return '<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode")


def layers_of(text: str) -> list[tuple[str, str, dict[str, str]]]:
    """Return type, version and attributes of each layer of a graph."""
    return [
        (layer.get("type", ""), layer.get("version", ""), dict(data.attrib) if data is not None else {})
        for layer in ET.fromstring(text).iter("layer")  # noqa: S314
        for data in [layer.find("data")]
    ]


def _layers(root: ET.Element) -> list[ET.Element]:
    return list(root.iter("layer"))


def _change_attribute(root: ET.Element, _: object, chance: random.Random) -> None:
    data = [data for data in root.iter("data") if data.attrib]
    if data:
        element = chance.choice(data)
        name = chance.choice(sorted(element.attrib))
        element.set(name, _other(element.attrib[name], name, chance))


def _change_other_attribute(root: ET.Element, _: object, chance: random.Random) -> None:
    """Change an attribute of any kind of element that is no layer's data."""
    named = chance.choice(["port_map/", "edge", "layer", "input", "output", "port", "attribute", "info", "dim"])
    found = [e for e in root.iter(named.strip("/")) if e.attrib]
    mapped = [e for m in ("port_map", "then_port_map", "else_port_map", "back_edges") for p in root.iter(m) for e in p]
    if mapped and chance.random() < 0.5:
        found = mapped
    if found:
        element = chance.choice(found)
        name = chance.choice(sorted(element.attrib))
        element.set(name, _other(element.attrib[name], name, chance))


def _other(text: str, name: str, chance: random.Random) -> str:
    kind = chance.random()
    if "type" in name and kind < 0.8:
        return chance.choice(TYPES)
    if "shape" in name and kind < 0.5:
        return chance.choice(SHAPES)
    items = text.split(",")
    if kind < 0.5 and text:
        at = chance.randrange(len(items))
        items[at] = chance.choice(NUMBERS[:16]) if kind < 0.35 else chance.choice(NUMBERS)
        return ",".join(items)
    if kind < 0.6:
        items.insert(chance.randrange(len(items) + 1), chance.choice(NUMBERS[:8]))
        return ", ".join(items)
    if kind < 0.7:
        items.pop(chance.randrange(len(items)))
        return ", ".join(items)
    if kind < 0.8:
        return chance.choice(NUMBERS)
    return chance.choice(WORDS)


def _drop_attribute(root: ET.Element, _: object, chance: random.Random) -> None:
    element = chance.choice([e for e in root.iter() if e.attrib] or [root])
    element.attrib.pop(chance.choice(sorted(element.attrib)))


def _add_attribute(root: ET.Element, pool: Sequence[tuple[str, str, dict[str, str]]], chance: random.Random) -> None:
    _, _, attributes = chance.choice(pool)
    element = chance.choice(list(root.iter("data")) or [root])
    if attributes:
        name = chance.choice(sorted(attributes))
        element.set(name, _other(attributes[name], name, chance))


def _retype(root: ET.Element, pool: Sequence[tuple[str, str, dict[str, str]]], chance: random.Random) -> None:
    """Make one layer another operation, with the attributes that one has somewhere."""
    layer = chance.choice(_layers(root) or [root])
    kind, version, attributes = chance.choice(pool)
    layer.set("type", kind)
    layer.set("version", version)
    data = layer.find("data")
    if data is None:
        data = ET.Element("data")
        layer.insert(0, data)
    data.attrib.clear()
    data.attrib.update(attributes)
    if not attributes:
        layer.remove(data)


def _respell(root: ET.Element, _: object, chance: random.Random) -> None:
    layer = chance.choice(_layers(root) or [root])
    name = chance.choice(["type", "version"])
    text = layer.get(name, "")
    layer.set(
        name, chance.choice([text.upper(), text.lower(), text + " ", "Constant", "opset1", "opset14", "experimental"])
    )


def _rewire(root: ET.Element, _: object, chance: random.Random) -> None:
    """Let one edge come from elsewhere."""
    edges = [edge for edges in root.iter("edges") for edge in edges]
    if edges:
        edge, other = chance.choice(edges), chance.choice(edges)
        for name in ("from-layer", "from-port"):
            edge.set(name, other.get(name, ""))


def _move_edge(root: ET.Element, _: object, chance: random.Random) -> None:
    edges = [edge for edges in root.iter("edges") for edge in edges]
    if edges:
        edge = chance.choice(edges)
        edge.set(chance.choice(sorted(edge.attrib)), str(chance.randrange(12)))


def _drop_element(root: ET.Element, _: object, chance: random.Random) -> None:
    parent = chance.choice([e for e in root.iter() if len(e)] or [root])
    parent.remove(chance.choice(list(parent)))


def _repeat_element(root: ET.Element, _: object, chance: random.Random) -> None:
    parent = chance.choice([e for e in root.iter() if len(e)] or [root])
    parent.insert(chance.randrange(len(parent) + 1), copy.deepcopy(chance.choice(list(parent))))


def _swap_inputs(root: ET.Element, _: object, chance: random.Random) -> None:
    """Exchange what feeds two inputs of one layer."""
    layer = chance.choice(_layers(root) or [root]).get("id")
    edges = [e for e in root.iter("edge") if e.get("to-layer") == layer and e.get("to-port")]
    if len(edges) > 1:
        first, second = chance.sample(edges, 2)
        a, b = first.get("to-port", ""), second.get("to-port", "")
        first.set("to-port", b)
        second.set("to-port", a)


def _drop_input(root: ET.Element, _: object, chance: random.Random) -> None:
    """Take an input away with its edge, and number the ports anew."""
    found = [layer for layer in root.iterfind("layers/layer") if layer.find("input/port") is not None]
    if found:
        layer = chance.choice(found)
        inputs, outputs = layer.find("input"), layer.findall("output/port")
        assert inputs is not None
        edges, identity, last = root.find("edges"), layer.get("id"), len(inputs) - 1
        inputs.remove(list(inputs)[-1])
        if not len(inputs):
            layer.remove(inputs)
        for edge in list(edges if edges is not None else []):
            if edge.get("to-layer") == identity and edge.get("to-port") == str(last):
                edges.remove(edge)  # type: ignore[union-attr]
            if edge.get("from-layer") == identity:
                edge.set("from-port", str(int(edge.get("from-port", "1")) - 1))
        for port in outputs:
            port.set("id", str(int(port.get("id", "1")) - 1))


def _add_input(root: ET.Element, _: object, chance: random.Random) -> None:
    """Give a layer one more input, from any earlier layer, and number the ports anew."""
    layers = root.findall("layers/layer")
    place = chance.randrange(1, len(layers)) if len(layers) > 1 else 0
    layer, source, edges = layers[place], layers[chance.randrange(max(place, 1))], root.find("edges")
    inputs, given = layer.find("input"), source.find("output/port")
    if inputs is not None and given is not None and edges is not None:
        count, identity = len(inputs), layer.get("id", "")
        ET.SubElement(inputs, "port", id=str(count), precision="FP32")
        for port in layer.findall("output/port"):
            port.set("id", str(int(port.get("id", "0")) + 1))
        for edge in edges:
            if edge.get("from-layer") == identity:
                edge.set("from-port", str(int(edge.get("from-port", "0")) + 1))
        where = {"from-layer": source.get("id", ""), "from-port": given.get("id", "")}
        ET.SubElement(edges, "edge", {**where, "to-layer": identity, "to-port": str(count)})


def _change_constant(root: ET.Element, _: object, chance: random.Random) -> None:
    """Point a constant elsewhere, with another shape or type, and with the size that follows."""
    constants = [layer for layer in _layers(root) if layer.get("type") == "Const" and layer.find("data") is not None]
    if constants:
        data = chance.choice(constants).find("data")
        other = chance.choice(constants).find("data")
        assert data is not None
        assert other is not None
        if chance.random() < 0.5:
            data.attrib.update(other.attrib)
            return
        sizes = {"f32": 4, "i64": 8, "i32": 4, "f16": 2, "u8": 1, "i8": 1, "boolean": 1, "f64": 8}
        if chance.random() < 0.4:
            data.set("element_type", chance.choice(sorted(sizes)))
        count = 1
        shape = chance.choice([s for s in SHAPES if "?" not in s and "." not in s and "-" not in s])
        for axis in filter(None, shape.split(",")):
            count *= int(axis)
        data.set("shape", shape)
        data.set("size", str(count * sizes.get(data.get("element_type", ""), 4)))
        data.set("offset", str((int(other.get("offset", "0") or 0) + chance.choice((0, 0, 8, 16))) // 8 * 8))


def _change_parameter(root: ET.Element, _: object, chance: random.Random) -> None:
    found = [
        layer
        for layer in _layers(root)
        if layer.get("type") in {"Parameter", "ReadValue"} and layer.find("data") is not None
    ]
    if found:
        data = chance.choice(found).find("data")
        assert data is not None
        name = chance.choice(sorted(data.attrib) or ["shape"])
        data.set(name, chance.choice(SHAPES if "shape" in name else TYPES))


_CHANGES: Sequence[Callable[[ET.Element, Sequence[tuple[str, str, dict[str, str]]], random.Random], None]] = (
    *(_change_attribute,) * 5,
    *(_change_constant,) * 3,
    *(_rewire,) * 3,
    *(_retype,) * 3,
    *(_change_parameter,) * 2,
    *(_swap_inputs,) * 2,
    *(_drop_input,) * 2,
    *(_add_input,) * 2,
    _change_other_attribute, _drop_attribute, _add_attribute, _respell, _move_edge, _drop_element, _repeat_element,
)  # fmt: skip
